"""Listens to a robot for some seconds and prints what it heard as JSON: the ROS part of `./dexrl doctor`.

It publishes nothing and calls nothing that changes anything.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import time
from functools import partial
from typing import Any

import rclpy
from sensor_msgs.msg import JointState

from dex_rl_nodes import config
from dex_rl_nodes.descriptions import CURRENT_POSE, GLOVE, HAND_JOINTS, IMAGES, MEASURED_JOINTS, TOPICS
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.franka_arm import FrankaArm
from dex_rl_nodes.records import ArmState
from dex_rl_nodes.robot.preflight import TopicSample
from dex_rl_nodes.sole_graph import domain_of

SECONDS = 2.0
_DISCOVERY = 3.0  # s; longest wait for the first message of any topic
_NEXT_STATE = 0.5  # s; the arm says something a thousand times a second
_LISTED = 'controller_manager/list_controllers'


def listen(node: Any, topics: list[str], seconds: float) -> dict[str, TopicSample]:
    """What is heard on some topics within `seconds`, from when the first of them speaks."""
    samples = {topic: TopicSample() for topic in topics}
    last: dict[str, int] = {}

    def take(topic: str, message: Any) -> None:
        sample, stamp = samples[topic], conversions.stamp_ns(message.header.stamp)
        sample.count += 1
        sample.ages.append((node.get_clock().now().nanoseconds - stamp) * 1e-9)
        sample.backwards += stamp <= last.get(topic, stamp - 1)
        last[topic] = stamp
        sample.frames.add(message.header.frame_id)
        if isinstance(message, JointState):
            sample.joints = dict(zip(message.name, map(float, message.position)))

    for topic in topics:
        kind = conversions.interface(TOPICS[topic].type)
        node.create_subscription(kind, topic, partial(take, topic), qos.profile('SENSOR'))
    deadline = time.monotonic() + _DISCOVERY
    while time.monotonic() < deadline and not any(sample.count for sample in samples.values()):
        rclpy.spin_once(node, timeout_sec=0.1)
    start = time.monotonic()
    heard = {topic: sample.count for topic, sample in samples.items()}
    while time.monotonic() - start < seconds:
        rclpy.spin_once(node, timeout_sec=0.1)
    for topic, sample in samples.items():
        sample.count -= heard[topic]
        sample.seconds = time.monotonic() - start
    return samples


def controllers(node: Any, seconds: float) -> dict[str, str] | None:
    """Name to state of the arm's controllers; None where no controller_manager can be asked."""
    if not importlib.util.find_spec('controller_manager_msgs'):
        return None
    kind = conversions.interface('controller_manager_msgs/srv/ListControllers')
    client = node.create_client(kind, _LISTED)
    if not client.wait_for_service(timeout_sec=seconds):
        return None
    future = client.call_async(kind.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=seconds)
    return {found.name: found.state for found in future.result().controller} if future.done() else None


def state_of(arm: Any, node: Any) -> tuple[ArmState | None, bool]:
    """The state of an arm that is heard, and whether its clock stands still: Humble repeats one after an error."""
    state, deadline = arm.take(0), time.monotonic() + _NEXT_STATE
    while state and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
        if newer := arm.take(0):
            return newer, False
    return state, state is not None


def main() -> None:
    """Print what is heard of the robot that is named on the command line."""
    robot = config.load_robot(sys.argv[1])
    domain_of(os.environ)
    rclpy.init()
    node = rclpy.create_node('topic_probe')
    arm = FrankaArm(node, device_settings(robot).arm.controller)  # only its state is taken
    images = (IMAGES[view] for view in robot.cameras if view in IMAGES)
    topics = [CURRENT_POSE, MEASURED_JOINTS, HAND_JOINTS, GLOVE, *images]
    samples = listen(node, topics, SECONDS)
    heard = {topic: dataclasses.asdict(sample) for topic, sample in samples.items()}
    state, still = state_of(arm, node)
    answer = {
        'topics': heard,
        'controllers': controllers(node, 1.0),
        'arm': state and dataclasses.asdict(state),
        'arm_stands_still': still,
    }
    print(json.dumps(answer, default=list))
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
