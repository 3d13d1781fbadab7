"""command_mux over DDS: ticks, takeover, silence, what is refused."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from mux_bench import FORWARD, HAND, JOINTS, PERIOD, Bench, Live, position, ros  # noqa: F401
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from dex_rl_nodes import config
from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, IMAGES
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import command_mux, conversions
from dex_rl_nodes.nodes.command_mux import CommandMuxNode
from dex_rl_nodes.records import ActionCommand, EpisodeState, Phase, RobotReading, Source, TeleopCommand
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux


def test_lockstep_executes_bit_by_bit_what_the_mux_does_in_process(ros):
    bench = ros(Bench, True)
    reference = CommandMux(load_robot('sim'), load_task('pull_tissue'))
    rng = np.random.default_rng(17)
    period, stamp = 100_000_000, 10**9
    bench.run_episode(stamp)
    for tick in range(40):
        command = ActionCommand(
            stamp, 0, tick, rng.uniform(-1, 1, 6).astype(np.float32), rng.uniform(0, 1, 6).astype(np.float32)
        )
        person = TeleopCommand(stamp, bool(tick // 5 % 2), np.sign(rng.normal(size=6)).astype(np.float32))
        person.hand_active, person.hand_delta = bool(tick // 7 % 2), rng.uniform(-1, 1, 6).astype(np.float32)
        sends = [
            partial(bench.states, stamp),
            partial(bench.send, 'action_command', command),
            partial(bench.send, 'teleop_command', person),
        ]
        for index in rng.permutation(3):
            sends[index]()
        for topic in ('target_pose', HAND_COMMAND, 'executed_action'):
            bench.wait_for_message(topic, tick)
        reading = RobotReading(stamp, bench.pose, bench.hand, joint_position=JOINTS)
        if tick == 0:
            reference.reset(reading, HAND, stamp)
        expected = reference.step(command, person, reading)
        executed = bench.executed()[-1]
        assert np.array_equal(executed.action, expected.action)
        assert np.array_equal(executed.hand_target, expected.hand_target)
        assert (executed.source, executed.limited) == (expected.source, expected.limited)
        assert np.array_equal(position(bench.received['target_pose'][-1]), expected.target_pose)
        assert conversions.stamp_ns(bench.received['target_pose'][-1].header.stamp) == stamp
        assert np.array_equal(np.array(bench.received[HAND_COMMAND][-1].position, np.float32), expected.hand_target)
        bench.pose, stamp = reference.target_pose, stamp + period
    assert {executed.source for executed in bench.executed()} == {int(source) for source in Source}


def test_a_tick_without_its_teleop_command_is_waited_for_and_named(ros, monkeypatch):
    monkeypatch.setattr(command_mux, '_TICK_DEADLINE', 0.3)
    bench = ros(Bench, True)
    bench.run_episode(10**9)
    bench.states(10**9)
    bench.send('action_command', ActionCommand(10**9))
    bench.until(lambda: bench.node.failure)
    assert 'waited 0.3 s for teleop_command of the tick in vain' in str(bench.node.failure)


@pytest.mark.realtime
@pytest.mark.parametrize(
    ('topic', 'event'),
    [
        ('action_command', '116'),
        (IMAGES['front'], '301'),
        (IMAGES['wrist'], '301'),
        (HAND_TOPIC, '304'),
        (CURRENT_POSE, '303'),
    ],
)
def test_motion_stops_within_two_periods_of_silence_and_resumes(ros, monkeypatch, topic, event):
    bench = ros(Live)
    bench.moving()
    bench.silent.add(topic)
    before = len(bench.received['target_pose'])
    publish = bench.node._publish_targets
    told = []
    monkeypatch.setattr(bench.node, '_publish_targets', lambda *given: (publish(*given), told.append(time.monotonic())))
    bench.until(lambda: bench.node._mux.holding)
    held_after = told[-1] - 1e-9 * bench.node._mux.watch._sources[topic].seen
    print(f'{topic}: held {1e3 * held_after:.0f} ms after the last message came in')
    assert held_after < 2 * PERIOD
    bench.until(lambda: len(bench.received['target_pose']) > before + 1)
    held = position(bench.received['target_pose'][-1])
    if topic != CURRENT_POSE:
        assert np.allclose(held, bench.pose, atol=1e-6), 'the target is the measured pose'
    assert np.allclose(bench.received[HAND_COMMAND][-1].position, HAND), 'the hand holds'
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith(f'safety event {event}'))
    assert topic in bench.safety()[1]
    stamps = len(bench.executed())
    bench.silent.clear()
    bench.until(lambda: len(bench.executed()) > stamps and not bench.executed()[-1].limited)


def test_a_frozen_camera_stops_an_arm_that_moves(ros):
    bench = ros(Live)
    bench.moving()
    bench.moving_pixels = False
    for _ in range(6):
        bench.wait_for_message('executed_action', len(bench.executed()))
        bench.pose = bench.pose + np.array([0.006, 0, 0, 0, 0, 0, 0])
    bench.until(lambda: bench.executed()[-1].limited and not bench.executed()[-1].action[:6].any())
    bench.until(lambda: bench.safety() and '302 camera_frozen' in bench.safety()[2])
    bench.moving_pixels = True
    bench.until(lambda: not bench.executed()[-1].limited)


def test_a_grip_outlives_a_few_lost_replies(ros):
    """The hand holds an object, short of its target: it must not let go of it."""
    bench = ros(Live)
    bench.gripping()
    bench.silent.add(HAND_TOPIC)
    bench.until(lambda: bench.node._mux.holding)
    bench.silent.clear()
    count = len(bench.executed())
    bench.until(lambda: len(bench.executed()) > count + 4)
    assert all(np.allclose(e.hand_target, bench.command_hand) for e in bench.executed()[count:])


def test_a_hand_that_was_unplugged_goes_on_from_where_it_is(ros, monkeypatch):
    monkeypatch.setattr(command_mux, '_HAND_AWAY', 200_000_000)
    bench = ros(Live)
    bench.gripping()
    bench.silent.add(HAND_TOPIC)
    bench.until(lambda: bench.node._mux.holding)
    heard = bench.node._heard[HAND_TOPIC]
    bench.until(lambda: time.monotonic_ns() - heard > 250_000_000)
    bench.hand = np.full(6, 0.1, np.float32)  # somebody opens it
    before = len(bench.received[HAND_COMMAND])
    bench.silent.clear()
    count = len(bench.executed())
    bench.until(lambda: len(bench.executed()) > count + 8)
    assert np.allclose(bench.executed()[-1].hand_target, bench.command_hand)
    targets = np.array([message.position[0] for message in bench.received[HAND_COMMAND][before:]])
    fallen = int(np.argmax(targets < 0.5))
    assert np.allclose(targets[:fallen], 0.7) and targets[fallen] == pytest.approx(0.1), 'told before the next tick'
    assert np.diff(targets[fallen:]).max() <= 0.25 + 1e-6


def test_the_terminal_says_once_what_holds_the_robot_and_when_nothing_does(ros, capfd):
    bench = ros(Live, patience=0.5)
    bench.moving()
    capfd.readouterr()
    bench.silent.add(IMAGES['front'])
    bench.until(lambda: bench.node._mux.holding)
    count = len(bench.received['target_pose'])
    bench.until(lambda: len(bench.received['target_pose']) > count + 5)
    bench.silent.clear()
    bench.until(lambda: not bench.executed()[-1].limited)
    said = [line.partition(': ')[2] for line in capfd.readouterr().err.splitlines()]
    assert [line for line in said if 'safety event' in line] == [SafetyEvent.CAMERA_SILENT.sentence(IMAGES['front'])]
    assert said[-1] == 'nothing holds the robot any more'


def test_a_reading_that_is_not_believed_is_named_and_a_stop_is_no_all_clear(ros, capfd):
    bench = ros(Live, patience=2.0)
    bench.moving()
    pose, bench.pose = bench.pose, bench.pose + np.array([5.0, 0, 0, 0, 0, 0, 0])
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 305'))
    bench.call('command_mux/stop')
    bench.pose = pose
    bench.until(lambda: not bench.node._mux.disbelieved)
    count = len(bench.received['target_pose'])
    bench.until(lambda: len(bench.received['target_pose']) > count + 5)
    said = capfd.readouterr().err
    assert said.count('safety event 305') == 1 and 'nothing holds the robot' not in said.partition('305')[2]


def test_a_frozen_camera_that_keeps_an_episode_from_beginning_is_named(ros):
    bench = ros(Live, patience=2.0)
    bench.moving()
    bench.send('episode', EpisodeState(bench.now(), 0, Phase.ENDED, purpose='demos'))
    bench.until(lambda: not bench.node.running)
    bench.send('episode', EpisodeState(bench.now(), 1, Phase.RESETTING, purpose='demos'))
    bench.until(lambda: bench.node.episode.phase == Phase.RESETTING)
    bench.node._on_reset_command(ActionCommand(bench.now(), 1, 0, np.zeros(6, np.float32), HAND))
    bench.moving_pixels = False
    for _ in range(6):
        before = dict(bench.node._heard)
        bench.until(lambda then=before: all(bench.node._heard[topic] > then[topic] for topic in IMAGES.values()))
        bench.pose = bench.pose + np.array([0.006, 0, 0, 0, 0, 0, 0])
    bench.until(lambda: bench.node._mux.watch.causes())
    assert not bench.node._mux.holding, 'in a reset it holds nothing'
    count = len(bench.executed())
    bench.run_episode(bench.now())
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 302'))
    assert len(bench.executed()) == count
    bench.moving_pixels = True
    bench.until(lambda: len(bench.executed()) > count)


def test_nan_is_held_and_counted(ros):
    bench = ros(Live)
    bench.moving()
    bench.arm = np.full(6, np.nan, np.float32)
    bench.until(lambda: bench.executed()[-1].limited)
    assert not np.any(np.asarray(bench.executed()[-1].action[:6]))
    assert np.isfinite(position(bench.received['target_pose'][-1])).all()
    bench.until(lambda: bench.safety() and bench.safety()[2].get('101 command_not_finite'))


def test_a_person_takes_over_and_hands_back_without_a_jump(ros):
    bench = ros(Live, patience=2.0)
    bench.moving()
    bench.command_hand = HAND + np.float32(0.2)
    for person in (TeleopCommand(0, True, -FORWARD, True, np.full(6, 0.5, np.float32)), TeleopCommand(0)):
        bench.person = person
        source = Source.BOTH if person.arm_active else Source.POLICY
        bench.until(lambda s=source: [e.source for e in bench.executed()[-4:]] == [s] * 4)
    targets = np.array([position(message)[:3] for message in bench.received['target_pose']])
    hands = np.array([message.position for message in bench.received[HAND_COMMAND]])
    assert np.abs(np.diff(targets, axis=0)).max() <= 0.02 + 1e-6
    assert np.abs(np.diff(hands, axis=0)).max() <= 0.25 + 1e-6
    assert np.allclose(hands[-1], HAND + np.float32(0.2)), "the hand is the policy's again"


def test_a_hand_button_let_go_of_and_pressed_between_two_ticks_leaves_the_hand_where_it_is(ros):
    bench = ros(Live, patience=2.0)
    bench.person = TeleopCommand(0, hand_active=True, hand_delta=np.full(6, 0.2, np.float32))
    bench.until(lambda: bench.executed() and np.allclose(bench.executed()[-1].hand_target, HAND + 0.2))
    released, pressed = TeleopCommand(bench.now()), replace(bench.person, hand_delta=np.zeros(6, np.float32))
    bench.node._on_teleop(released)
    bench.person = pressed
    bench.node._on_teleop(replace(pressed, stamp=bench.now()))
    count = len(bench.executed())
    bench.until(lambda: len(bench.executed()) > count + 3)
    assert all(e.source == Source.HAND and np.allclose(e.hand_target, HAND + 0.2) for e in bench.executed()[count:])


def test_a_teleop_that_is_gone_holds_the_robot_also_when_the_policy_drives(ros):
    bench = ros(Live)
    bench.moving()
    bench.silent.add('teleop_command')
    bench.until(lambda: bench.executed()[-1].limited and not bench.executed()[-1].action[:6].any())
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 122'))
    assert np.allclose(position(bench.received['target_pose'][-1]), bench.pose, atol=1e-6)
    bench.silent.clear()
    bench.until(lambda: not bench.executed()[-1].limited)


def test_nobody_is_missed_where_nobody_stands_by(ros):
    bench = ros(Live, teleop_required=False)
    bench.silent.add('teleop_command')
    bench.moving()
    heard = bench.safety()
    assert heard is None or '122 teleop_silent' not in heard[2]


def test_the_arm_stays_where_it_is_when_the_graph_ends(ros):
    bench = ros(Live)
    bench.moving()
    assert position(bench.received['target_pose'][-1])[0] > bench.pose[0] + 0.005
    heard = len(bench.received['target_pose'])
    bench.node.close()
    bench.executor.remove_node(bench.node)
    bench.wait_for_message('target_pose', heard)
    assert np.allclose(position(bench.received['target_pose'][-1]), bench.pose, atol=1e-6)


def test_a_rate_at_which_cameras_would_always_be_silent_is_refused(ros, monkeypatch):
    load = config.load_robot
    monkeypatch.setattr(config, 'load_robot', lambda name: load(name).model_copy(update={'control_rate': 30.0}))
    with pytest.raises(UserError, match='control_rate 30 Hz a camera may be silent for 0.027 s, but a frame comes'):
        CommandMuxNode()


def test_a_dry_run_does_everything_but_move(ros):
    bench = ros(Live, dry_run=True)
    bench.arm = FORWARD
    bench.until(lambda: len(bench.executed()) > 2 and bench.executed()[-1].action[0] == 0.5)
    assert bench.peer.count_publishers('target_pose') == 0 and bench.peer.count_publishers(HAND_COMMAND) == 0
    assert bench.received['target_pose'] == []


def test_a_dry_run_in_lockstep_is_refused(ros):
    with pytest.raises(UserError, match='dry_run needs lockstep:=false'):
        CommandMuxNode(parameter_overrides=[Parameter('dry_run', value=True), Parameter('lockstep', value=True)])


def test_nothing_is_published_before_an_episode_runs(ros):
    bench = ros(Bench, False)
    for step in range(5):
        bench.states(10**9 + step)
        bench.send('action_command', ActionCommand(10**9 + step, 0, step, FORWARD))
    heard = len(bench.received['/diagnostics'])
    bench.until(lambda: len(bench.received['/diagnostics']) > heard)
    assert bench.received['target_pose'] == [] and bench.executed() == []


def test_a_joint_state_without_a_finger_is_named(ros):
    bench = ros(Live)
    bench.until(lambda: len(bench.executed()) > 1)
    bench.send(HAND_TOPIC, JointState(name=['thumb_rotation'], position=[0.0]))
    bench.until(lambda: bench.safety() and '305 reading_invalid' in bench.safety()[2])
    assert 'thumb_bend' in bench.safety()[2]['305 reading_invalid']
