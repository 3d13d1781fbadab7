"""Between the episodes of a real robot: error recovery, the way to the start pose, the scene."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from dex_rl_nodes.descriptions import CURRENT_POSE, MEASURED_JOINTS, SERVICES
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.drivers.settings import device_settings, moves_flange
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.franka_arm import FrankaArm
from dex_rl_nodes.nodes.late_service import LateService
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, OK, WARN
from dex_rl_nodes.records import (
    ARM_JOINTS,
    HAND_JOINTS,
    ActionCommand,
    ArmState,
    EpisodeState,
    Mark,
    Phase,
    TeleopCommand,
)
from dex_rl_nodes.robot import arm_state
from dex_rl_nodes.robot.reset_motion import ResetMotion
from dex_rl_nodes.robot.start import draw_start
from dex_rl_nodes.robot.tool import tcp_complaint, tcp_of

_LOOK_PERIOD = 0.02  # s, between two looks at the state of the arm
_REPEAT = 0.1  # s, after which an unchanged state is published again
_FRESH = 0.5  # s; older reports do not count
_FOLLOWED = 3.0  # s, longest time without an answer of command_mux, or a motion that was asked for
_REPORTED = 5.0  # s, longest wait for the reports of arm and hand
_STILL = 1e-6  # m, and parts of a quaternion: a target that has not moved
_ANGLE = 0.1  # rad, and normalised travel below: near enough to the start
_TRAVEL = 0.1
_OWN_STATE = 'robot_state of the arm'


class ArmAdapter(EpisodeNode):
    """Serves reset_scene in stages, one after the other; each has a deadline and a sentence for its failure.

    It moves nothing itself: command_mux follows reset_command while an episode is being prepared.

    Args:
        arm: its state and recovery; the one of franka_ros2 without it.
    """

    def __init__(self, arm: Any = None, **options: Any):
        super().__init__('arm_adapter', **options)
        settings = device_settings(self.robot).arm
        self._of_tcp = tcp_of if moves_flange(self.setting('robot')) else np.asarray
        self._arm = arm or FrankaArm(self, settings.controller)
        self._dry_run = self.setting('dry_run')
        self._state: ArmState | None = None
        self._state_at = self._told_at = 0.0  # s, monotonic
        self._heard: dict[str, tuple[float, np.ndarray]] = {}
        self._stage: Callable[[], None] | None = None
        self._until = 0.0  # s, monotonic, deadline of the stage
        self._episode = -1
        self._begun = False  # the episode of the request is known to be RESETTING
        self._motion: ResetMotion | None = None
        self._target: np.ndarray | None = None  # executed TCP target, once command_mux follows
        self._hand = np.zeros(len(HAND_JOINTS), np.float32)
        self._unanswered: set[int] = set()  # stamps of the commands that command_mux has not followed yet
        self._step = 0
        self._answered_at = self._moved_at = 0.0  # s, monotonic; moved: did what was asked for
        self._asked = False  # the newest command asks for motion of the arm
        self._recovered = False  # in this reset; once is enough
        self._pause, self._paused_at = -1, 0.0  # stamp, and s, monotonic, of the newest pause; a person ends it
        self._scene_until: float | None = None  # s, monotonic, once the wait for the person has begun
        self._ready = False  # a person said that the scene is put back
        self._refused = ''  # why the newest reset has failed; empty when it has not
        self.subscribe('target_pose', self._on_target)
        self.subscribe(CURRENT_POSE, self._on_pose)
        self.subscribe(MEASURED_JOINTS, self._on_joints)
        self.subscribe(HAND_TOPIC, self._on_hand)
        self.subscribe('teleop_command', self._on_teleop)
        self.advertise('reset_command', 'arm_state')
        self.serve('arm_adapter/scene_ready', self._on_scene_ready)
        kind = conversions.interface(SERVICES['reset_scene'])
        replaced = self._refusal('another reset was asked for')
        self._service = LateService(self, kind, 'reset_scene', self._guarded(self._on_request), replaced)
        self.every(1 / self.robot.control_rate, self._cycle)
        if not self._arm.missing:
            self.every(_LOOK_PERIOD, self._look)
        self.follow_episodes()

    # What comes in

    def _on_pose(self, message: PoseStamped) -> None:
        self._heard[CURRENT_POSE] = time.monotonic(), conversions.pose_array(message.pose)

    def _on_joints(self, message: JointState) -> None:
        joints = self.joint_values(MEASURED_JOINTS, message, ARM_JOINTS)
        if joints is not None:
            self._heard[MEASURED_JOINTS] = time.monotonic(), joints

    def _on_hand(self, message: JointState) -> None:
        hand = self.joint_values(HAND_TOPIC, message, HAND_JOINTS)
        if hand is not None:
            self._heard[HAND_TOPIC] = time.monotonic(), hand

    def _on_target(self, message: PoseStamped) -> None:
        # a target with another stamp is no answer: command_mux repeats its targets while it holds
        if conversions.stamp_ns(message.header.stamp) in self._unanswered:
            before, self._target = self._target, self._of_tcp(conversions.pose_array(message.pose))
            self._answered_at = time.monotonic()
            if not self._asked or not np.allclose(before, self._target, atol=_STILL):
                self._moved_at = self._answered_at
            self._unanswered.clear()

    def _on_teleop(self, teleop: TeleopCommand) -> None:
        self._ready |= teleop.mark == Mark.SUCCESS and self._stage == self._wait_for_scene

    def _on_scene_ready(self, _request: Any, response: Any) -> Any:
        response.success = self._stage == self._wait_for_scene
        self._ready |= response.success
        response.message = '' if response.success else 'nobody waits for the scene'
        return response

    def _on_episode(self, episode: EpisodeState) -> None:
        super()._on_episode(episode)
        if episode.phase == Phase.PAUSED and episode.stamp != self._pause:
            self._pause, self._paused_at = episode.stamp, time.monotonic()
        if episode.phase == Phase.RESETTING:
            self._begun |= episode.episode == self._episode
        elif self._begun:
            self._motion, self._begun = None, False  # from now on others move the robot, or nobody
            if self._service.busy:
                self._fail('the reset was called off')

    def _look(self) -> None:
        """Tell the safety supervisor what the arm says about itself."""
        now = time.monotonic()
        try:
            state = self._arm.take(self.get_clock().now().nanoseconds)
        except ValueError as error:
            raise UserError(f'arm_adapter: {error}') from None
        if state is None:
            return
        before, self._state, self._state_at = self._state, state, now
        changed = before is None or (before.mode, before.errors) != (state.mode, state.errors)
        if changed or now - self._told_at >= _REPEAT:
            self._told_at = now
            self.publish('arm_state', state)

    # A reset, stage by stage

    def _on_request(self, request: Any) -> None:
        self._refused = ''
        try:
            goal = draw_start(self.task.start, np.random.default_rng(request.seed))
            self._make_motion = lambda hand: ResetMotion(
                self.robot, self.task, goal, hand, self.setting('speed'), self.setting('clearance')
            )
            self._make_motion(np.zeros(len(HAND_JOINTS)))  # says now what would be wrong with it
        except UserError as error:
            self._fail(str(error))
            return
        self._episode, self._ready, self._scene_until = request.episode, False, None
        self._begun = self.episode.phase == Phase.RESETTING and self.episode.episode == request.episode
        self._motion = self._target = None
        self._asked = self._recovered = False
        self._arm.cancel()
        self._unanswered.clear()
        self._step = 0
        self._enter(self._wait_for_reports, _REPORTED)

    def _enter(self, stage: Callable[[], None], seconds: float) -> None:
        self._stage, self._until = stage, time.monotonic() + seconds

    def _cycle(self) -> None:
        if self._stage is not None:
            self._stage()
        if self._motion is not None:
            self._command()

    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _wait_for_reports(self) -> None:
        silent = self._silent()
        if self._begun and not silent:
            complaint = tcp_complaint(self._heard[CURRENT_POSE][1], self._heard[MEASURED_JOINTS][1])
            if complaint:
                self._fail(f'{complaint}; set the end effector of the arm as docs/hardware.md says')
            else:
                self._prepare_arm()
        elif self._late() and self._begun and _OWN_STATE in silent and not self._dry_run:
            self._recover_silent(' and '.join(silent))
        elif self._late():
            what = f'{" and ".join(silent)} does not report; see the bring-up of arm and hand'
            self._fail(what if silent else f'episode {self._episode} is not announced; see episode_manager')

    def _recover_silent(self, silent: str) -> None:
        """An arm that has stopped itself cannot say so, see franka_arm.py: recover it once a person has looked."""
        if self._paused_at > self._state_at + _FRESH and not self._recovered:
            self._recover(f'{silent} does not report')
            return
        self._fail(
            f'{silent} does not report: the arm stopped itself, its user stop is pressed or its bring-up is gone; '
            'see to it, then end the pause, and the arm is recovered'
        )

    def _prepare_arm(self) -> None:
        complaint = self._complaint()
        if not complaint:
            self._start_motion()
        elif arm_state.recoverable(self._state) and not self._recovered and not self._dry_run:
            self._recover(complaint)
        else:
            self._fail(complaint)

    def _recover(self, why: str) -> None:
        self._recovered = True
        self._enter(self._wait_for_recovery, self.setting('recovery_deadline'))
        self.get_logger().info(f'recovers the arm: {why}')
        self._arm.recover(self._guarded(self._on_recovered))

    def _silent(self, seconds: float = _FRESH) -> list[str]:
        """What has not reported for so long."""
        now = time.monotonic()
        topics = (CURRENT_POSE, MEASURED_JOINTS, HAND_TOPIC)
        silent = [topic for topic in topics if now - self._heard.get(topic, (0.0, 0))[0] > seconds]
        if not self._arm.missing and (self._state is None or now - self._state_at > seconds):
            silent.append(_OWN_STATE)
        return silent

    def _complaint(self) -> str:
        """Why the arm may not be moved; empty when it may, or says nothing about itself."""
        found = arm_state.problem(self._state) if self._state else None
        return found[0].sentence(found[1]) if found else ''

    def _on_recovered(self, problem: str) -> None:
        if self._stage == self._wait_for_recovery and problem:
            self._fail(f'the arm could not be recovered: {problem}; {self._unready()}')

    def _wait_for_recovery(self) -> None:
        if not self._arm.working and not self._unready():
            self._enter(self._wait_for_reports, _REPORTED)
        elif self._late():
            seconds = self.setting('recovery_deadline')
            self._fail(f'the arm was not recovered within {seconds:g} s: {self._unready()}')

    def _unready(self) -> str:
        """What is wrong with arm or hand; empty when they report and may be moved."""
        silent = ' and '.join(self._silent())
        return f'{silent} does not report' if silent else self._complaint()

    def _start_motion(self) -> None:
        if self._dry_run:
            self._await_scene()
            return
        self._hand = self._heard[HAND_TOPIC][1].astype(np.float32)
        self._motion = self._make_motion(self._hand)
        self._answered_at = self._moved_at = time.monotonic()
        self._enter(self._wait_for_motion, self.setting('motion_deadline'))

    def _wait_for_motion(self) -> None:
        if obstacle := self._obstacle():
            self._fail(obstacle)
        elif self._late():
            self._fail(f'the start was not reached within {self.setting("motion_deadline"):g} s: {self._lacking()}')
        elif not self._lacking():
            self._await_scene()

    def _obstacle(self) -> str:
        """Why the robot does not do what it is asked for, on its way and after it; empty when it does."""
        now = time.monotonic()
        if silent := self._silent(_FOLLOWED):
            return f'{" and ".join(silent)} does not report any more; see the bring-up of arm and hand'
        if complaint := self._complaint():
            return complaint
        if self._dry_run:
            return ''
        if now - self._answered_at > _FOLLOWED:
            return 'command_mux does not follow; see its safety on /diagnostics, and command_mux/reset_stop'
        if now - self._moved_at > _FOLLOWED:
            return 'command_mux holds the arm, or a limit does; see its safety on /diagnostics'
        return ''

    def _lacking(self) -> str:
        if self._dry_run:
            return ''
        pose, hand = self._heard[CURRENT_POSE][1], self._heard[HAND_TOPIC][1]
        return self._motion.lacking(pose, hand, self.setting('distance'), _ANGLE, _TRAVEL)

    def _await_scene(self) -> None:
        self._stage = self._wait_for_scene
        if self._scene_until is None:  # else the robot had to be brought back while a person was waited for
            self._scene_until = time.monotonic() + self.setting('scene_deadline')
            if self.setting('scene') == 'person':
                self.get_logger().info('put the scene back, then mark success or call arm_adapter/scene_ready')
        self._until = self._scene_until

    def _wait_for_scene(self) -> None:
        ready = self._ready or self.setting('scene') == 'as_is'
        if obstacle := self._obstacle():
            self._fail(obstacle)
        elif self._late():
            self._fail(f'nobody said within {self.setting("scene_deadline"):g} s that the scene is put back')
        elif ready and (self._silent() or self._lacking()):
            self._enter(self._wait_for_reports, _REPORTED)  # somebody has pushed it away, or pulled a cable
        elif ready and (self._dry_run or time.monotonic() - self._answered_at < _FRESH):
            self._stage = None
            self._service.reply(self._fill_success)

    def _fill_success(self, response: Any) -> None:
        response.success = True
        response.start = self.get_clock().now().to_msg()
        # nobody moved the hand of a dry run
        hand = np.clip(self._heard[HAND_TOPIC][1], 0.0, 1.0) if self._dry_run else self.task.start.hand
        response.hand_target = np.asarray(hand, np.float32)
        response.start_pose = conversions.pose_message(self._heard[CURRENT_POSE][1])

    def _fail(self, why: str) -> None:
        self._stage = self._motion = None
        self._refused = why
        self._arm.cancel()
        self.get_logger().warning(why)
        self._service.reply(self._refusal(why))

    @staticmethod
    def _refusal(why: str) -> Callable[[Any], None]:
        def fill(response: Any) -> None:
            response.success, response.message = False, why

        return fill

    def _command(self) -> None:
        """One tick of the way, also after it: a target that is not repeated is let go."""
        arm = np.zeros(6, np.float32)
        if self._target is not None and not self._unanswered:
            step = self._motion.step(self._target)
            arm, self._hand = step.arm, step.hand
            self._asked = bool(arm.any())
        stamp = self.get_clock().now().nanoseconds
        self._unanswered.add(stamp)
        self.publish('reset_command', ActionCommand(stamp, self._episode, self._step, arm, self._hand))
        self._step += 1

    # Diagnostics

    def diagnose(self) -> None:
        stages = {
            self._wait_for_reports: 'waits for arm and hand',
            self._wait_for_recovery: 'recovers the arm',
            self._wait_for_motion: 'moves to the start',
            self._wait_for_scene: 'waits for a person to put the scene back',
        }
        idle = self._refused or ('dry run: the robot is not moved' if self._dry_run else 'ok')
        waits = self._stage == self._wait_for_scene or (self._stage is None and self._refused)
        self.report('reset', WARN if waits else OK, stages.get(self._stage, idle))
        if self._arm.missing:
            self.report('arm', WARN, f'{self._arm.missing} is not installed: mode and errors of the arm are not known')
        elif self._state is None or time.monotonic() - self._state_at > _FRESH:
            self.report('arm', ERROR, 'robot_state is silent; see the bring-up of the arm')
        else:
            state, complaint = self._state, self._complaint()
            values = {'mode': arm_state.mode_name(state.mode), 'errors': ', '.join(state.errors)}
            values |= {'success rate': state.success_rate, 'errors of the last motion': ', '.join(state.last_errors)}
            self.report('arm', ERROR if complaint else OK, complaint or 'ok', **values)


def main() -> None:
    """Entry point."""
    run_node(ArmAdapter)


if __name__ == '__main__':
    main()
