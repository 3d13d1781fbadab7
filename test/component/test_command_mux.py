"""command_mux over DDS: ticks, takeover, silence, second publishers, stops."""

import os
import time
from functools import partial

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from dex_rl_nodes.config import load_robot, load_task  # noqa: E402
from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, IMAGES, MEASURED_JOINTS, TOPICS  # noqa: E402
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC  # noqa: E402
from dex_rl_nodes.errors import UserError  # noqa: E402
from dex_rl_nodes.nodes import command_mux, conversions, qos  # noqa: E402
from dex_rl_nodes.nodes.command_mux import CommandMuxNode  # noqa: E402
from dex_rl_nodes.nodes.publishers import other_publisher  # noqa: E402
from dex_rl_nodes.records import (  # noqa: E402
    ARM_JOINTS,
    HAND_JOINTS,
    ActionCommand,
    EpisodeState,
    Phase,
    RobotReading,
    Source,
    TeleopCommand,
)
from dex_rl_nodes.robot import kinematics, rotations  # noqa: E402
from dex_rl_nodes.robot.mux import CommandMux  # noqa: E402

JOINTS = np.array([0.0, -0.1, 0.0, -2.4, 0.0, 2.3, np.pi / 4])
PERIOD = 0.1
HAND = np.full(6, 0.4, np.float32)
FORWARD = np.array([0.5, 0, 0, 0, 0, 0], np.float32)


def start_pose():
    frame = kinematics.forward(JOINTS)
    return np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])


class Bench:
    """The node, and a peer that plays everything around it."""

    def __init__(self, lockstep, **parameters):
        overrides = {'lockstep': lockstep, **parameters}
        self.node = CommandMuxNode(
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()]
        )
        self.lockstep = lockstep
        self.peer = rclpy.create_node('peer')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.publishers, self.received = {}, {}
        self.pose, self.hand, self.effort, self.silent = start_pose(), HAND.copy(), [], set()
        for topic in (
            CURRENT_POSE,
            MEASURED_JOINTS,
            HAND_TOPIC,
            'teleop_command',
            'action_command',
            'episode',
            *IMAGES.values(),
        ):
            self.publishers[topic] = self.peer.create_publisher(*self._kind(topic))
        for topic in ('target_pose', HAND_COMMAND, 'executed_action', '/diagnostics'):
            self.received[topic] = []
            self.peer.create_subscription(
                self._kind(topic)[0], topic, lambda m, t=topic: self._take(t, m), self._kind(topic)[2]
            )
        matched = [self.publishers[topic] for topic in self.publishers if not (lockstep and topic in IMAGES.values())]
        self.until(lambda: all(publisher.get_subscription_count() for publisher in matched))

    def _kind(self, topic):
        return conversions.interface(TOPICS[topic].type), topic, qos.profile(TOPICS[topic].qos, self.lockstep)

    def _take(self, topic, message):
        self.received[topic].append(message)

    def until(self, condition, deadline=10.0):
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f'not within {deadline} s'
            self.executor.spin_once(timeout_sec=0.02)

    def wait_for_message(self, topic, heard):
        """Wait for one more than those that were heard."""
        self.until(lambda: len(self.received[topic]) > heard)

    def send(self, topic, content):
        kind = self._kind(topic)[0]
        self.publishers[topic].publish(content if isinstance(content, kind) else conversions.to_message(content, kind))

    def run_episode(self, stamp):
        self.send('episode', EpisodeState(stamp, 0, Phase.RUNNING, hand_target=HAND, purpose='demos'))
        self.until(lambda: self.node.running)

    def states(self, stamp):
        if CURRENT_POSE not in self.silent:
            self.send(CURRENT_POSE, conversions.pose_stamped(self.pose, stamp, 'base'))
            self.send(MEASURED_JOINTS, conversions.joint_state(ARM_JOINTS, JOINTS, stamp))
        if HAND_TOPIC not in self.silent:
            message = conversions.joint_state(HAND_JOINTS, self.hand, stamp)
            message.effort = list(self.effort)
            self.send(HAND_TOPIC, message)

    def executed(self):
        return self.received['executed_action']

    def safety(self):
        """Level, message and counts of the latest word about safety on /diagnostics."""
        for array in reversed(self.received['/diagnostics']):
            for status in array.status:
                if status.name == 'command_mux: safety':
                    return status.level, status.message, {pair.key: pair.value for pair in status.values}
        return None

    def call(self, service):
        client = self.peer.create_client(Trigger, service)
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()

    def close(self):
        self.node.close()
        self.node.destroy_node()
        self.peer.destroy_node()


class Live(Bench):
    """Real time: states at 50 Hz, cameras and commands at 10 Hz, unless they are told to be silent."""

    def __init__(self, **parameters):
        super().__init__(False, **parameters)
        self.arm, self.command_hand = np.zeros(6, np.float32), HAND.copy()
        self.step, self.pixels, self.moving_pixels = 0, 0, True
        self.peer.create_timer(0.02, lambda: self.states(self.now()))
        self.peer.create_timer(PERIOD, self._tick)
        self.run_episode(self.now())

    def now(self):
        return self.peer.get_clock().now().nanoseconds

    def _tick(self):
        stamp = self.now()
        self.pixels += self.moving_pixels
        for topic in IMAGES.values():
            if topic not in self.silent:
                image = conversions.image_message(np.full((16, 24, 3), self.pixels % 256, np.uint8), stamp, 'camera')
                self.send(topic, image)
        if 'action_command' not in self.silent:
            self.send('action_command', ActionCommand(stamp, 0, self.step, self.arm, self.command_hand))
            self.step += 1

    def moving(self):
        """Wait until the arm is being moved, its target ahead of it."""
        self.arm = FORWARD
        count = len(self.executed())
        self.until(lambda: len(self.executed()) > count + 2 and self.executed()[-1].action[0] == 0.5)


