"""A service whose answer takes long: the node goes on while it works on it.

rclpy sends what the callback returns at once; coroutines as callbacks are not run by every executor. So the answer that
the executor wants to send is kept until it is ready.
"""

from collections.abc import Callable
from typing import Any

import rclpy.node


class LateService:
    """One request at a time. A request that comes while another is being worked on replaces it.

    Args:
        kind: service type.
        name: relative name.
        begin: called with every request.
        replaced: fills the answer to a request that another one replaced.
    """

    def __init__(
        self,
        node: rclpy.node.Node,
        kind: type,
        name: str,
        begin: Callable[[Any], None],
        replaced: Callable[[Any], None],
    ):
        self._begin, self._replaced = begin, replaced
        self._answer: Any = None  # the answer in the making, None without a request
        self._header: Any = None  # whom to send it to, None until the executor has said so
        self._service = node.create_service(kind, name, self._on_request)
        self._send = self._service.send_response
        self._service.send_response = self._keep

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self._answer is not None

    def reply(self, fill: Callable[[Any], None]) -> None:
        """Fill the answer and send it."""
        answer, header, self._answer, self._header = self._answer, self._header, None, None
        fill(answer)
        if header is not None:  # else it is sent when the callback that made it returns
            self._send(answer, header)

    def _on_request(self, request: Any, answer: Any) -> Any:
        if self.busy:
            self.reply(self._replaced)
        self._answer = answer
        self._begin(request)
        return answer

    def _keep(self, answer: Any, header: Any) -> None:
        """Instead of sending: now the address is known."""
        if answer is self._answer:
            self._header = header
        else:
            self._send(answer, header)
