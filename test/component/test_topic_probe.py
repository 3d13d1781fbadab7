"""The ROS part of the preflight over DDS: what it hears of an arm and of cameras."""

from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from harness import bench, ros  # noqa: F401
from rclpy.executors import SingleThreadedExecutor

from dex_rl_nodes import diagnosis
from dex_rl_nodes.descriptions import CURRENT_POSE, FRONT_IMAGE, MEASURED_JOINTS, WRIST_IMAGE
from dex_rl_nodes.nodes import conversions, qos, topic_probe
from dex_rl_nodes.nodes.topic_probe import controllers, listen, state_of
from dex_rl_nodes.records import ARM_JOINTS, ArmState

HOME = [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]


@pytest.fixture
def arm(ros):
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


@pytest.fixture
def spinning(arm):
    """The arm publishes by itself."""
    executor = SingleThreadedExecutor()
    executor.add_node(arm)
    thread = Thread(target=executor.spin, daemon=True)
    thread.start()
    yield
    executor.shutdown()
    thread.join(timeout=5)


def test_what_is_published_is_heard(spinning):
    probe = rclpy.create_node('probe')
    heard = listen(probe, [CURRENT_POSE, MEASURED_JOINTS, FRONT_IMAGE, WRIST_IMAGE], 0.8)
    probe.destroy_node()
    assert heard[CURRENT_POSE].count > 5 and heard[CURRENT_POSE].frames == {'base'}
    assert heard[MEASURED_JOINTS].joints == pytest.approx(dict(zip(ARM_JOINTS, HOME)))
    assert heard[FRONT_IMAGE].backwards > 5 and min(heard[FRONT_IMAGE].ages) > 1e6
    assert heard[WRIST_IMAGE].count == 0


def test_the_doctor_hears_it_too(spinning):
    heard, arm, controllers, _ = diagnosis._heard('fr3_ruiyan')
    assert heard[CURRENT_POSE].count > 5 and heard[CURRENT_POSE].frames == {'base'}
    assert heard[FRONT_IMAGE].frames == {'elsewhere'}
    assert heard[WRIST_IMAGE].count == 0 and arm is None and controllers is None


def test_without_a_controller_manager_nothing_is_said_about_controllers(ros):
    node = rclpy.create_node('probe')
    assert controllers(node, 0.1) is None
    node.destroy_node()


def test_a_graph_in_another_namespace_is_heard_where_it_is_named(spinning):
    assert diagnosis._heard('fr3_ruiyan', 'left').topics[CURRENT_POSE].count == 0
    publishing = rclpy.create_node('pose', namespace='left')
    publisher = publishing.create_publisher(
        conversions.interface('geometry_msgs/msg/PoseStamped'), CURRENT_POSE, qos.profile('SENSOR')
    )
    pose = conversions.pose_stamped([0.4, 0, 0.3, 1, 0, 0, 0], 1, 'left_base')
    publishing.create_timer(0.05, lambda: publisher.publish(pose))
    executor = SingleThreadedExecutor()
    executor.add_node(publishing)
    thread = Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        assert diagnosis._heard('fr3_ruiyan', 'left').topics[CURRENT_POSE].frames == {'left_base'}
    finally:
        executor.shutdown()
        thread.join(timeout=5)
        publishing.destroy_node()


@pytest.mark.parametrize(('states', 'stands_still'), [([2, 2], False), ([2], True), ([], False)])
def test_an_arm_whose_state_is_repeated_stands_still(ros, monkeypatch, states, stands_still):
    monkeypatch.setattr(topic_probe, '_NEXT_STATE', 0.3)
    node, left = rclpy.create_node('probe'), [ArmState(mode=mode) for mode in states]
    arm = SimpleNamespace(take=lambda _: left.pop(0) if left else None)  # FrankaArm.take: None for a repeated one
    assert state_of(arm, node) == (ArmState(mode=2) if states else None, stands_still)
    node.destroy_node()
