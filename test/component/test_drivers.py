"""Driver nodes over DDS against emulated devices."""

import time

import pytest

rclpy = pytest.importorskip('rclpy')

from geometry_msgs.msg import TwistStamped
from harness import ros  # noqa: F401
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import String

from dex_rl_nodes.descriptions import GLOVE, HAND_COMMAND, HAND_JOINTS, JOY, TWIST
from dex_rl_nodes.drivers.emulators.hands import RuiyanEmulator
from dex_rl_nodes.drivers.emulators.operator_devices import GloveEmulator, SpaceMouseEmulator
from dex_rl_nodes.drivers.hand import JOINTS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.glove_driver import GloveDriver
from dex_rl_nodes.nodes.hand_driver import HandDriver
from dex_rl_nodes.nodes.spacemouse_driver import SpaceMouseDriver
from dex_rl_nodes.robot import hand_model

START = [0.4, 0.1, 0.2, 0.3, 0.5, 0.6]


class Bench:
    """A driver node with its port set, and a peer that talks to it."""

    def __init__(self, node_class, port):
        overrides = [Parameter('port', value=str(port)), Parameter('robot', value='fr3_ruiyan')]
        self.node = node_class(parameter_overrides=overrides)
        self.peer = rclpy.create_node('peer')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.received = []

    def listen(self, message, topic):
        self.peer.create_subscription(message, topic, self.received.append, qos.PROFILES['SENSOR'])

    def spin_until(self, condition, deadline=10.0):
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f'not within {deadline} s'
            self.executor.spin_once(timeout_sec=0.05)

    def close(self):
        self.node.close()
        self.node.destroy_node()
        self.peer.destroy_node()


def test_hand_driver_says_what_the_hand_looks_like(ros, tmp_path):
    with RuiyanEmulator(tmp_path / 'hand', start=START) as device:
        bench = Bench(HandDriver, device.path)
        bench.listen(JointState, 'joint_states')
        described = []
        bench.peer.create_subscription(String, 'hand_description', described.append, qos.PROFILES['STATE'])
        bench.spin_until(lambda: bench.received and described)
        angles = dict(zip(bench.received[0].name, bench.received[0].position))
        assert list(angles) == list(hand_model.JOINT_NAMES)
        assert list(angles.values()) == pytest.approx(list(hand_model.joint_angles(START)), abs=5e-3)
        assert 'link name="tcp"' in described[0].data
        bench.close()


def test_hand_driver_holds_at_start_then_follows(ros, tmp_path):
    with RuiyanEmulator(tmp_path / 'hand', start=START) as device:
        bench = Bench(HandDriver, device.path)
        bench.listen(JointState, HAND_JOINTS)
        bench.spin_until(lambda: len(bench.received) >= 20)
        assert list(bench.received[-1].name) == list(JOINTS)
        assert list(bench.received[-1].position) == pytest.approx(START, abs=1e-3)
        command = bench.peer.create_publisher(JointState, HAND_COMMAND, qos.PROFILES['COMMAND'])
        goal = [0.6, 0.2, 0.3, 0.4, 0.4, 0.5]

        def reached():
            command.publish(conversions.joint_state(JOINTS, goal, 0))
            return list(bench.received[-1].position) == pytest.approx(goal, abs=5e-3)

        bench.spin_until(reached)
        bench.close()


def test_hand_driver_comes_back_after_unplugging(ros, tmp_path):
    device = RuiyanEmulator(tmp_path / 'hand', start=START)
    device.plug_in()
    bench = Bench(HandDriver, device.path)
    bench.listen(JointState, HAND_JOINTS)
    bench.spin_until(lambda: bench.received)
    device.unplug()
    bench.spin_until(lambda: bench.node._controller.problem)
    count = len(bench.received)
    device.plug_in()
    bench.spin_until(lambda: len(bench.received) > count + 5)
    assert device.motors.position == pytest.approx(START, abs=5e-3)
    bench.close()
    device.unplug()


