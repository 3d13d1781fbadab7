"""The newest reports of arm and hand, with the moment each of them came."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_JOINTS, MEASURED_JOINTS
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.records import ARM_JOINTS, RobotReading
from dex_rl_nodes.records import HAND_JOINTS as MOTORS

REPORTS = (CURRENT_POSE, MEASURED_JOINTS, HAND_JOINTS)


class RobotReports:
    """Keeps the last message of each of REPORTS.

    Args:
        node: who subscribes to them.
        came: called with the topic after each of them.
        invalid: called with topic and reason, as one text, for a message that lacks a joint; it is dropped.
    """

    def __init__(self, node: Node, came: Callable[[str], None], invalid: Callable[[str], None]):
        self.came_at: dict[str, int] = {}  # ns, monotonic
        self._newest: dict[str, tuple[int, Any]] = {}  # stamp and value
        self._came, self._invalid = came, invalid
        node.subscribe(CURRENT_POSE, self._on_pose)
        node.subscribe(MEASURED_JOINTS, self._on_joints)
        node.subscribe(HAND_JOINTS, self._on_hand)

    def missing(self, stamp: int | None = None) -> list[str]:
        """Topics that have not come yet; with `stamp` (ns) also those whose last message has another one."""
        return [
            topic
            for topic in REPORTS
            if topic not in self._newest or stamp is not None and self._newest[topic][0] != stamp
        ]

    def reading(self) -> RobotReading:
        """All of them together; only when none is missing."""
        stamp, pose = self._newest[CURRENT_POSE]
        position, velocity = self._newest[MEASURED_JOINTS][1]
        hand, current = self._newest[HAND_JOINTS][1]
        return RobotReading(stamp, pose, hand, current, position, velocity)

    def _on_pose(self, message: PoseStamped) -> None:
        self._keep(CURRENT_POSE, message, conversions.pose_array(message.pose))

    def _on_joints(self, message: JointState) -> None:
        position = self._positions(MEASURED_JOINTS, message, ARM_JOINTS)
        if position is not None:
            self._keep(
                MEASURED_JOINTS, message, (position, conversions.by_joint(message, ARM_JOINTS, message.velocity))
            )

    def _on_hand(self, message: JointState) -> None:
        position = self._positions(HAND_JOINTS, message, MOTORS)
        if position is not None:
            current = conversions.by_joint(message, MOTORS, message.effort)
            self._keep(HAND_JOINTS, message, (position.astype(np.float32), current.astype(np.float32)))

    def _positions(self, topic: str, message: JointState, names: tuple[str, ...]) -> np.ndarray | None:
        try:
            return conversions.joint_positions(message, names)
        except ValueError as error:
            self._invalid(f'{topic}: {error}')
            return None

    def _keep(self, topic: str, message: Any, value: Any) -> None:
        self._newest[topic] = conversions.stamp_ns(message.header.stamp), value
        self.came_at[topic] = time.monotonic_ns()
        self._came(topic)
