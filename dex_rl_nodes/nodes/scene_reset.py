"""The call of reset_scene, which can be called off, and whose server may go away while it works."""

import time
from collections.abc import Callable
from typing import Any

from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.nodes.publishers import publisher_ids

_AGAIN = 10.0  # s; a simulated scene is ready long before
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
        self._repeat: Callable[[], None] | None = None  # asks once more what was not answered
        self._due = 0.0  # s, monotonic
        node.every(_AGAIN / 10, self._ask_again)

    @property
    def served(self) -> bool:
        """Whether somebody offers the service."""
        return self._client.service_is_ready()

    def ask(self, answered: Callable[[Any], None], repeat: bool, **fields: Any) -> None:
        """Ask for a scene with these fields of ResetScene; `answered` gets the answer, unless it is called off.

        A server that does not know its client yet cannot answer it (the middleware drops the answer after 0.1 s), so
        where nothing but a simulation is reset, `repeat` asks again.
        """
        self._number = number = self._number + 1
        self._server = publisher_ids(self._node, _ADAPTER_TOPIC)

        def take(answer: Any) -> None:
            if number == self._number:
                self.call_off()  # the answer to a repetition is none
                answered(answer)

        self._node.wait_for('reset_scene', self._node.setting('reset_deadline'), 'is the robot ready?')
        request = self._client.srv_type.Request(**fields)
        self._node.ask(self._client, request, take)
        self._repeat = (lambda: self._node.ask(self._client, request, take)) if repeat else None
        self._due = time.monotonic() + _AGAIN

    def _ask_again(self) -> None:
        if self._repeat and time.monotonic() > self._due:
            self._due += _AGAIN
            self._repeat()

    def call_off(self) -> None:
        """What is answered from now on comes too late."""
        self._number += 1
        self._repeat = None
        self._node.arrived('reset_scene')

    def lost(self) -> bool:
        """Whether the server that was asked has gone: a process started in its place knows nothing of the call.

        DDS believes for some seconds that a killed process is still there.
        """
        there = publisher_ids(self._node, _ADAPTER_TOPIC)
        replaced = bool(self._server) and (bool(there - self._server) or not there)
        return replaced or not self.served
