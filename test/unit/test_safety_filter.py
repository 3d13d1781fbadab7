"""The safety filter: what it lets pass, what it limits, and that nothing gets past it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import RobotReading
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.fuzz import hostile_commands
from dex_rl_nodes.robot.limits import JointEnvelope, read_limits
from dex_rl_nodes.robot.oracle import Oracle
from dex_rl_nodes.robot.safety import SafetyFilter

ROBOT, TASK = load_robot('sim'), load_task('pull_tissue')
JOINTS = np.array([0.0, -0.1, 0.0, -2.4, 0.0, 2.3, np.pi / 4])  # TCP in the middle of the workspace, pointing down
HAND = np.full(6, 0.5, np.float32)
STILL = np.zeros(6, np.float32)


def reading(position=None, rotation=None, joints=JOINTS, **other):
    flange = kinematics.forward(JOINTS)
    pose = np.concatenate(
        [
            flange[:3, 3] if position is None else position,
            rotations.from_matrix(flange[:3, :3]) if rotation is None else rotation,
        ]
    )
    return RobotReading(0, pose, HAND, joint_position=np.array(joints), **other)


def make(robot=ROBOT, task=TASK, at=None):
    safety = SafetyFilter(robot, task)
    safety.reset(at or reading(), HAND)
    return safety


def with_limits(**limits):
    return ROBOT.model_copy(update={'limits': limits})


def unit(axis, value=1.0):
    arm = np.zeros(6, np.float32)
    arm[axis] = value
    return arm


def test_a_legal_command_passes_bit_by_bit():
    safety = make()
    before = safety.target_pose
    arm = np.array([0.3, -0.71, 0.123, 0.4, -0.9, 1.0], np.float32)
    hand = HAND + np.float32(0.1)
    step = safety.move(arm, hand, reading())
    assert not step.limited
    assert np.array_equal(step.arm, arm) and np.array_equal(step.hand, hand)
    assert np.allclose(safety.target_pose[:3] - before[:3], 0.02 * arm[:3], atol=1e-12)
    assert np.allclose(rotations.difference(safety.target_pose[3:], before[3:]), 0.1 * arm[3:], atol=1e-12)
    assert not safety.log.counts


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_the_target_stops_at_the_wall_of_the_workspace_and_slides_along_it(axis, sign):
    wall = (np.array(TASK.workspace_low) if sign < 0 else np.array(TASK.workspace_high))[axis]
    at = (np.array(TASK.workspace_low) + np.array(TASK.workspace_high)) / 2
    at[axis] = wall - sign * 0.005
    safety = make(at=reading(position=at))
    along = (axis + 1) % 3
    step = safety.move(unit(axis, sign) + unit(along, 0.5), HAND, reading(position=at))
    assert step.limited and safety.log.counts[SafetyEvent.WORKSPACE_BOX] == 1
    assert safety.target_pose[axis] == pytest.approx(wall, abs=1e-6)
    assert step.arm[axis] == pytest.approx(sign * 0.25, abs=1e-5)
    assert step.arm[along] == np.float32(0.5)


def test_the_table_is_named():
    robot = with_limits(arm={'table_height': 0.1, 'table_clearance': 0.02})
    at = reading(position=[0.45, 0.0, 0.125])
    safety = make(robot, at=at)
    safety.move(unit(2, -1.0), HAND, at)
    assert safety.log.counts[SafetyEvent.TABLE_PLANE] == 1
    assert safety.target_pose[2] == pytest.approx(0.12, abs=1e-6)


def test_an_arm_outside_the_workspace_may_only_come_back():
    outside = reading(position=[0.45, 0.5, 0.3])
    safety = make(at=outside)
    assert safety.move(unit(1, 1.0), HAND, outside).arm[1] == pytest.approx(0.0, abs=1e-6)
    assert safety.move(unit(1, -1.0), HAND, outside).arm[1] == -1.0


def test_a_blocked_arm_is_not_left_behind_by_its_target():
    safety, blocked = make(), reading()
    for _ in range(20):
        safety.move(unit(0), HAND, blocked)
    leash = safety.limits.arm.leash_translation
    assert safety.target_pose[0] - blocked.tcp_pose[0] == pytest.approx(leash, abs=1e-6)
    assert safety.log.counts[SafetyEvent.LEASH] > 0
    step = safety.move(unit(0) + unit(1, 0.5), HAND, blocked)
    assert step.arm[0] == pytest.approx(0.0, abs=1e-6) and step.arm[1] == np.float32(0.5), (
        'free in the other directions'
    )


def test_a_blocked_rotation_is_kept_on_its_leash():
    safety, blocked = make(), reading()
    for _ in range(20):
        safety.move(unit(5) + unit(3, 0.3), HAND, blocked)
        angle = np.linalg.norm(rotations.difference(safety.target_pose[3:], blocked.tcp_pose[3:]))
        assert angle <= safety.limits.arm.leash_rotation + 1e-6
    assert angle > 0.95 * safety.limits.arm.leash_rotation


def test_a_target_follows_an_arm_that_is_pushed_away_no_faster_than_a_step():
    safety = make()
    start = safety.target_pose
    pushed = reading(position=reading().tcp_pose[:3] + [0.15, 0.0, 0.0])
    positions = [safety.target_pose[0]]
    for _ in range(10):
        safety.move(STILL, HAND, pushed)
        positions.append(safety.target_pose[0])
    assert np.diff(positions).max() <= 0.02 + 1e-9
    assert positions[-1] - start[0] == pytest.approx(0.15 - safety.limits.arm.leash_translation, abs=1e-6)


@pytest.mark.parametrize('away', np.random.default_rng(7).uniform(0.07, 0.11, 12))
def test_a_target_that_rests_on_its_leash_is_not_limited_again(away):
    safety, pushed = make(), reading(position=reading().tcp_pose[:3] + [away, -0.01, 0.0])
    for _ in range(20):
        safety.move(STILL, HAND, pushed)
    events = safety.log.counts.total()
    for _ in range(20):
        step = safety.move(STILL, HAND, pushed)
        assert not step.limited and not step.arm.any()
    assert safety.log.counts.total() == events


def test_speeding_up_is_limited_and_braking_is_not():
    safety = make(with_limits(arm={'translation_acceleration': 0.5}))
    steps = [float(safety.move(unit(0, value), HAND, reading()).arm[0]) for value in (1.0, 1.0, 1.0, 0.0, -1.0)]
    assert steps == pytest.approx([0.25, 0.5, 0.75, 0.0, -0.25], abs=1e-6)
    assert safety.log.counts[SafetyEvent.ACCELERATION_LIMIT] > 0


def test_the_speed_over_all_axes_is_limited():
    safety = make(with_limits(arm={'translation_velocity': 0.2}))
    step = safety.move(np.array([1, 1, 1, 0, 0, 0], np.float32), HAND, reading())
    assert np.linalg.norm(step.arm[:3]) * 0.02 == pytest.approx(0.02, abs=1e-6)
    assert np.ptp(step.arm[:3]) < 1e-6, 'the direction stays'


def test_a_joint_near_its_end_may_only_move_back():
    arm = read_limits(ROBOT).arm
    envelope, at_the_end = JointEnvelope(arm, 0.1), [high - 0.001 for high in arm.joint_high]
    for joint in range(7):
        one = np.eye(7)[joint]
        assert envelope.share(at_the_end, (0.01 * one).tolist()) == (0.0, joint)
        assert envelope.share(at_the_end, (-0.01 * one).tolist())[0] > 0.0
    for joint in (0, 2):
        for way in (1.0, -1.0):
            share = envelope.share(kinematics.HOME.tolist(), (way * np.eye(7)[joint]).tolist())
            assert share == (0.1 * arm.joint_velocity[joint], joint), 'far from the ends: the full velocity, both ways'
    for bad in ([np.nan] * 7, [0.1] * 6 + [np.nan]):
        assert envelope.share(kinematics.HOME.tolist(), bad)[0] == 0.0


def test_a_motion_that_would_drive_a_joint_into_its_end_is_stopped():
    joints = JOINTS.copy()
    joints[0] = read_limits(ROBOT).arm.joint_high[0] - 0.03
    frame = kinematics.forward(joints)
    pose = np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])
    at = RobotReading(0, pose, HAND, joint_position=joints)
    task = TASK.model_copy(update={'workspace_low': [-1.0, -1.0, 0.0], 'workspace_high': [1.0, 1.0, 1.0]})
    tangent = np.array([-pose[1], pose[0], 0.0]) / np.hypot(pose[0], pose[1])
    for sign, expected in ((1.0, 0.0), (-1.0, 1.0)):
        safety = make(task=task, at=at)
        arm = np.concatenate([0.9 * sign * tangent, [0, 0, 0]]).astype(np.float32)
        step = safety.move(arm, HAND, at)
        assert np.linalg.norm(step.arm[:3]) == pytest.approx(0.9 * expected, abs=0.05)


def test_a_hand_target_moves_at_most_one_step_per_tick():
    safety = make()
    targets = [safety.move(STILL, np.ones(6, np.float32), reading()).hand[0] for _ in range(4)]
    assert targets == pytest.approx([0.75, 1.0, 1.0, 1.0], abs=1e-6)
    assert safety.log.counts[SafetyEvent.HAND_STEP] == 1


def test_a_motor_with_too_much_current_may_only_move_back():
    current = np.array([0, 0, 1.5, 0, 0, 0], np.float32)
    at = reading(hand_current=current)
    at.hand = np.full(6, 0.4, np.float32)
    safety = make()
    step = safety.move(STILL, HAND + np.float32(0.1), at)
    assert step.hand[2] == HAND[2] and step.hand[3] == HAND[3] + np.float32(0.1)
    assert safety.log.details[SafetyEvent.HAND_CURRENT] == 'motor 3'
    assert safety.move(STILL, HAND - np.float32(0.2), at).hand[2] == pytest.approx(0.4, abs=1e-6)


def test_a_current_at_its_limit_is_permitted():
    safety, limit = make(), np.float32(read_limits(ROBOT).hand.current)
    asked = HAND + np.float32(0.1)
    assert np.array_equal(safety.move(STILL, asked, reading(hand_current=np.full(6, limit))).hand, asked)
    over = np.full(6, np.nextafter(limit, np.float32(2)))
    assert np.array_equal(safety.move(STILL, asked + np.float32(0.1), reading(hand_current=over)).hand, asked)


def test_a_hold_takes_the_measured_pose_and_keeps_the_hand():
    safety = make()
    safety.move(unit(0), HAND + np.float32(0.1), reading())
    lagging = reading(position=reading().tcp_pose[:3] + [0.005, 0.0, 0.0])
    safety.hold(lagging)
    assert np.allclose(safety.target_pose, lagging.tcp_pose, atol=1e-12)
    assert np.array_equal(safety.hand_target, HAND + np.float32(0.1))


def test_a_hold_does_not_believe_a_pose_far_away():
    safety = make()
    before = safety.target_pose
    safety.hold(reading(position=[0.6, 0.2, 0.2]))
    assert np.array_equal(safety.target_pose, before)


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'tcp_pose': np.full(7, np.nan)}, 'arm pose'),
        ({'tcp_pose': np.zeros(7)}, 'arm pose'),
        ({'tcp_pose': np.array([5.0, 0, 0, 0, 0, 0, 1])}, 'arm pose'),
        ({'tcp_pose': np.array([1.4, 0, 0, 0, 0, 0, 1])}, 'arm pose jumped'),
        ({'hand': np.full(6, np.inf)}, 'hand joints'),
        ({'hand': np.zeros(5)}, 'hand joints'),
        ({'joint_position': np.full(7, np.nan)}, 'arm joints'),
    ],
)
def test_an_impossible_reading_is_named(change, named):
    safety, bad = make(), reading()
    for field, value in change.items():
        setattr(bad, field, value)
    assert safety.doubt(bad) == named
    assert not safety.doubt(reading())


@pytest.mark.parametrize(
    ('limits', 'said'),
    [
        ({'arm': {'joint_low': [-2.0] * 8}}, 'limits.arm.joint_low: has 8 numbers, but the robot has 7'),
        ({'hand': {'high': [1.0] * 5}}, 'limits.hand.high: has 5 numbers, but the robot has 6'),
        ({'arm': {'speed': 1.0}}, 'limits.arm.speed: is not a known limit'),
        ({'hand': {'high': [2.0] * 6}}, 'must lie in'),
        ({'arm': {'joint_high': [-3.0] * 7}}, 'low must be below high'),
        ({'arm': {'joint_deceleration': [1.0] * 6 + [-1.0]}}, 'joint 7 has the velocity offset'),
        ({'arm': {'joint_velocity_offset': [float('nan')] * 7}}, 'limits.arm.joint_velocity_offset.0: .* finite'),
        ({'arm': {'translation_velocity': float('nan')}}, 'limits.arm.translation_velocity'),
        ({'arm': {'table_height': -12.0}}, 'limits.arm.table_height'),  # mm
        ({'arm': {'table_height': float('nan')}}, 'limits.arm.table_height'),
        ({'hand': {'velocity': float('inf')}}, 'limits.hand.velocity'),
        ({'timing': {'teleop_age': 60.0}}, 'limits.timing.teleop_age'),
    ],
)
def test_wrong_limits_are_refused_by_name(limits, said):
    with pytest.raises(UserError, match=said):
        make(with_limits(**limits))


def test_a_workspace_below_the_table_is_refused():
    with pytest.raises(UserError, match='the workspace is empty above the table'):
        make(with_limits(arm={'table_height': 0.6}))


UNITS = arrays.arrays(np.float32, 6, elements=st.floats(-50, 50, width=32))
TRAVELS = arrays.arrays(np.float32, 6, elements=st.floats(-3, 3, width=32))
OFFSETS = arrays.arrays(np.float64, 3, elements=st.floats(-0.2, 0.2))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(steps=st.lists(st.tuples(UNITS, TRAVELS, OFFSETS, OFFSETS), min_size=1, max_size=6))
def test_no_command_and_no_push_gets_a_target_past_a_limit(steps):
    safety = make()
    oracle = Oracle(ROBOT, TASK, safety.limits)
    for arm, hand, push, twist in steps:
        measured = reading()
        measured.tcp_pose[:3] += push
        measured.tcp_pose[3:] = rotations.turned(measured.tcp_pose[3:], twist)
        before, hand_before = safety.target_pose, safety.hand_target.astype(float)
        step = safety.move(arm, hand, measured)
        motion = oracle.motion(before, hand_before, safety.target_pose, step.hand.astype(float))
        assert oracle.violations(motion, before, measured, joints=True) == []
        oracle.arm_step, oracle.hand_step = motion.arm_step, motion.hand_step


@pytest.mark.parametrize('disabled', ['_translation', '_rotation_step', '_joints', '_hand_step_to', '_range'])
def test_the_fuzzer_notices_when_a_limit_is_switched_off(monkeypatch, disabled):
    first_argument = {
        '_translation': lambda self, step, measured: step,
        '_rotation_step': lambda self, step, lag, measured: step,
        '_joints': lambda self, step, lag, reading: step,
        '_hand_step_to': lambda self, wanted, reading: wanted,
        '_range': lambda self, asked: asked,
    }
    monkeypatch.setattr(SafetyFilter, disabled, first_argument[disabled])
    assert hostile_commands(1600, seed=0)['violations'] > 0


def test_the_fuzzer_notices_a_start_that_is_not_judged(monkeypatch):
    def careless(reading):
        return '' if np.linalg.norm(reading.tcp_pose[3:]) > 0.5 else 'arm pose'

    monkeypatch.setattr('dex_rl_nodes.robot.safety._impossible', careless)
    found = {name for seed in range(20) for name in hostile_commands(1, seed=seed)['violated']}
    assert {'began with what cannot be', 'target is not finite'} <= found


def test_hostile_commands_violate_nothing_and_legal_ones_pass():
    result = hostile_commands(3200, seed=5)
    print(result)
    assert result['violations'] == 0, result['violated']
    assert result['wrongly_held'] == 0
    assert result['legal'] > 400
    assert len(result['events']) >= 18
