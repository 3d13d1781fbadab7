"""The way to the start pose: the same start as in simulation, straight up first, within every limit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dex_rl_nodes.config import load_robot, load_task, names
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import ActionCommand, RobotReading
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.oracle import Oracle
from dex_rl_nodes.robot.reset_motion import Leg, ResetMotion
from dex_rl_nodes.robot.start import draw_start

ROBOT, TASK = load_robot('fr3_ruiyan'), load_task('pull_tissue')
PERIOD = 100_000_000
CLEARANCE = 0.05


def pose(position, turn=(0.0, 0.0, 0.0)):
    return np.concatenate([position, rotations.turned(rotations.from_rotvec(TASK.start.rotation), np.array(turn))])


def drive(start, hand, goal, ticks=600):
    """Follow the motion through the command mux, with an arm that does what it is told one tick later."""
    mux, motion = CommandMux(ROBOT, TASK), ResetMotion(ROBOT, TASK, goal, hand, clearance=CLEARANCE)
    oracle = Oracle(ROBOT, TASK, mux.limits)
    measured, stamp, target = RobotReading(PERIOD, start, np.array(hand, np.float32)), PERIOD, start
    assert mux.begin_reset(measured, stamp)
    path = []
    for tick in range(ticks):
        step = motion.step(target)
        before, hand_before = mux.target_pose, mux.hand_target.astype(float)
        executed = mux.step(ActionCommand(stamp, 0, tick, step.arm, step.hand), None, measured, stamp)
        moved = oracle.motion(before, hand_before, mux.target_pose, mux.hand_target.astype(float))
        assert not oracle.violations(moved, before, measured, joints=False)
        oracle.arm_step, oracle.hand_step = moved.arm_step, moved.hand_step
        target = executed.target_pose.astype(float)
        path.append((step.leg, mux.target_pose, mux.hand_target))
        stamp += PERIOD
        measured = RobotReading(stamp, mux.target_pose, mux.hand_target)
        if motion.leg == Leg.SETTLE and not motion.lacking(measured.tcp_pose, measured.hand, 0.005, 0.02, 0.01):
            return path, mux
    raise AssertionError(f'not there after {ticks} ticks: {motion.lacking(target, mux.hand_target, 0.005, 0.02, 0.01)}')


@pytest.mark.parametrize('name', names('tasks'))
def test_simulation_and_robot_start_at_the_same_pose(name):
    from dex_rl_nodes.sim.robot import SimRobot

    task = load_task(name)
    core = SimRobot(task, load_robot('sim'))
    seed = 900003
    expected = draw_start(task.start, np.random.default_rng(seed))
    reading = core.reset(seed)
    assert np.linalg.norm(reading.tcp_pose[:3] - expected[:3]) < 0.005
    assert np.linalg.norm(rotations.difference(reading.tcp_pose[3:], expected[3:])) < 0.02


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    start=st.tuples(st.floats(0.26, 0.69), st.floats(-0.29, 0.29), st.floats(0.03, 0.54)),
    turn=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    hand=st.tuples(*[st.floats(0.0, 1.0)] * 6),
    seed=st.integers(0, 2**32),
)
def test_from_anywhere_it_lets_go_goes_up_over_and_down_within_every_limit(start, turn, hand, seed):
    goal = draw_start(TASK.start, np.random.default_rng(seed))
    path, mux = drive(pose(np.array(start), turn), np.array(hand), goal)
    legs = [leg for leg, _, _ in path]
    assert legs == sorted(legs)
    low = goal[2] + CLEARANCE - 0.002
    for leg, target, hand_target in path:
        if leg == Leg.RELEASE:
            assert np.allclose(target[:3], start, atol=1e-6), 'the arm stands while the hand lets go'
        if leg == Leg.LIFT:
            assert np.allclose(target[:2], start[:2], atol=1e-6), 'straight up'
            assert np.allclose(hand_target, TASK.start.hand, atol=1e-6)
        if leg == Leg.TRAVEL:
            assert target[2] >= min(low, TASK.workspace_high[2]) - 1e-6, 'over whatever stands there'
        if leg == Leg.LOWER:
            assert np.linalg.norm(target[:2] - goal[:2]) < 0.002, 'down above the start'
    unasked = {event: n for event, n in mux.log.counts.items() if event != SafetyEvent.JOINTS_UNKNOWN}
    assert not unasked, f'the filter had to limit the way: {unasked}'


def test_the_thumb_turns_when_the_fingers_are_out_of_its_way():
    fist = np.array([1.0, 0.9, 1.0, 1.0, 1.0, 1.0])
    path, _ = drive(pose(TASK.start.position), fist, pose(TASK.start.position))
    hands = np.array([hand for _, _, hand in path])
    opened = np.abs(hands[:, 1:] - np.array(TASK.start.hand)[1:]).max(1) < 1e-6
    assert not opened[0] and (hands[~opened, 0] == 1.0).all()
    assert hands[-1, 0] == pytest.approx(TASK.start.hand[0])


def test_who_is_there_does_not_move():
    goal = draw_start(TASK.start, np.random.default_rng(1))
    path, _ = drive(goal, np.array(TASK.start.hand), goal)
    assert max(np.linalg.norm(target[:3] - goal[:3]) for _, target, _ in path) < 1e-6


def test_it_says_what_is_missing():
    goal = draw_start(TASK.start, np.random.default_rng(1))
    motion = ResetMotion(ROBOT, TASK, goal, np.array(TASK.start.hand))
    assert 'on its way (release)' in motion.lacking(goal, TASK.start.hand, 0.02, 0.1, 0.1)
    while motion.leg != Leg.SETTLE:
        motion.step(goal)
    away = goal.copy()
    away[0] += 0.05
    assert '50 mm and 0 degrees' in motion.lacking(away, TASK.start.hand, 0.02, 0.1, 0.1)
    closed = np.array(TASK.start.hand)
    closed[2] += 0.4
    assert 'index of the hand is 40 %' in motion.lacking(goal, closed, 0.02, 0.1, 0.1)
    assert motion.lacking(goal, TASK.start.hand, 0.02, 0.1, 0.1) == ''


def test_a_start_outside_of_the_workspace_is_refused_before_anything_moves():
    with pytest.raises(UserError, match='pull_tissue.yaml: the start pose .* is outside the workspace'):
        ResetMotion(ROBOT, TASK, pose([0.9, 0.0, 0.3]), np.zeros(6))


def test_a_latched_stop_refuses_a_reset():
    mux = CommandMux(ROBOT, TASK)
    joints = kinematics.HOME
    frame = kinematics.forward(joints)
    here = np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])
    reading = RobotReading(PERIOD, here, np.full(6, 0.3, np.float32), joint_position=joints)
    mux.stop(SafetyEvent.ARM_REFLEX)
    assert not mux.begin_reset(reading, PERIOD)
    mux.reset_stop()
    assert mux.begin_reset(reading, PERIOD)
    assert np.allclose(mux.hand_target, 0.3), 'the hand starts from where it is'
