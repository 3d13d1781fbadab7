"""The call of reset_scene, which can be called off, and whose server may go away while it works."""

from collections.abc import Callable
from typing import Any

from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.nodes.publishers import publisher_ids

_ADAPTER_TOPIC = 'reset_command'  # by its publisher a process is told from the one that was started in its place


class SceneReset:
    """One call at a time; only the answer to the newest counts.

    Args:
        node: who calls, and waits no longer than its `reset_deadline`.
    """

    def __init__(self, node: Node):
        self._node = node
        self._client = node.client('reset_scene')
        self._number = 0  # of the newest call
        self._server: set[tuple[int, ...]] = set()  # who was asked

    @property
    def served(self) -> bool:
        """Whether somebody offers the service."""
        return self._client.service_is_ready()

    def ask(self, answered: Callable[[Any], None], **fields: Any) -> None:
        """Ask for a scene with these fields of ResetScene; `answered` gets the answer, unless it is called off."""
        self._number = number = self._number + 1
        self._server = publisher_ids(self._node, _ADAPTER_TOPIC)

        def take(answer: Any) -> None:
            if number == self._number:
                self._node.arrived('reset_scene')
                answered(answer)

        self._node.wait_for('reset_scene', self._node.setting('reset_deadline'), 'is the robot ready?')
        self._node.ask(self._client, self._client.srv_type.Request(**fields), take)

    def call_off(self) -> None:
        """What is answered from now on comes too late."""
        self._number += 1
        self._node.arrived('reset_scene')

    def lost(self) -> bool:
        """Whether the server that was asked has gone: a process started in its place knows nothing of the call.

        DDS believes for some seconds that a killed process is still there.
        """
        there = publisher_ids(self._node, _ADAPTER_TOPIC)
        replaced = bool(self._server) and (bool(there - self._server) or not there)
        return replaced or not self.served