def test_glove_driver_calibrates_and_falls_silent_with_the_glove(ros, tmp_path):
    from std_srvs.srv import Trigger

    device = GloveEmulator(tmp_path / 'glove')
    device.plug_in()
    bench = Bench(GloveDriver, device.path)
    bench.listen(JointState, GLOVE)
    for service, count in (('calibrate_open', 1000), ('calibrate_fist', 3000)):
        device.counts = [count] * 21
        bench.received.clear()
        bench.spin_until(lambda: len(bench.received) > 35)
        client = bench.peer.create_client(Trigger, f'glove_driver/{service}')
        bench.spin_until(client.service_is_ready)
        for _ in range(5):  # a reply that comes late begins the count anew
            future = client.call_async(Trigger.Request())
            bench.spin_until(future.done)
            if future.result().success:
                break
            count = len(bench.received)
            bench.spin_until(lambda heard=count: len(bench.received) > heard + 35)
        assert future.result().success, future.result().message
    device.counts = [2000] * 21
    bench.spin_until(lambda: list(bench.received[-1].position) == pytest.approx([0.5] * 6, abs=0.01))
    device.unplug()
    bench.spin_until(lambda: bench.node._glove.problem)
    future = client.call_async(Trigger.Request())
    bench.spin_until(future.done)
    assert future.result().message == 'the glove has not answered for long enough; check its cable and try again'
    bench.close()


def test_spacemouse_driver_publishes_in_ros_axes(ros, tmp_path):
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    device.plug_in()
    bench = Bench(SpaceMouseDriver, device.path)
    bench.listen(TwistStamped, TWIST)
    bench.spin_until(lambda: bench.received)
    device.move([0.0, -0.5, 0.0, 0.0, 0.0, 0.0])  # pushed away from the operator
    bench.spin_until(lambda: bench.received[-1].twist.linear.x == pytest.approx(0.5))
    assert bench.received[-1].header.frame_id == 'base', 'the axes are those of the base frame'
    bench.close()
    device.unplug()


def test_a_spacemouse_that_comes_back_does_not_say_that_no_button_is_held(ros, tmp_path):
    """It tells its buttons when one changes; a made-up release would give the hand to the policy."""
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    device.plug_in()
    bench, buttons = Bench(SpaceMouseDriver, device.path), []
    bench.listen(TwistStamped, TWIST)
    bench.peer.create_subscription(Joy, JOY, lambda joy: buttons.append(list(joy.buttons)), qos.PROFILES['SENSOR'])
    bench.spin_until(lambda: bench.received)
    device.press(False, True)
    bench.spin_until(lambda: buttons and buttons[-1] == [0, 1])
    device.unplug()
    bench.spin_until(lambda: bench.node._mouse.problem)
    device.plug_in()
    bench.spin_until(lambda: bench.node._mouse.reconnections == 1)
    heard, known = len(bench.received), len(buttons)
    bench.spin_until(lambda: len(bench.received) > heard + 10)
    assert len(buttons) == known and all(pressed == [0, 1] for pressed in buttons)
    device.press(False, False)
    bench.spin_until(lambda: buttons[-1] == [0, 0])
    bench.close()
    device.unplug()


def test_glove_driver_says_why_a_glove_of_zeros_is_no_glove(ros, tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [0] * 21
        bench = Bench(GloveDriver, device.path)
        bench.listen(JointState, GLOVE)

        def said():
            return bench.node._statuses.get('glove', (None, ''))[1]

        bench.spin_until(lambda: 'answers only zeros; unplug it' in said())
        assert not bench.received, 'zeros would mean an open hand'
        bench.close()


def test_a_hand_driver_with_the_wrong_port_ends_with_one_sentence(ros, tmp_path):
    overrides = [
        Parameter('port', value=str(tmp_path / 'none')),
        Parameter('robot', value='fr3_ruiyan'),
        Parameter('start_deadline', value=0.0),
    ]
    with pytest.raises(UserError, match='none does not exist; check the cable, or set the port'):
        HandDriver(parameter_overrides=overrides)
