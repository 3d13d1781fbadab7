"""The two topics that move a robot, and whether this node is the only one to speak on them."""

import time

import numpy as np

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.drivers.settings import moves_flange
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.nodes.publishers import Lookout
from dex_rl_nodes.records import HAND_JOINTS
from dex_rl_nodes.robot.tool import flange_of

TARGETS = ('target_pose', HAND_COMMAND)
_WORD_OF_ONE = (CURRENT_POSE, HAND_TOPIC, 'episode')  # two who say them speak of two robots
_GOODBYE = 0.5  # s; longest wait at the end for the robot to hear its last targets


class RobotTargets:
    """Tells arm and hand their targets.

    Args:
        node: who does.
        dry_run: say nothing.
    """

    def __init__(self, node: Node, dry_run: bool):
        self._node, self._dry_run = node, dry_run
        self._of_controller = flange_of if moves_flange(node.setting('robot')) else np.asarray
        self._told_at = 0.0  # s, monotonic
        self.lookout = Lookout(node, TARGETS, _WORD_OF_ONE)
        if not dry_run:
            node.advertise(*TARGETS)

    def publish(self, pose: np.ndarray, hand: np.ndarray, stamp: int) -> bool:
        """Publish a TCP target (7,), base frame, and a hand target (6,), normalised travel, of a moment (ns).

        Returns:
            False where they are no numbers, which must not happen: nothing was said.
        """
        if self._dry_run:
            return True
        if not (np.isfinite(pose).all() and np.isfinite(hand).all()):
            return False
        node = self._node
        node.publish('target_pose', conversions.pose_stamped(self._of_controller(pose), stamp, node.robot.base_frame))
        node.publish(HAND_COMMAND, conversions.joint_state(HAND_JOINTS, hand, stamp))
        self._told_at = time.monotonic()
        return True

    @property
    def in_doubt(self) -> bool:
        """Whether no motion may begin, for somebody else is there now; in a dry run nothing moves."""
        return not self._dry_run and self.lookout.see()

    @property
    def silent_for(self) -> float:
        """How long the robot has heard nothing (s)."""
        return time.monotonic() - self._told_at

    def flush(self) -> None:
        """Wait until the robot has heard everything, for half a second at most."""
        for topic in () if self._dry_run else TARGETS:
            self._node.flush(topic, _GOODBYE)
