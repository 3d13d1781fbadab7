"""Figures of the drivers must not be those of somebody else's drivers."""

import numpy as np
import pytest

pytest.importorskip('rclpy')

from harness import DEADLINE, ros  # noqa: F401

from dex_rl_nodes.descriptions import HAND_JOINTS, TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import bench_graph, conversions, qos
from dex_rl_nodes.nodes.bench_devices import _station
from dex_rl_nodes.records import HAND_JOINTS as JOINTS


def test_a_second_driver_in_the_same_domain_ends_the_bench(ros, monkeypatch):
    monkeypatch.setattr(bench_graph.rclpy, 'init', lambda: None)  # the fixture has chosen the domain
    with _station() as station:
        message = conversions.joint_state(JOINTS, np.zeros(6), 0)
        publishers = [
            station.listener.node.create_publisher(type(message), HAND_JOINTS, qos.profile(TOPICS[HAND_JOINTS].qos))
        ]
        station.listen(HAND_JOINTS)

        def heard():
            publishers[0].publish(message)
            return station.heard[HAND_JOINTS] > 3

        station.wait(heard, DEADLINE, 'messages of the only driver')
        publishers.append(
            station.listener.node.create_publisher(type(message), HAND_JOINTS, qos.profile(TOPICS[HAND_JOINTS].qos))
        )
        with pytest.raises(UserError, match=f'somebody else publishes {HAND_JOINTS}; .* ROS_DOMAIN_ID of its own'):
            station.wait(lambda: False, DEADLINE)
