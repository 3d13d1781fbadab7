"""Checks before anything may move, without a device: limits and workspaces of the files, topics as they were heard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding, refusal
from dex_rl_nodes.records import ARM_JOINTS, ArmState
from dex_rl_nodes.robot.arm_state import ArmMode, mode_name, problem
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.limits import ArmLimits, read_limits
from dex_rl_nodes.robot.teleop import read_teleop

_SHOULDER = np.array([0.0, 0.0, 0.333])  # m, base frame
_REACH = 0.855  # m, of an FR3
_HAND_CURRENT = 1.0  # A; what a motor of a hand takes at most, where nothing else is said
_OLDEST = 0.2  # s; the age at which a reading is of no use
_TICKS = 2  # readings that a control tick needs at least


def check_limits(robot: Robot, tasks: list[Task], motor_current: float = _HAND_CURRENT) -> Iterator[Finding]:
    """Whether the limits of a robot, and the workspaces of tasks under them, make sense.

    Args:
        robot: whose limits.
        tasks: whose workspaces.
        motor_current: what a motor of its hand draws at most (A).
    """
    file = f'config/robots/{robot.name}.yaml'
    try:
        limits = read_limits(robot)
        read_teleop(robot)
    except UserError as error:
        yield refusal('limits', error)
        return
    arm, hand = limits.arm, limits.hand
    lowest = arm.table_height + arm.table_clearance
    text = f'TCP {arm.translation_velocity:g} m/s, {lowest:.3f} m or more above the base; hand {hand.current:g} A'
    yield Finding('good', 'limits', text)
    advised = ArmLimits()
    pairs = zip(arm.joint_low, arm.joint_high, advised.joint_low, advised.joint_high)
    for index, (low, high, low_advised, high_advised) in enumerate(pairs):
        if low < low_advised or high > high_advised:
            text = f'joint {index + 1} from {low} to {high} rad is beyond what older system images of the FR3 allow'
            fix = f'check the version of its system image, or leave out joint_low and joint_high in {file}'
            yield Finding('warning', 'limits', text, fix)
    if hand.current >= motor_current:
        text = f'hand.current {hand.current:g} A never stops it: its motors take {motor_current:g} A at most'
        yield Finding('bad', 'limits', text, f'lower limits.hand.current in {file}')
    for view, camera in robot.cameras.items():
        if camera.rate < robot.control_rate:
            text = f'camera {view} gives {camera.rate:g} frames per second, a tick needs {robot.control_rate:g}'
            yield Finding('bad', 'limits', text, f'raise cameras.{view}.rate or lower control_rate in {file}')
    for task in tasks:
        yield from _check_workspace(task, lowest)


def _check_workspace(task: Task, lowest: float) -> Iterator[Finding]:
    file = f'config/tasks/{task.name}.yaml'
    low, high = np.array(task.workspace_low), np.array(task.workspace_high)
    subject = f'workspace {task.name}'
    if np.any(low >= high) or high[2] <= lowest:
        yield Finding('bad', subject, 'there is nothing in it, above the table', f'correct workspace_low in {file}')
        return
    start, spread = np.array(task.start.position), np.array(task.start.position_range)
    if np.any(start - spread < low) or np.any(start + spread > high) or start[2] - spread[2] < lowest:
        text = 'an episode may start outside of it or below the table'
        yield Finding('bad', subject, text, f'narrow position_range, or widen the workspace in {file}')
    far = np.maximum(np.abs(low - _SHOULDER), np.abs(high - _SHOULDER))
    if np.linalg.norm(far) > _REACH + 0.1:  # corners may be out of reach, whole sides should not
        text = f'reaches {np.linalg.norm(far):.2f} m from the shoulder, the arm {_REACH} m'
        yield Finding('warning', subject, text, f'narrow workspace_low and workspace_high in {file}')


@dataclass
class TopicSample:
    """What was heard on a topic: messages, ages of their stamps (s), frames, and joints (name to rad) of the last."""

    seconds: float = 0.0
    count: int = 0
    ages: list[float] = field(default_factory=list)
    backwards: int = 0  # stamps not newer than the one before
    frames: set[str] = field(default_factory=set)
    joints: dict[str, float] = field(default_factory=dict)


def check_topic(
    subject: str, sample: TopicSample, rate: float, frames: tuple[str, ...] = (), hint: str = ''
) -> Iterator[Finding]:
    """Whether a topic comes often enough, fresh, in order and in the right frame.

    Args:
        subject: what publishes it.
        sample: what was heard.
        rate: smallest rate (Hz).
        frames: frame ids that mean the right one; empty: any.
        hint: what to do when there is nothing.
    """
    if not sample.count:
        yield Finding('warning', subject, f'nothing heard in {sample.seconds:.0f} s', hint)
        return
    heard = sample.count / max(sample.seconds, 1e-6)
    yield Finding('good', subject, f'{heard:.0f} messages per second')
    if heard < 0.9 * rate:
        text = f'{heard:.1f} messages per second, at least {rate:g} are needed'
        yield Finding('bad', subject, text, 'raise its publish rate; check network and load')
    age = median(sample.ages)  # one late message says nothing
    if not -0.01 <= age <= _OLDEST:
        text = f'stamps are {age:+.2f} s old when they arrive'
        yield Finding('bad', subject, text, 'synchronise the clocks of both machines (chrony)')
    if sample.backwards:
        text = f'{sample.backwards} stamps were not newer than the one before'
        yield Finding('bad', subject, text, 'is it published twice? see ros2 topic info -v')
    if frames and not sample.frames <= set(frames):
        text = f'frame {", ".join(sorted(sample.frames))}, not {" or ".join(frames)}'
        yield Finding('bad', subject, text, 'correct base_frame in config/robots/, or the frame of the publisher')


def check_arm(robot: Robot, pose: TopicSample, joints: TopicSample) -> Iterator[Finding]:
    """The arm as its topics show it: pose and joints."""
    hint = 'start the bring-up of the arm; this is heard only in its ROS_DOMAIN_ID and discovery range'
    rate = _TICKS * robot.control_rate
    yield from check_topic('arm pose', pose, rate, (robot.base_frame, 'fr3_link0'), hint)
    yield from check_topic('arm joints', joints, rate, hint=hint)
    if not joints.count:
        return
    if missing := [name for name in ARM_JOINTS if name not in joints.joints]:
        there = ', '.join(joints.joints) or 'none'
        text = f'joint {missing[0]} is missing; there are {there}'
        yield Finding('bad', 'arm joints', text, 'is this another robot? set arm_prefix empty and robot_type fr3')
        return
    try:
        arm = read_limits(robot).arm
    except UserError:
        return  # said by check_limits
    for index, name in enumerate(ARM_JOINTS):
        position, low, high = joints.joints[name], arm.joint_low[index], arm.joint_high[index]
        if not low + arm.joint_margin <= position <= high - arm.joint_margin:
            text = f'joint {index + 1} is at {position:.3f} rad, outside of {low} to {high} with their margin'
            yield Finding('bad', 'arm joints', text, 'guide the arm back by hand before you start')


def check_mode(state: ArmState, stands_still: bool = False) -> Iterator[Finding]:
    """Whether the arm says that it may be moved; what it says while its clock `stands_still` counts for nothing."""
    found = (SafetyEvent.ARM_STATE_SILENT, '') if stands_still else problem(state)
    if found is None:
        yield Finding('good', 'arm mode', mode_name(state.mode))
        return
    event, detail = found
    _, _, meaning, remedy = event.value
    text = f'{meaning} ({detail})' if detail else meaning
    level = 'warning' if state.mode == ArmMode.IDLE and not state.errors else 'bad'
    yield Finding(level, 'arm mode', text, remedy)


def check_controllers(states: dict[str, str], wanted: str) -> Iterator[Finding]:
    """Whether the controller that follows target_pose is there and active.

    Args:
        states: name to state, as controller_manager lists them.
        wanted: name of the controller.
    """
    state = states.get(wanted)
    if state is None:
        there = ', '.join(sorted(states)) or 'none'
        text = f'{wanted} is not loaded; controllers: {there}'
        yield Finding('bad', 'arm controller', text, f'ros2 run controller_manager spawner {wanted}')
    elif state != 'active':
        text = f'{wanted} is {state}'
        yield Finding('warning', 'arm controller', text, f'ros2 control set_controller_state {wanted} active')
    else:
        yield Finding('good', 'arm controller', f'{wanted} is active')
