"""command_mux and a peer that is the rest of the graph, in lockstep and in real time."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, IMAGES, MEASURED_JOINTS, TOPICS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.command_mux import CommandMuxNode
from dex_rl_nodes.records import (
    ARM_JOINTS,
    HAND_JOINTS,
    ActionCommand,
    EpisodeState,
    Phase,
    TeleopCommand,
)
from dex_rl_nodes.robot import kinematics, rotations

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
    """Real time: states and teleop at 50 Hz, cameras and commands at 10 Hz, unless they are told to be silent.

    Args:
        patience: of the node with silence (s); None: its own, for tests of silence. A busy machine pauses for longer.
    """

    def __init__(self, patience=None, **parameters):
        super().__init__(False, **parameters)
        self.node._longest = patience or self.node._longest
        self.arm, self.command_hand = np.zeros(6, np.float32), HAND.copy()
        self.step, self.pixels, self.moving_pixels = 0, 0, True
        self.person = TeleopCommand()  # who stands by, with idle hands
        self.peer.create_timer(0.02, self._state)
        self.peer.create_timer(PERIOD, self._tick)
        self.run_episode(self.now())

    def now(self):
        return self.peer.get_clock().now().nanoseconds

    def _state(self):
        self.states(self.now())
        if 'teleop_command' not in self.silent:
            self.send('teleop_command', replace(self.person, stamp=self.now()))

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

    def next_episode(self):
        self.send('episode', EpisodeState(self.now(), 0, Phase.ENDED, purpose='demos'))
        self.until(lambda: not self.node.running)
        self.run_episode(self.now())

    def gripping(self):
        """Wait until the arm is being moved and the hand has closed."""
        self.moving()
        self.command_hand = HAND + np.float32(0.3)
        self.until(lambda: np.allclose(self.executed()[-1].hand_target, self.command_hand))

    def moving(self):
        """Wait until the arm is being moved, its target ahead of it."""
        self.arm = FORWARD
        count = len(self.executed())
        self.until(lambda: len(self.executed()) > count + 2 and self.executed()[-1].action[0] == 0.5)


@pytest.fixture
def ros(monkeypatch):
    """An isolated ROS context."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init(domain_id=int(os.environ['ROS_DOMAIN_ID']))
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
