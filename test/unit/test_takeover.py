"""Takeover and hand-back (LAMP, appendix D): from devices to executed actions."""

import numpy as np
import pytest

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import ActionCommand, Mark, OperatorInput, RobotReading, Source, TeleopCommand
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.teleop import ScriptedHands, TeleopMapper, TeleopSettings, read_teleop

ROBOT, TASK = load_robot('sim'), load_task('pull_tissue')
JOINTS = np.array([0.0, -0.1, 0.0, -2.4, 0.0, 2.3, np.pi / 4])
PERIOD = 100_000_000
OPEN = np.full(6, 0.2, np.float32)
GLOVE = np.full(6, 0.7)
REST = np.zeros(6)
PUSH = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
RIGHT = [0, 1]


def reading(stamp):
    frame = kinematics.forward(JOINTS)
    pose = np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])
    return RobotReading(stamp, pose, OPEN, joint_position=JOINTS)


class Robot:
    """A mux that is stepped, with an arm that follows."""

    def __init__(self):
        self.mux = CommandMux(ROBOT, TASK)
        self.stamp = PERIOD
        self.reading = reading(self.stamp)
        self.mux.reset(self.reading, OPEN, self.stamp)

    def step(self, teleop=None, arm=REST, hand=OPEN, **other):
        command = ActionCommand(self.stamp, 0, 0, np.array(arm, np.float32), np.array(hand, np.float32), **other)
        if teleop is not None and teleop.stamp == 0:
            teleop.stamp = self.stamp
        executed = self.mux.step(command, teleop, self.reading)
        self.stamp += PERIOD
        self.reading.stamp = self.stamp
        self.reading.tcp_pose = self.mux.target_pose
        return executed


@pytest.fixture
def robot():
    return Robot()


def teleop(arm=None, delta=None):
    command = TeleopCommand()
    if arm is not None:
        command.arm_active, command.arm = True, np.array(arm, np.float32)
    if delta is not None:
        command.hand_active, command.hand_delta = True, np.full(6, delta, np.float32)
    return command


def test_the_policy_keeps_its_hand_while_a_person_moves_the_arm(robot):
    executed = robot.step(teleop(arm=PUSH), arm=[0, 1, 0, 0, 0, 0], hand=OPEN + 0.125)
    assert executed.source == Source.ARM and not executed.limited
    assert np.array_equal(executed.action[:6], PUSH.astype(np.float32))
    assert np.array_equal(executed.hand_target, OPEN + np.float32(0.125))


def test_the_policy_keeps_its_arm_while_a_person_moves_the_hand(robot):
    executed = robot.step(teleop(delta=0.1), arm=[0, 0.5, 0, 0, 0, 0], hand=OPEN + 0.2)
    assert executed.source == Source.HAND
    assert executed.action[1] == 0.5
    assert np.allclose(executed.hand_target, OPEN + 0.1)


def test_nobody_touching_anything_leaves_every_command_alone(robot):
    executed = robot.step(teleop(), arm=[0.1] * 6, hand=OPEN + 0.1)
    assert executed.source == Source.POLICY and not executed.limited
    assert np.array_equal(executed.hand_target, (OPEN + np.float32(0.1)))


def test_the_hand_base_is_the_executed_target_at_the_press_and_again_at_the_next(robot):
    robot.step(teleop(delta=0.0))
    assert np.allclose(robot.step(teleop(delta=0.2)).hand_target, OPEN + 0.2)
    assert np.allclose(robot.step(teleop(delta=0.1)).hand_target, OPEN + 0.1), 'the base stays while held'
    robot.step(teleop(), hold_hand=True)
    assert np.allclose(robot.step(teleop(delta=0.0)).hand_target, OPEN + 0.1), 'a new press starts from here'


def test_after_release_a_held_hand_keeps_the_last_target(robot):
    robot.step(teleop(delta=0.2))
    assert np.allclose(robot.step(teleop(), hold_hand=True).hand_target, OPEN + 0.2)