@pytest.fixture
def ros(monkeypatch):
    """An isolated ROS context."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init(domain_id=30 + os.getpid() % 60)
    benches = []

    def make(kind, *arguments, **parameters):
        benches.append(kind(*arguments, **parameters))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()
    rclpy.try_shutdown()


def position(message):
    return conversions.pose_array(message.pose)


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


def test_nan_is_held_and_counted(ros):
    bench = ros(Live)
    bench.moving()
    bench.arm = np.full(6, np.nan, np.float32)
    bench.until(lambda: bench.executed()[-1].limited)
    assert not np.any(np.asarray(bench.executed()[-1].action[:6]))
    assert np.isfinite(position(bench.received['target_pose'][-1])).all()
    bench.until(lambda: bench.safety() and bench.safety()[2].get('101 command_not_finite'))


def test_a_person_takes_over_and_hands_back_without_a_jump(ros):
    bench = ros(Live)
    bench.moving()
    bench.command_hand = HAND + np.float32(0.2)
    timer = None
    for person in (TeleopCommand(0, True, -FORWARD, True, np.full(6, 0.5, np.float32)), TeleopCommand(0)):
        if timer:
            bench.peer.destroy_timer(timer)
        timer = bench.peer.create_timer(
            0.02, lambda p=person: bench.send('teleop_command', TeleopCommand(bench.now(), *_fields(p)))
        )
        source = Source.BOTH if person.arm_active else Source.POLICY
        bench.until(lambda s=source: [e.source for e in bench.executed()[-4:]] == [s] * 4)
    targets = np.array([position(message)[:3] for message in bench.received['target_pose']])
    hands = np.array([message.position for message in bench.received[HAND_COMMAND]])
    assert np.abs(np.diff(targets, axis=0)).max() <= 0.02 + 1e-6
    assert np.abs(np.diff(hands, axis=0)).max() <= 0.25 + 1e-6
    assert np.allclose(hands[-1], HAND + np.float32(0.2)), "the hand is the policy's again"


def _fields(person):
    return person.arm_active, person.arm, person.hand_active, person.hand_delta


def test_a_second_publisher_latches_a_stop_that_is_reset_when_it_is_gone(ros):
    bench = ros(Live)
    bench.moving()
    intruder = rclpy.create_node('joystick')
    intruder.create_publisher(PoseStamped, 'target_pose', 1)
    bench.until(lambda: bench.executed()[-1].stopped)
    bench.until(lambda: bench.safety() and bench.safety()[0] == DiagnosticStatus.ERROR)
    assert bench.safety()[1].startswith('safety event 501: somebody else commands the robot (joystick on target_pose)')
    assert np.allclose(position(bench.received['target_pose'][-1]), bench.pose, atol=1e-6)
    refused = bench.call('command_mux/reset_stop')
    assert not refused.success and 'joystick' in refused.message
    intruder.destroy_node()
    bench.until(lambda: not other_publisher(bench.node, ('target_pose', HAND_COMMAND)))
    assert bench.call('command_mux/reset_stop').success
    bench.until(lambda: not bench.executed()[-1].stopped and bench.executed()[-1].action[0] == 0.5)


def test_nothing_moves_before_a_second_publisher_is_gone(ros):
    intruder = rclpy.create_node('command_mux')
    intruder.create_publisher(PoseStamped, 'target_pose', 1)
    bench = ros(Bench, True, teleop_required=False)
    bench.until(lambda: bench.node._intruder)
    bench.run_episode(10**9)
    bench.states(10**9)
    bench.send('action_command', ActionCommand(10**9, 0, 0, FORWARD))
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 501'))
    assert 'another command_mux on target_pose' in bench.safety()[1]
    assert bench.executed() == [] and bench.received['target_pose'] == []
    intruder.destroy_node()
    bench.until(lambda: bench.executed())
    assert bench.executed()[0].action[0] == 0.5 and not bench.executed()[0].stopped


def test_a_person_stops_the_robot_with_a_service(ros):
    bench = ros(Live)
    bench.moving()
    assert '503' in bench.call('command_mux/stop').message
    bench.until(lambda: bench.executed()[-1].stopped)
    assert bench.call('command_mux/reset_stop').success
    bench.until(lambda: not bench.executed()[-1].stopped)


def test_a_fault_a_driver_cannot_clear_latches_a_stop(ros):
    bench = ros(Live)
    publisher = bench.peer.create_publisher(DiagnosticArray, '/diagnostics', qos.PROFILES['DIAGNOSTICS'])
    fault = [KeyValue(key='fault', value='index: over-temperature')]
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR, name='hand_driver: hand', values=fault)
    bench.until(lambda: publisher.get_subscription_count() >= 2)
    for report in range(3):
        assert not bench.node._mux.stopped
        publisher.publish(DiagnosticArray(status=[status]))
        bench.until(lambda n=report: bench.node._faults._counts.get('hand_driver: hand') == n + 1)
    bench.until(lambda: bench.node._mux.stopped)
    assert '502' in bench.node._mux.stop_reason and 'over-temperature' in bench.node._mux.stop_reason


def test_a_motor_with_too_much_current_is_not_pushed_further(ros):
    bench = ros(Live)
    bench.effort = [0.0, 0.0, 1.5, 0.0, 0.0, 0.0]
    bench.command_hand = HAND + np.float32(0.1)
    bench.until(lambda: bench.executed() and bench.executed()[-1].limited)
    assert np.allclose(bench.executed()[-1].hand_target, HAND + np.array([0.1, 0.1, 0, 0.1, 0.1, 0.1]), atol=1e-6)


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
