"""teleop over DDS: devices in, teleop_command out."""

import os
import time
from functools import partial

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from geometry_msgs.msg import TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState, Joy

from dex_rl_nodes.descriptions import GLOVE, JOY, TOPICS, TWIST
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.node import OK, WARN
from dex_rl_nodes.nodes.teleop import Teleop
from dex_rl_nodes.records import HAND_JOINTS, EpisodeState, Mark, Phase
from dex_rl_nodes.robot.teleop import TeleopMapper


class Bench:
    """The node, and a peer with the devices."""

    def __init__(self, lockstep):
        self.node = Teleop(parameter_overrides=[Parameter('lockstep', value=lockstep)])
        self.peer = rclpy.create_node('peer')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.commands = []

        def kind(topic):
            return conversions.interface(TOPICS[topic].type), topic, qos.profile(TOPICS[topic].qos, lockstep)

        self.publishers = {topic: self.peer.create_publisher(*kind(topic)) for topic in (TWIST, JOY, GLOVE, 'episode')}
        message, topic, profile = kind('teleop_command')
        self.peer.create_subscription(message, topic, self.commands.append, profile)
        self.until(lambda: all(publisher.get_subscription_count() for publisher in self.publishers.values()))
        episode = EpisodeState(1, 0, Phase.RUNNING)
        self.publishers['episode'].publish(conversions.to_message(episode, kind('episode')[0]))
        self.until(lambda: self.node.running)

    def until(self, condition, deadline=10.0):
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f'not within {deadline} s'
            self.executor.spin_once(timeout_sec=0.02)

    def heard(self, count):
        return len(self.commands) == count

    def twist(self, axes, stamp=1):
        message = TwistStamped()
        message.header.stamp = conversions.time_message(stamp)
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = (float(value) for value in axes)
        self.publishers[TWIST].publish(message)

    def joy(self, buttons, stamp=1):
        message = Joy(buttons=buttons)
        message.header.stamp = conversions.time_message(stamp)
        self.publishers[JOY].publish(message)

    def glove(self, fingers, stamp=1):
        self.publishers[GLOVE].publish(conversions.joint_state(HAND_JOINTS, fingers, stamp))

    def close(self):
        self.node.destroy_node()
        self.peer.destroy_node()


@pytest.fixture
def ros(monkeypatch):
    """An isolated ROS context."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init(domain_id=int(os.environ['ROS_DOMAIN_ID']))
    benches = []

    def make(lockstep):
        benches.append(Bench(lockstep))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()
    rclpy.try_shutdown()


def test_lockstep_gives_one_command_per_tick_the_same_as_in_process(ros):
    bench, mapper, rng = ros(True), TeleopMapper(), np.random.default_rng(23)
    for tick in range(1, 30):
        stamp = tick * 100_000_000
        twist, glove = np.round(rng.uniform(-1, 1, 6)) * 0.5, rng.uniform(0, 1, 6)
        buttons = rng.integers(0, 2, 6).tolist()
        sends = [
            partial(bench.twist, twist, stamp),
            partial(bench.joy, buttons, stamp),
            partial(bench.glove, glove, stamp),
        ]
        for index in rng.permutation(3):
            sends[index]()
        bench.until(partial(bench.heard, tick))
        command, expected = bench.commands[-1], mapper.update(twist, buttons, glove, stamp)
        assert conversions.stamp_ns(command.header.stamp) == stamp
        assert (command.arm_active, command.hand_active) == (expected.arm_active, expected.hand_active)
        assert np.array_equal(command.arm, expected.arm) and np.array_equal(command.hand_delta, expected.hand_delta)
        assert command.mark == expected.mark


def test_without_devices_nobody_is_in_control(ros):
    bench = ros(False)
    bench.until(lambda: len(bench.commands) > 5)
    assert not any(command.arm_active or command.hand_active or command.mark for command in bench.commands)


def test_real_time_takes_over_arm_then_hand_then_marks(ros):
    bench = ros(False)
    timer = bench.peer.create_timer(0.02, lambda: (bench.twist([0.5, 0, 0, 0, 0, 0]), bench.glove([0.3] * 6)))
    bench.until(lambda: bench.commands and bench.commands[-1].arm_active)
    assert bench.commands[-1].arm[0] == 0.5 and not bench.commands[-1].hand_active
    bench.peer.create_timer(0.02, lambda: bench.joy([0, 1]))
    bench.until(lambda: bench.commands[-1].hand_active)
    assert not np.any(bench.commands[-1].hand_delta)
    bench.peer.destroy_timer(timer)
    bench.peer.create_timer(0.02, lambda: (bench.twist([0.0] * 6), bench.glove([0.5] * 6)))
    bench.until(lambda: not bench.commands[-1].arm_active and np.allclose(bench.commands[-1].hand_delta, 0.2))


def test_a_mark_between_two_commands_is_told_once(ros):
    bench = ros(False)
    bench.joy([0, 0, 1])
    bench.until(lambda: any(command.mark == Mark.SUCCESS for command in bench.commands))
    bench.joy([0, 0, 0])
    count = len(bench.commands)
    bench.until(lambda: len(bench.commands) > count + 3)
    assert sum(command.mark != Mark.NONE for command in bench.commands) == 1


def test_a_spacemouse_unplugged_while_pushed_keeps_control_and_ages(ros):
    bench = ros(False)
    bench.twist([0.5, 0, 0, 0, 0, 0])
    bench.until(lambda: bench.commands and bench.commands[-1].arm_active)
    bench.until(
        lambda: conversions.stamp_ns(bench.commands[-1].header.stamp) < bench.node.get_clock().now().nanoseconds - 5e8
    )
    assert bench.commands[-1].arm_active
    bench.twist([0.0] * 6)
    bench.until(lambda: not bench.commands[-1].arm_active)


def test_a_glove_message_without_a_finger_is_not_used(ros):
    bench = ros(False)
    bench.publishers[GLOVE].publish(JointState(name=['index'], position=[0.5]))
    bench.until(lambda: 'thumb_rotation' in bench.node._refused)
    bench.until(lambda: bench.node._statuses.get('glove message', (OK,))[0] == WARN)
    bench.publishers[GLOVE].publish(JointState(name=list(HAND_JOINTS), position=[0.5] * 6))
    bench.until(lambda: bench.node._statuses['glove message'][0] == OK)


def test_a_device_that_sends_no_numbers_counts_as_silent_and_is_named(ros):
    bench = ros(False)
    bench.twist([np.nan] * 6)
    bench.glove([np.inf] * 6)
    for device in (TWIST, GLOVE):
        bench.until(lambda name=device: 'no number' in bench.node._statuses.get(name, (OK, ''))[1])
    assert not bench.node._heard
    bench.glove([0.5] * 6)
    bench.until(lambda: bench.node._statuses[GLOVE][0] == OK)
    assert bench.node._statuses[TWIST][0] == WARN