@pytest.mark.parametrize('seed', range(5))
def test_taking_over_and_handing_back_never_steps_further_than_one_tick(robot, seed):
    print(f'seed {seed}')
    rng = np.random.default_rng(seed)
    limits = robot.mux.limits
    pose, hand = robot.mux.target_pose, robot.mux.hand_target
    for _ in range(200):
        person = [
            None,
            teleop(),
            teleop(arm=rng.choice([-1, 1], 6)),
            teleop(delta=rng.uniform(-1, 1)),
            teleop(PUSH, 0.5),
        ]
        executed = robot.step(person[rng.integers(5)], arm=rng.choice([-1, 1], 6), hand=rng.integers(0, 2, 6))
        moved = robot.mux.target_pose
        assert np.abs(moved[:3] - pose[:3]).max() <= ROBOT.translation_scale + 1e-9
        assert np.abs(rotations.difference(moved[3:], pose[3:])).max() <= ROBOT.rotation_scale + 1e-9
        assert np.abs(executed.hand_target - hand).max() <= limits.hand.step + 1e-6
        pose, hand = moved, executed.hand_target


def test_a_person_drives_whatever_a_broken_policy_says(robot):
    for tick in range(4):
        executed = robot.step(teleop(arm=0.2 * PUSH), arm=[np.nan] * 6, hand=[np.nan] * 6)
        assert np.array_equal(executed.action[:6], (0.2 * PUSH).astype(np.float32)), f'tick {tick}'
        assert executed.source == Source.ARM and np.array_equal(executed.hand_target, OPEN), 'the hand stands still'
    assert robot.mux.problem is None and robot.mux.log.counts[SafetyEvent.COMMAND_NOT_FINITE] == 4
    executed = robot.step(teleop(), arm=[np.nan] * 6)
    assert executed.limited and not executed.action[:6].any(), 'alone, the policy is held'


def test_standing_still_is_no_intervention(robot):
    robot.mux.watch.watch('camera/wrist', SafetyEvent.CAMERA_SILENT, 0.1, 0)
    robot.mux.watchdog(10**9)
    executed = robot.step(teleop(arm=PUSH))
    assert executed.limited and not executed.action[:6].any() and executed.source == Source.POLICY


def test_a_person_who_vanishes_in_control_leaves_the_robot_holding(robot):
    robot.step(teleop(arm=PUSH))
    before = robot.mux.target_pose
    assert robot.step(None, arm=[1, 0, 0, 0, 0, 0]).limited
    assert robot.step(None, arm=[1, 0, 0, 0, 0, 0]).limited
    assert np.allclose(robot.mux.target_pose, before, atol=1e-9)
    assert robot.mux.log.counts[SafetyEvent.TELEOP_SILENT] == 2
    assert not robot.step(teleop(), arm=[1, 0, 0, 0, 0, 0]).limited, 'released by the first word of the devices'


def test_an_old_teleop_command_of_nobody_is_ignored(robot):
    old = teleop(arm=PUSH)
    old.stamp = 1
    for _ in range(5):
        executed = robot.step()
    executed = robot.step(old, arm=[0, 0.5, 0, 0, 0, 0])
    assert executed.source == Source.POLICY and executed.action[1] == 0.5


@pytest.mark.parametrize('arm', [[np.nan] * 6, np.zeros(3)])
def test_malformed_teleop_is_not_followed(robot, arm):
    assert robot.step(teleop(arm=arm)).source == Source.POLICY
    assert robot.mux.log.counts[SafetyEvent.TELEOP_INVALID] == 1


# The devices


def test_a_dead_zone_and_a_signed_permutation_of_the_axes():
    mapper = TeleopMapper(TeleopSettings(dead_zone=0.1, axes=[-2, 1, 3, -4, -5, -6], gain=[1, 1, 0.5, 1, 1, 1]))
    command = mapper.update(np.array([0.2, 0.3, -0.4, 0.09, 2.0, -0.5]), [], GLOVE, PERIOD)
    assert command.arm_active
    assert np.allclose(command.arm, [-0.3, 0.2, -0.2, 0.0, -1.0, 0.5])
    assert not mapper.update(np.full(6, 0.09), [], GLOVE, 2 * PERIOD).arm_active


