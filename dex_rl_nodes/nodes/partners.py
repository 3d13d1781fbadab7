"""Whom an episode needs: a node that is late would miss its start."""

import time

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.series import COLLECTING
from dex_rl_nodes.nodes.node import Node

_ACTING = ['core_action', 'hand_prior', 'reward']


class Partners:
    """The publishers that must be there before the first episode of a purpose, and the deadline for them."""

    def __init__(self, node: Node, purpose: str):
        self._node = node
        self._needed = ['policy_step', 'executed_action', 'transitions']
        self._needed += ['teleop_command'] if purpose in COLLECTING else _ACTING
        self._needed += ['learner_state'] if purpose == 'online' else []
        self._start_by = time.monotonic() + node.setting('start_deadline')
        self.missing: list[str] = []

    def look(self, served: bool, repaired: bool) -> bool:
        """Whether everybody is there.

        Args:
            served: somebody serves `reset_scene`.
            repaired: the recorder has repaired the bags of earlier sessions.

        Raises:
            UserError: somebody did not come in time.
        """
        self.missing = [topic for topic in self._needed if not self._node.count_publishers(topic)]
        self.missing += [] if served else ['reset_scene']
        if not self.missing and repaired:
            return True
        what = ', '.join(self.missing) or 'replay_recorder to repair the bags'
        if time.monotonic() > self._start_by:
            deadline = self._node.setting('start_deadline')
            raise UserError(f'{self._node.get_name()}: waited {deadline:g} s for {what} in vain; is its node running?')
        self._node.get_logger().info(f'waits for {what}', throttle_duration_sec=10, skip_first=True)
        return False
