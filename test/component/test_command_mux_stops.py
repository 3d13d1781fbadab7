"""command_mux over DDS: what stops the robot for good, and how it is reset."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from mux_bench import FORWARD, HAND, JOINTS, Bench, Live, position, ros  # noqa: F401
from sensor_msgs.msg import JointState

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, IMAGES
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.publishers import other_publisher
from dex_rl_nodes.records import HAND_JOINTS, ActionCommand, EpisodeState, Phase, TeleopCommand
from dex_rl_nodes.robot import hand_model, kinematics, rotations
from dex_rl_nodes.robot.events import SafetyEvent


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
    bench.next_episode()
    bench.until(lambda: not bench.executed()[-1].stopped and bench.executed()[-1].action[0] == 0.5)


def test_nothing_moves_before_a_second_publisher_is_gone(ros):
    intruder = rclpy.create_node('command_mux')
    intruder.create_publisher(PoseStamped, 'target_pose', 1)
    bench = ros(Bench, True, teleop_required=False)
    bench.until(lambda: bench.node._lookout.intruder)
    bench.run_episode(10**9)
    bench.states(10**9)
    bench.send('action_command', ActionCommand(10**9, 0, 0, FORWARD))
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 501'))
    assert 'another command_mux on target_pose' in bench.safety()[1]
    assert bench.executed() == [] and bench.received['target_pose'] == []
    intruder.destroy_node()
    bench.until(lambda: bench.executed())
    assert bench.executed()[0].action[0] == 0.5 and not bench.executed()[0].stopped


def test_nothing_moves_while_two_robots_speak_on_one_topic(ros):
    other = rclpy.create_node('arm_of_another_robot')
    other.create_publisher(PoseStamped, CURRENT_POSE, 1)
    bench = ros(Bench, True, teleop_required=False)
    bench.until(lambda: bench.node._lookout.doubled)
    bench.run_episode(10**9)
    bench.states(10**9)
    bench.send('action_command', ActionCommand(10**9, 0, 0, FORWARD))
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('begins no motion'))
    assert 'arm_of_another_robot' in bench.safety()[1] and CURRENT_POSE in bench.safety()[1]
    assert bench.executed() == [] and bench.received['target_pose'] == [] and not bench.node._mux.stopped
    other.destroy_node()
    bench.until(lambda: bench.executed())
    assert bench.executed()[0].action[0] == 0.5


def test_two_robots_on_one_topic_stop_nothing_that_moves_already(ros):
    """A process that was killed and started again is two for a while."""
    bench = ros(Live, patience=2.0)
    bench.moving()
    other = rclpy.create_node('hand_driver')
    other.create_publisher(JointState, HAND_TOPIC, 1)
    bench.until(lambda: other_publisher(bench.node, (HAND_TOPIC,)))
    looked = bench.node._lookout._looked_at
    bench.until(lambda: bench.node._lookout._looked_at > looked)
    count = len(bench.executed())
    bench.until(lambda: len(bench.executed()) > count + 2)
    assert not any(e.stopped or e.limited for e in bench.executed()[count:])
    other.destroy_node()


@pytest.mark.parametrize('phase', [Phase.RUNNING, Phase.RESETTING])
def test_a_real_arm_whose_first_pose_is_not_that_of_its_joints_is_not_believed(ros, phase):
    bench = ros(Quiet, robot='fr3_ruiyan')
    node, frame = bench.node, kinematics.forward(JOINTS, hand_model.tool())
    true = np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])
    bench.announce(phase, 0)

    def asked(pose):
        bench.pose, stamp = pose, bench.now()
        bench.states(stamp)
        bench.send('teleop_command', TeleopCommand(stamp))
        for topic in IMAGES.values():
            bench.send(topic, conversions.image_message(np.full((16, 24, 3), stamp % 256, np.uint8), stamp, 'camera'))
        bench.until(lambda: not node._reports.missing() and node._reports.reading().stamp == stamp)
        command = ActionCommand(bench.now(), 0, 0, np.zeros(6, np.float32), HAND)
        node._on_command(command) if phase == Phase.RUNNING else node._on_reset_command(command)

    end = time.monotonic() + 10
    while 'from where the joints put the TCP' not in str(node._mux.log.summary()):
        assert time.monotonic() < end and node._fresh
        for pose in ([0.0, 0, 0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0, 0, 1], [0.0, 0, 0, 0, 0, 0, 1]):
            asked(np.array(pose))
    assert node._fresh and not bench.received['target_pose']
    while node._fresh and time.monotonic() < end:
        asked(true)
    assert not node._fresh and np.allclose(node._mux.target_pose, true, atol=1e-6)


def test_a_person_stops_the_robot_with_a_service(ros):
    bench = ros(Live)
    bench.moving()
    assert '503' in bench.call('command_mux/stop').message
    bench.until(lambda: bench.executed()[-1].stopped)
    assert bench.call('command_mux/reset_stop').success
    count = len(bench.executed())
    bench.until(lambda: len(bench.executed()) > count + 3)
    assert all(e.stopped and not any(e.action[:6]) for e in bench.executed()[count:]), 'the episode has ended with it'
    bench.next_episode()
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


def test_currents_belong_to_the_motors_that_are_named_beside_them():
    message = conversions.joint_state(HAND_JOINTS[::-1], HAND[::-1], 1)
    message.effort = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    found = conversions.by_joint(message, HAND_JOINTS, message.effort)
    assert found.tolist() == [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert not conversions.by_joint(message, HAND_JOINTS, []).any(), 'a driver that measures no current'


class Quiet(Bench):
    """Real time, and nothing comes but what a test sends."""

    def __init__(self, **parameters):
        super().__init__(False, **parameters)

    def now(self):
        return self.peer.get_clock().now().nanoseconds

    def announce(self, phase, episode):
        self.send('episode', EpisodeState(self.now(), episode, phase, purpose='demos'))
        self.until(lambda: (self.node.episode.phase, self.node.episode.episode) == (phase, episode))


@pytest.mark.parametrize('until', ['states', 'publisher'])
def test_a_command_that_waited_is_not_executed_after_its_episode(ros, until):
    bench = ros(Quiet)
    node, missing = bench.node, {HAND_TOPIC} if until == 'states' else set()
    if until == 'publisher':
        node._lookout.intruder = 'joystick'  # and nobody looks before the next report comes
        node._lookout._looked_at = float('inf')
    bench.silent = missing
    bench.states(bench.now())
    bench.until(lambda: set(node._reports.missing()) == missing)
    bench.run_episode(bench.now())
    bench.send('action_command', ActionCommand(bench.now(), 0, 0, FORWARD, HAND))
    bench.until(lambda: node._command is not None)
    bench.announce(Phase.ENDED, 0)
    bench.announce(Phase.PAUSED, 0)
    node._lookout.intruder, bench.silent = '', set()
    heard = dict(node._reports.came_at)
    bench.states(bench.now())
    bench.until(lambda: all(at > heard.get(topic, 0) for topic, at in node._reports.came_at.items()))
    bench.until(lambda: HAND_TOPIC in node._reports.came_at)
    bench.call('command_mux/reset_stop')  # whatever was published before has come
    assert not bench.executed() and not bench.received['target_pose'] and node._fresh
    bench.pose = bench.pose + np.array([0.15, 0, 0, 0, 0, 0, 0])  # guided by hand in the pause
    bench.announce(Phase.RESETTING, 1)
    bench.states(bench.now())
    bench.until(lambda: node._reports.reading().tcp_pose[0] == pytest.approx(bench.pose[0]))
    node._on_reset_command(ActionCommand(bench.now(), 1, 0, np.zeros(6, np.float32), HAND))
    bench.until(lambda: bench.received['target_pose'])
    assert np.allclose(position(bench.received['target_pose'][0]), bench.pose, atol=1e-6), 'where it is measured'


def test_an_episode_that_ends_while_the_arm_is_silent_leaves_its_target(ros):
    bench = ros(Live, patience=2.0)
    bench.moving()
    bench.silent = {CURRENT_POSE}
    bench.until(lambda: any(event == SafetyEvent.ARM_SILENT for event, _ in bench.node._mux.holding))
    held = bench.node._mux.target_pose
    bench.silent |= {'action_command'}
    bench.send('episode', EpisodeState(bench.now(), 0, Phase.ENDED, purpose='demos'))
    bench.until(lambda: not bench.node.running)
    assert np.array_equal(bench.node._mux.target_pose, held) and not np.allclose(held, bench.pose, atol=1e-3)


def test_another_reset_begins_where_the_robot_is(ros):
    bench = ros(Quiet)
    node = bench.node
    for episode, moved in ((0, 0.0), (1, 0.1)):
        bench.announce(Phase.RESETTING, episode)
        bench.pose = bench.pose + np.array([moved, 0, 0, 0, 0, 0, 0])
        bench.states(bench.now())
        bench.until(lambda: not node._reports.missing())
        bench.until(lambda: node._reports.reading().tcp_pose[0] == pytest.approx(bench.pose[0]))
        node._on_reset_command(ActionCommand(bench.now(), episode, 0, np.zeros(6, np.float32), HAND))
        assert np.allclose(node._mux.target_pose, bench.pose, atol=1e-6)


def test_a_stop_ends_a_reset_for_good_also_when_it_is_released(ros):
    bench = ros(Quiet)
    node, told = bench.node, []
    kind, topic, profile = bench._kind('safety_stop')
    bench.peer.create_subscription(kind, topic, lambda message: told.append(message.data), profile)
    bench.announce(Phase.RESETTING, 0)
    bench.states(bench.now())
    bench.until(lambda: not node._reports.missing())

    def follows(step):
        heard = len(bench.received['target_pose'])
        node._on_reset_command(ActionCommand(bench.now(), node.episode.episode, step, np.zeros(6, np.float32), HAND))
        bench.call('command_mux/reset_stop')  # whatever was published before has come
        return len(bench.received['target_pose']) > heard

    assert follows(0)
    bench.call('command_mux/stop')
    bench.until(lambda: told and '503' in told[-1])
    bench.call('command_mux/reset_stop')
    bench.until(lambda: told[-1] == '')
    assert not follows(1) and not follows(2)
    bench.announce(Phase.PAUSED, 0)
    bench.announce(Phase.RESETTING, 0)
    bench.states(bench.now())
    bench.until(lambda: not node._reports.missing())
    assert follows(0), 'another one is followed again'


def test_a_first_command_that_found_the_hand_silent_is_answered_when_it_is_back(ros):
    """A policy whose command is not answered sends no other."""
    bench = ros(Quiet)
    node = bench.node
    bench.states(bench.now())
    bench.until(lambda: not node._reports.missing())
    bench.run_episode(bench.now())
    bench.until(lambda: node._mux.watch.check(time.monotonic_ns()) or node._mux.watch.causes())
    node._on_command(ActionCommand(bench.now(), 0, 0, FORWARD, HAND))
    assert node._fresh and node._command is not None and not bench.executed()

    def answered():
        stamp = bench.now()
        bench.states(stamp)
        bench.send('teleop_command', TeleopCommand(stamp))
        for topic in IMAGES.values():
            bench.send(topic, conversions.image_message(np.full((16, 24, 3), stamp % 256, np.uint8), stamp, 'camera'))
        return bench.executed()

    bench.until(answered)
    assert (bench.executed()[0].episode, bench.executed()[0].step) == (0, 0)