@pytest.mark.parametrize('axes', [[1, 2, 3, 4, 5, 5], [1, 2, 3], [0, 1, 2, 3, 4, 5]])
def test_a_wrong_permutation_is_refused(axes):
    with pytest.raises(UserError, match='config/robots/sim.yaml: teleop.axes: .*every device axis'):
        read_teleop(ROBOT.model_copy(update={'teleop': {'axes': axes}}))


def test_buttons_are_named_by_what_they_mark_and_keys_stay_what_they_are():
    robot = ROBOT.model_copy(update={'teleop': {'mark_buttons': {12: 'success', 5: 'failure'}}})
    mapper = TeleopMapper(read_teleop(robot))
    marks = []
    for buttons in ([0] * 12 + [1], [0, 0, 0, 0, 0, 1]):
        mapper.buttons(buttons, PERIOD)
        marks.append(mapper.command(PERIOD).mark)
    mapper.keys([0, 0, 0, 0, 0, 1])
    assert [*marks, mapper.command(PERIOD).mark] == [Mark.SUCCESS, Mark.FAILURE, Mark.PAUSE]
    with pytest.raises(UserError, match='teleop.mark_buttons'):
        read_teleop(ROBOT.model_copy(update={'teleop': {'mark_buttons': {12: 'hooray'}}}))


def test_the_glove_drives_the_hand_as_a_change_since_the_press():
    mapper = TeleopMapper()
    assert not mapper.update(REST, [], GLOVE, PERIOD).hand_active
    pressed = mapper.update(REST, RIGHT, GLOVE, 2 * PERIOD)
    assert pressed.hand_active and not pressed.hand_delta.any()
    assert np.allclose(mapper.update(REST, RIGHT, GLOVE + 0.2, 3 * PERIOD).hand_delta, 0.2)
    released = mapper.update(REST, [0, 0], GLOVE + 0.2, 4 * PERIOD)
    assert not released.hand_active and not released.hand_delta.any()
    assert not mapper.update(REST, RIGHT, GLOVE + 0.2, 5 * PERIOD).hand_delta.any(), 'a new baseline'


def test_a_release_between_two_commands_is_not_missed():
    mapper = TeleopMapper()
    mapper.update(REST, RIGHT, GLOVE, PERIOD)
    mapper.buttons([0, 0], PERIOD + 1)
    mapper.buttons(RIGHT, PERIOD + 2)
    assert not mapper.command(2 * PERIOD).hand_active
    assert mapper.command(2 * PERIOD).hand_active


