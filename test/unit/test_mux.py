"""The command mux: time, holds, the latched stop, watchdogs."""

import dataclasses

import numpy as np
import pytest

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.records import ActionCommand, RobotReading, TeleopCommand
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import EventLog, SafetyEvent
from dex_rl_nodes.robot.limits import TimingLimits
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.watchdog import Watchdog

ROBOT, TASK = load_robot('sim'), load_task('pull_tissue')
JOINTS = np.array([0.0, -0.1, 0.0, -2.4, 0.0, 2.3, np.pi / 4])
HAND = np.full(6, 0.5, np.float32)
PERIOD = 100_000_000
START = 10 * PERIOD
ARM = np.array([0.5, -0.2, 0.1, 0.0, 0.3, 0.0], np.float32)


def reading(stamp, offset=(0.0, 0.0, 0.0)):
    frame = kinematics.forward(JOINTS)
    pose = np.concatenate([frame[:3, 3] + offset, rotations.from_matrix(frame[:3, :3])])
    return RobotReading(stamp, pose, HAND, joint_position=JOINTS)


def command(stamp, arm=ARM, hand=HAND, **other):
    return ActionCommand(stamp, 3, (stamp - START) // PERIOD, np.array(arm, np.float32), np.array(hand), **other)


@pytest.fixture
def mux():
    mux = CommandMux(ROBOT, TASK)
    mux.reset(reading(START), HAND, START)
    return mux


def test_a_tick_says_what_was_executed(mux):
    executed = mux.step(command(START, hand=HAND + np.float32(0.125)), None, reading(START))
    assert (executed.stamp, executed.episode, executed.step) == (START, 3, 0)
    assert np.array_equal(executed.action[:6], ARM)
    assert np.array_equal(executed.action[6:], 2 * executed.hand_target - 1)
    assert np.array_equal(executed.target_pose, mux.target_pose.astype(np.float32))
    assert (executed.source, executed.limited, executed.stopped) == (0, False, False)


def test_the_target_is_integrated_from_the_target_not_from_the_measured_pose(mux):
    start = mux.target_pose
    for tick in range(3):
        mux.step(command(START + tick * PERIOD, arm=[0.5, 0, 0, 0, 0, 0]), None, reading(START + tick * PERIOD))
    assert mux.target_pose[0] - start[0] == pytest.approx(0.03, abs=1e-9)


def test_a_held_hand_keeps_its_target(mux):
    executed = mux.step(command(START, hand=np.zeros(6), hold_hand=True), None, reading(START))
    assert np.array_equal(executed.hand_target, HAND) and not executed.limited


@pytest.mark.parametrize(
    ('stamp', 'event'),
    [
        (START, SafetyEvent.COMMAND_REPEATED),
        (START - 1, SafetyEvent.COMMAND_OUT_OF_ORDER),
        (START + 3600 * 10**9, SafetyEvent.COMMAND_FROM_FUTURE),
    ],
)
def test_a_command_of_no_new_tick_is_refused(mux, stamp, event):
    mux.step(command(START), None, reading(START))
    before = mux.target_pose
    assert mux.step(command(stamp), None, reading(START + PERIOD)) is None
    assert mux.log.counts[event] == 1 and mux.problem == event
    assert np.array_equal(mux.target_pose, before)
    legal = mux.step(command(START + PERIOD), None, reading(START + PERIOD))
    assert not legal.limited, 'one bad stamp does not lock out the good ones'


def test_leftovers_of_the_previous_episode_are_refused(mux):
    mux.reset(reading(START + 10 * PERIOD), HAND, START + 10 * PERIOD)
    assert mux.step(command(START + 9 * PERIOD), None, reading(START + 10 * PERIOD)) is None


@pytest.mark.parametrize(
    ('arm', 'hand', 'event'),
    [
        ([np.nan, 0, 0, 0, 0, 0], HAND, SafetyEvent.COMMAND_NOT_FINITE),
        (ARM, [np.inf, 0, 0, 0, 0, 0], SafetyEvent.COMMAND_NOT_FINITE),
        (np.zeros(5), HAND, SafetyEvent.COMMAND_WRONG_SIZE),
        (ARM, np.zeros((6, 1)), SafetyEvent.COMMAND_WRONG_SIZE),
        ([1e30, 0, 0, 0, 0, 0], HAND, SafetyEvent.COMMAND_IMPLAUSIBLE),
    ],
)
def test_a_command_that_cannot_be_meant_is_held_and_counted(mux, arm, hand, event):
    before, hand_before = mux.target_pose, mux.hand_target
    executed = mux.step(command(START, arm, hand), None, reading(START))
    assert executed.limited and not executed.stopped
    assert not executed.action[:6].any()
    assert np.array_equal(executed.hand_target, hand_before) and np.array_equal(mux.target_pose, before)
    assert mux.log.counts == {event: 1}


def test_text_instead_of_numbers_is_held_too(mux):
    bad = command(START)
    bad.arm = ['fast'] * 6
    assert mux.step(bad, None, reading(START)).limited
    assert mux.log.counts[SafetyEvent.COMMAND_WRONG_SIZE] == 1


def test_after_two_bad_commands_the_arm_holds_where_it_is(mux):
    mux.step(command(START, arm=[1, 0, 0, 0, 0, 0]), None, reading(START))
    lagging = (0.004, 0.0, 0.0)
    for tick in (1, 2):
        mux.step(command(START + tick * PERIOD, arm=[np.nan] * 6), None, reading(START + tick * PERIOD, lagging))
    assert np.allclose(mux.target_pose, reading(0, lagging).tcp_pose, atol=1e-9)


def test_a_command_slightly_out_of_range_is_clipped(mux):
    executed = mux.step(command(START, arm=[1.5, 0, 0, 0, 0, 0]), None, reading(START))
    assert executed.limited and executed.action[0] == 1.0
    assert mux.log.counts == {SafetyEvent.COMMAND_OUT_OF_RANGE: 1}


def test_a_stale_command_is_held(mux):
    executed = mux.step(command(START), None, reading(START), now=START + 2 * PERIOD + 1)
    assert executed.limited and mux.log.counts == {SafetyEvent.COMMAND_STALE: 1}


def test_a_burst_moves_the_robot_once(mux):
    start = mux.target_pose
    for index in range(10):
        mux.step(command(START + index * 1_000_000), None, reading(START + 10_000_000))
    assert mux.log.counts[SafetyEvent.COMMAND_BURST] == 9
    assert np.allclose(mux.target_pose[:3] - start[:3], 0.02 * ARM[:3], atol=1e-9)


def test_commands_at_twice_the_control_rate_move_the_robot_no_faster(mux):
    start, ticks = mux.target_pose, 40
    for index in range(2 * ticks):
        stamp = START + index * PERIOD // 2
        mux.step(command(stamp, arm=[0, 0, -0.3, 0, 0, 0]), None, reading(stamp, mux.target_pose[:3] - start[:3]))
    assert (mux.target_pose - start)[2] == pytest.approx(-0.3 * 0.02 * ticks, abs=0.3 * 0.02 + 1e-6)


def test_late_commands_that_arrive_together_are_all_executed(mux):
    now = START + PERIOD
    for tick in range(2):
        assert not mux.step(command(START + tick * PERIOD), None, reading(now)).limited


@pytest.mark.parametrize('jitter', [0.0, 0.2, 0.33])
def test_a_camera_that_jitters_costs_no_command(mux, jitter):
    rng = np.random.default_rng(29)
    for tick in range(100):
        stamp = START + int((tick + rng.uniform(0, jitter)) * PERIOD)
        assert not mux.step(command(stamp, arm=np.zeros(6)), None, reading(stamp)).limited


def _nan_current(bad):
    bad.hand_current = np.full(6, np.nan)


@pytest.mark.parametrize(
    ('spoil', 'named'),
    [
        (lambda bad: bad.tcp_pose.__setitem__(1, np.nan), 'arm pose'),
        (lambda bad: bad.tcp_pose.__setitem__(slice(3, 7), 0.0), 'arm pose'),
        (lambda bad: bad.tcp_pose.__setitem__(0, 5.0), 'arm pose'),
        (lambda bad: setattr(bad, 'hand', np.full(6, np.inf)), 'hand joints'),
        (lambda bad: setattr(bad, 'joint_position', np.full(7, np.nan)), 'arm joints'),
        (_nan_current, 'hand currents'),
    ],
)
def test_an_episode_does_not_begin_with_an_impossible_reading(mux, spoil, named):
    before = mux.target_pose
    bad = reading(START)
    spoil(bad)
    assert not mux.reset(bad, HAND, START)
    assert mux.log.summary() == {'305 reading_invalid': f'1 ({named})'}
    assert np.array_equal(mux.target_pose, before), 'nothing of it becomes a target'
    with pytest.raises(RuntimeError, match='reset must be called before step'):
        mux.step(command(START), None, reading(START))
    assert mux.reset(reading(START), HAND, START)
    assert not mux.step(command(START), None, reading(START)).limited


@pytest.mark.parametrize('hand', [[np.nan] * 6, [0.5] * 5 + [np.inf], []])
def test_an_episode_does_not_begin_with_an_impossible_hand_target(mux, hand):
    assert not mux.reset(reading(START), np.array(hand), START)
    assert mux.log.details[SafetyEvent.READING_INVALID] == 'hand target at the start'
    assert np.isfinite(mux.hand_target).all()


def test_an_impossible_reading_holds_at_the_target(mux):
    bad = reading(START)
    bad.tcp_pose = np.full(7, np.nan)
    before = mux.target_pose
    assert mux.step(command(START), None, bad).limited
    assert np.array_equal(mux.target_pose, before)
    assert not mux.step(command(START + PERIOD), None, reading(START + PERIOD)).limited


def test_a_stop_is_latched_until_it_is_reset(mux):
    mux.stop(SafetyEvent.SECOND_PUBLISHER, 'joystick on target_pose')
    assert mux.stopped
    assert mux.stop_reason == (
        'safety event 501: somebody else commands the robot (joystick on target_pose); '
        'end that process, then reset the stop'
    )
    for tick in range(3):
        executed = mux.step(command(START + tick * PERIOD), None, reading(START + tick * PERIOD))
        assert executed.stopped and np.allclose(executed.action[:6], 0, atol=1e-9)
    mux.reset(reading(START + 5 * PERIOD), HAND, START + 5 * PERIOD)
    assert mux.stopped, 'a new episode does not release it'
    mux.reset_stop()
    executed = mux.step(command(START + 6 * PERIOD), None, reading(START + 6 * PERIOD))
    assert executed.stopped and not executed.action[:6].any(), 'released, but not in the episode that it ended'
    mux.reset(reading(START + 7 * PERIOD), HAND, START + 7 * PERIOD)
    executed = mux.step(command(START + 7 * PERIOD), None, reading(START + 7 * PERIOD))
    assert not executed.stopped and not executed.limited


def test_an_episode_that_was_stopped_before_it_began_stands_still_to_its_end(mux):
    mux.reset(reading(START), HAND, START, called_off=True)
    executed = mux.step(command(START), None, reading(START))
    assert executed.stopped and np.allclose(executed.action[:6], 0, atol=1e-9)


def test_a_hand_that_was_let_go_of_between_two_ticks_goes_on_from_where_it_is(mux):
    closed = np.full(6, 0.2, np.float32)
    for tick in range(2):
        stamp = START + tick * PERIOD
        held = mux.step(command(stamp), TeleopCommand(stamp, hand_active=True, hand_delta=closed), reading(stamp))
    mux.let_go_of_hand()
    stamp = START + 2 * PERIOD
    pressed = TeleopCommand(stamp, hand_active=True, hand_delta=np.zeros(6, np.float32))
    assert np.allclose(mux.step(command(stamp), pressed, reading(stamp)).hand_target, held.hand_target)


def test_after_a_stop_the_first_motion_starts_where_the_arm_is(mux):
    mux.step(command(START), None, reading(START))
    mux.stop(SafetyEvent.OPERATOR_STOP)
    pushed = (0.05, 0.0, 0.0)
    mux.step(command(START + PERIOD), None, reading(START + PERIOD, pushed))
    mux.reset_stop()
    assert np.allclose(mux.target_pose, reading(0, pushed).tcp_pose, atol=1e-9)


@pytest.mark.parametrize('event', [SafetyEvent.COMMAND_SILENT, SafetyEvent.CAMERA_SILENT, SafetyEvent.HAND_SILENT])
def test_silence_holds_the_arm_where_it_is_and_speech_releases_it(mux, event):
    mux.watch.watch('it', event, 0.15, START)
    mux.step(command(START), None, reading(START))
    lagging = reading(START + PERIOD, (0.003, 0.0, 0.0))
    mux.observe(lagging)
    assert mux.watchdog(START + PERIOD) == []
    assert mux.watchdog(START + 2 * PERIOD) == [(event, 'it')]
    assert np.allclose(mux.target_pose, lagging.tcp_pose, atol=1e-9)
    assert mux.holding == [(event, 'it')]
    assert mux.watchdog(START + 3 * PERIOD) == [], 'reported once'
    if event != SafetyEvent.COMMAND_SILENT:
        assert mux.step(command(START + 3 * PERIOD), None, reading(START + 3 * PERIOD)).limited
    mux.watch.seen('it', START + 4 * PERIOD)
    assert mux.holding == []
    assert not mux.step(command(START + 4 * PERIOD), None, reading(START + 4 * PERIOD)).limited


@pytest.mark.parametrize('held_by', ['policy', 'glove'])
def test_a_hand_that_was_away_goes_on_from_where_it_is(mux, held_by):
    """Somebody may have opened it while its cable was out: it must not jump back to its old target."""
    glove = TeleopCommand(0, hand_active=True, hand_delta=np.full(6, 0.1, np.float32))
    closed = np.full(6, 0.6, np.float32)
    for tick in range(3):
        stamp = START + tick * PERIOD
        teleop = dataclasses.replace(glove, stamp=stamp) if held_by == 'glove' else None
        mux.step(command(stamp, hand=closed, hold_hand=held_by == 'glove'), teleop, reading(stamp))
    assert np.allclose(mux.hand_target, closed)
    opened = np.array([0.1, 0.0, 0.2, 0.0, 0.0, 0.05], np.float32)
    back = dataclasses.replace(reading(START + 3 * PERIOD), hand=opened)
    mux.take_hand(back)
    assert np.array_equal(mux.hand_target, opened)
    teleop = dataclasses.replace(glove, stamp=back.stamp) if held_by == 'glove' else None
    executed = mux.step(command(back.stamp, hold_hand=True), teleop, back)
    assert np.allclose(executed.hand_target, opened, atol=1e-6)
    mux.take_hand(dataclasses.replace(back, hand=np.full(6, np.nan)))
    assert np.allclose(mux.hand_target, opened, atol=1e-6), 'no measurement'


def test_a_frozen_camera_holds_an_episode_and_no_reset(mux):
    for tick in range(5):
        mux.watch.frame('front', 1234, reading(tick, (0.006 * tick, 0, 0)), tick * PERIOD)
    assert mux.holding == [(SafetyEvent.CAMERA_FROZEN, 'front')]
    assert mux.begin_reset(reading(START), START) and mux.holding == []
    assert not mux.step(command(START), None, reading(START)).limited
    mux.reset(reading(START + PERIOD), HAND, START + PERIOD)
    assert mux.holding == [(SafetyEvent.CAMERA_FROZEN, 'front')]


def test_an_arm_that_does_not_report_holds_at_its_target(mux):
    mux.watch.watch('arm', SafetyEvent.ARM_SILENT, 0.15, START)
    mux.step(command(START), None, reading(START))
    before = mux.target_pose
    mux.watchdog(START + 2 * PERIOD)
    assert np.array_equal(mux.target_pose, before)


def test_a_silent_learner_only_warns(mux):
    mux.watch.watch('learner', SafetyEvent.LEARNER_SILENT, 0.15, START)
    assert mux.watchdog(START + 2 * PERIOD) == [(SafetyEvent.LEARNER_SILENT, 'learner')]
    assert mux.holding == []
    assert not mux.step(command(START), None, reading(START)).limited


def test_a_camera_that_repeats_its_frame_while_the_arm_moves_is_frozen():
    log = EventLog()
    watch = Watchdog(TimingLimits(), log)
    for tick in range(5):
        frozen = watch.frame('front', 1234, reading(tick, (0.006 * tick, 0, 0)), tick * PERIOD)
        assert frozen == (tick == 4), 'after 2 cm'
    assert watch.causes() == [(SafetyEvent.CAMERA_FROZEN, 'front')]
    assert not watch.frame('front', 5678, reading(9), 9 * PERIOD)
    assert watch.causes() == [] and log.counts == {SafetyEvent.CAMERA_FROZEN: 1}


def test_a_camera_may_repeat_its_frame_while_nothing_moves():
    watch = Watchdog(TimingLimits(), EventLog())
    assert not any(watch.frame('front', 1234, reading(tick), tick * PERIOD) for tick in range(100))


def test_a_camera_with_noise_is_frozen_by_time():
    watch = Watchdog(TimingLimits(frozen_time=0.2), EventLog())
    assert [watch.frame('front', 1, reading(tick), tick * PERIOD) for tick in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(('jump', 'noticed'), [(0, False), (10**8, False), (10**9, True), (-(10**9), True)])
def test_a_clock_that_jumps_is_noticed(jump, noticed):
    watch = Watchdog(TimingLimits(), EventLog())
    assert not watch.clock(0, 5)
    assert watch.clock(PERIOD, 5 + PERIOD + jump) == noticed
    assert not watch.clock(2 * PERIOD, 5 + 2 * PERIOD + jump), 'once'


def test_events_are_numbered_named_and_say_what_to_do():
    numbers = [event.number for event in SafetyEvent]
    assert len(set(numbers)) == len(numbers)
    log = EventLog()
    log.add(SafetyEvent.CAMERA_SILENT, 'camera/front')
    log.add(SafetyEvent.CAMERA_SILENT, 'camera/wrist')
    assert log.summary() == {'301 camera_silent': '2 (camera/wrist)'}
    for event in SafetyEvent:
        assert event.explanation and event.advice and str(event.number) in event.sentence('x')
