"""The ROS part of the preflight over DDS: what it hears of an arm and of cameras."""

from threading import Thread

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from harness import bench, ros  # noqa: E402, F401

from dex_rl_nodes.config import load_robot  # noqa: E402
from dex_rl_nodes.descriptions import CURRENT_POSE, FRONT_IMAGE, MEASURED_JOINTS, WRIST_IMAGE  # noqa: E402
from dex_rl_nodes.nodes import conversions, qos  # noqa: E402
from dex_rl_nodes.nodes.topic_probe import controllers, listen  # noqa: E402
from dex_rl_nodes.records import ARM_JOINTS  # noqa: E402
from dex_rl_nodes.robot.preflight import check_arm  # noqa: E402

HOME = [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]


@pytest.fixture
def arm(ros):  # noqa: F811
    """A node that publishes pose and joints of an arm, and a still camera with an old stamp, at 50 Hz."""
    node = rclpy.create_node('arm')
    kinds = {CURRENT_POSE: 'geometry_msgs/msg/PoseStamped', MEASURED_JOINTS: 'sensor_msgs/msg/JointState'}
    publishers = {
        topic: node.create_publisher(conversions.interface(kind), topic, qos.profile('SENSOR'))
        for topic, kind in {**kinds, FRONT_IMAGE: 'sensor_msgs/msg/Image'}.items()
    }

    def publish():
        now = node.get_clock().now().nanoseconds
        publishers[CURRENT_POSE].publish(conversions.pose_stamped([0.4, 0, 0.3, 1, 0, 0, 0], now, 'base'))
        publishers[MEASURED_JOINTS].publish(conversions.joint_state(ARM_JOINTS, HOME, now))
        image = np.zeros((4, 4, 3), np.uint8)
        publishers[FRONT_IMAGE].publish(conversions.image_message(image, 1_000_000_000, 'elsewhere'))

    node.create_timer(0.02, publish)
    yield node
    node.destroy_node()


def test_what_is_published_is_heard(arm):
    probe = rclpy.create_node('probe')
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(arm)
    thread = Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        heard = listen(probe, [CURRENT_POSE, MEASURED_JOINTS, FRONT_IMAGE, WRIST_IMAGE], 0.8)
    finally:
        executor.shutdown()
        thread.join(timeout=5)
        probe.destroy_node()
    assert heard[CURRENT_POSE].count > 5 and heard[CURRENT_POSE].frames == {'base'}
    assert heard[MEASURED_JOINTS].joints == pytest.approx(dict(zip(ARM_JOINTS, HOME)))
    assert heard[FRONT_IMAGE].backwards > 5 and min(heard[FRONT_IMAGE].ages) > 1e6
    assert heard[WRIST_IMAGE].count == 0
    levels = {
        finding.level for finding in check_arm(load_robot('fr3_ruiyan'), heard[CURRENT_POSE], heard[MEASURED_JOINTS])
    }
    assert 'good' in levels


def test_without_a_controller_manager_nothing_is_said_about_controllers(ros):  # noqa: F811
    node = rclpy.create_node('probe')
    assert controllers(node, 0.1) is None
    node.destroy_node()