def test_glove_limits_hold_per_finger():
    mapper = TeleopMapper(TeleopSettings(glove_low=[0.1] * 6, glove_high=[0.6, 1, 1, 1, 1, 1]))
    mapper.update(REST, RIGHT, np.full(6, 0.5), PERIOD)
    assert np.allclose(mapper.update(REST, RIGHT, np.ones(6), 2 * PERIOD).hand_delta, [0.1, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_an_absent_device_is_not_zeros():
    mapper = TeleopMapper()
    assert mapper.command(PERIOD).stamp == PERIOD, 'nobody there: no control, and nothing to worry about'
    mapper.twist(PUSH, PERIOD)
    assert mapper.command(PERIOD).arm_active
    later = mapper.command(20 * PERIOD)
    assert later.arm_active and later.stamp == PERIOD, 'it went away while pushed: control stays and ages'
    mapper.twist(REST, 21 * PERIOD)
    back = mapper.command(21 * PERIOD)
    assert not back.arm_active and back.stamp == 21 * PERIOD


def test_a_device_that_fell_silent_in_somebodys_hands_does_not_spoil_the_marks_of_later_episodes():
    mapper = TeleopMapper(TeleopSettings(device_age=0.2))
    push, second = np.array([0.5, 0, 0, 0, 0, 0]), 1_000_000_000
    mapper.update(push, [0, 1], np.zeros(6), 0)
    held = mapper.command(second)
    assert held.arm_active and held.hand_active and held.stamp == 0, 'it keeps control, and is seen to age'
    mapper.drop_silent(second)
    mapper.keys([0, 0, 0, 1])
    marked = mapper.command(second + 1)
    assert (marked.arm_active, marked.hand_active, marked.stamp, marked.mark) == (
        False,
        False,
        second + 1,
        Mark.FAILURE,
    )
    mapper.update(push, [0, 1], np.zeros(6), 2 * second)
    mapper.drop_silent(2 * second)
    assert mapper.command(2 * second).arm_active, 'one that speaks is left in control'


def test_a_glove_that_never_spoke_gives_no_control():
    mapper = TeleopMapper()
    mapper.buttons(RIGHT, PERIOD)
    assert not mapper.command(PERIOD).hand_active


def test_a_glove_that_comes_back_goes_on_from_where_it_was():
    mapper = TeleopMapper()
    mapper.update(REST, RIGHT, GLOVE, PERIOD)
    mapper.update(REST, RIGHT, GLOVE + 0.1, 2 * PERIOD)
    mapper.twist(REST, 9 * PERIOD)
    mapper.buttons(RIGHT, 9 * PERIOD)
    away = mapper.command(9 * PERIOD)
    assert away.hand_active and away.stamp == 2 * PERIOD and np.allclose(away.hand_delta, 0.1)
    mapper.glove(GLOVE - 0.5, 10 * PERIOD)
    back = mapper.command(10 * PERIOD)
    assert np.allclose(back.hand_delta, 0.1)
    mapper.glove(GLOVE - 0.4, 10 * PERIOD)
    assert np.allclose(mapper.command(10 * PERIOD).hand_delta, 0.2)


@pytest.mark.parametrize('bad', [np.full(6, np.nan), np.zeros(5)])
def test_malformed_device_values_are_as_silence(bad):
    mapper = TeleopMapper()
    mapper.update(PUSH, RIGHT, GLOVE, PERIOD)
    mapper.update(bad, RIGHT, bad, 10 * PERIOD)
    assert mapper.command(10 * PERIOD).stamp == PERIOD


def test_left_button_tap_is_success_and_a_long_press_discards():
    mapper = TeleopMapper()
    marks = [mapper.update(REST, [int(3 <= tick < 6)], GLOVE, tick * PERIOD).mark for tick in range(10)]
    assert marks[6] == Mark.SUCCESS and sum(mark != Mark.NONE for mark in marks) == 1
    marks = [mapper.update(REST, [1], GLOVE, tick * PERIOD).mark for tick in range(20, 45)]
    assert marks[10] == Mark.DISCARD and sum(mark != Mark.NONE for mark in marks) == 1
    assert mapper.update(REST, [0], GLOVE, 46 * PERIOD).mark == Mark.NONE


@pytest.mark.parametrize('silence', [4, 12])
def test_a_spacemouse_that_is_lost_with_its_left_button_down_marks_nothing(silence):
    """When it is back its buttons are up: nobody knows how long the left one was held."""
    mapper = TeleopMapper()
    for tick in range(3):
        assert mapper.update(REST, [1], GLOVE, tick * PERIOD).mark == Mark.NONE
    back = range(2 + silence, 20 + silence)
    assert {mapper.update(REST, [0], GLOVE, tick * PERIOD).mark for tick in back} == {Mark.NONE}
    tap = [mapper.update(REST, [int(tick == 41)], GLOVE, tick * PERIOD).mark for tick in range(40, 45)]
    assert tap[2] == Mark.SUCCESS


@pytest.mark.parametrize('mark', list(Mark))
def test_marks_of_an_operator_arrive_once(mark):
    mapper = TeleopMapper()
    buttons = ScriptedHands().buttons(OperatorInput(mark=mark))
    marks = [
        mapper.update(REST, pressed, GLOVE, tick * PERIOD).mark for tick, pressed in enumerate([buttons, buttons, []])
    ]
    assert marks == [mark, Mark.NONE, Mark.NONE]


def test_two_marks_between_two_commands_are_both_told():
    mapper = TeleopMapper()
    for stamp, buttons in enumerate(([0, 0, 1], [], [0, 0, 0, 1])):
        mapper.buttons(buttons, stamp)
    assert [mapper.command(PERIOD).mark for _ in range(3)] == [Mark.SUCCESS, Mark.FAILURE, Mark.NONE]


def test_marks_do_not_reach_into_the_next_episode():
    mapper = TeleopMapper()
    mapper.buttons([1, 0, 1], PERIOD)
    mapper.begin_episode()
    mapper.buttons([0], 2 * PERIOD)
    assert mapper.command(2 * PERIOD).mark == Mark.NONE


def test_a_hand_held_into_the_next_episode_begins_anew():
    mapper = TeleopMapper()
    mapper.update(REST, RIGHT, GLOVE, PERIOD)
    assert np.allclose(mapper.update(REST, RIGHT, GLOVE + 0.1, 2 * PERIOD).hand_delta, 0.1)
    mapper.begin_episode()
    command = mapper.update(REST, RIGHT, GLOVE + 0.1, 3 * PERIOD)
    assert command.hand_active and not command.hand_delta.any()
    assert np.allclose(mapper.update(REST, RIGHT, GLOVE + 0.2, 4 * PERIOD).hand_delta, 0.1)


def test_a_key_marks_without_letting_go_of_the_hand():
    mapper = TeleopMapper()
    mapper.update(REST, RIGHT, GLOVE, PERIOD)
    mapper.keys([0, 0, 1])
    marked = mapper.update(REST, RIGHT, GLOVE + 0.1, 2 * PERIOD)
    mapper.keys([0, 0, 0])
    after = mapper.update(REST, RIGHT, GLOVE + 0.1, 3 * PERIOD)
    assert (marked.mark, after.mark) == (Mark.SUCCESS, Mark.NONE)
    assert marked.hand_active and after.hand_active
    assert np.allclose(marked.hand_delta, 0.1)


def test_keys_are_no_buttons_of_the_spacemouse():
    mapper = TeleopMapper()
    mapper.keys([1, 1, 0])
    mapper.keys([0, 0, 0])
    command = mapper.update(REST, [], GLOVE, PERIOD)
    assert command.mark == Mark.NONE and not command.hand_active


@pytest.mark.parametrize('mark', [Mark.SUCCESS, Mark.FAILURE, Mark.DISCARD])
def test_scripted_hands_are_understood_with_any_layout_of_the_devices(mark):
    """As of a larger SpaceMouse, whose first buttons are others and whose axes are turned."""
    settings = TeleopSettings(
        axes=[2, -1, 3, 5, -4, 6],
        gain=[0.5, 1.0, 2.0, 1.0, 1.0, 1.0],
        success_or_discard_button=22,
        hand_button=17,
        mark_buttons={12: 'success', 13: 'failure', 14: 'discard'},
        dead_zone=0.0,
    )
    hands, mapper = ScriptedHands(settings), TeleopMapper(settings)
    does = OperatorInput(np.array([0.4, -0.3, 0.2, 0.1, -0.2, 0.5]), right_button=True, glove=GLOVE, mark=mark)
    command = mapper.update(hands.axes(does), hands.buttons(does), does.glove, PERIOD)
    assert np.allclose(command.arm, does.twist, atol=1e-6) and command.hand_active and command.mark == mark


def test_a_scripted_operator_without_a_button_for_a_mark_is_refused():
    with pytest.raises(UserError, match='needs a button for failure, discard in mark_buttons'):
        ScriptedHands(TeleopSettings(mark_buttons={12: 'success'}))


def test_scripted_hands_leave_a_locked_axis_alone():
    settings = TeleopSettings(gain=[1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    axes = ScriptedHands(settings).axes(OperatorInput(np.full(6, 0.5)))
    assert axes.tolist() == [0.5, 0.5, 0.5, 0.0, 0.0, 0.5]
