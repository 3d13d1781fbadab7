"""The namespace of nodes and topics, as a person types it. Knows only Python, for set-up checks it too."""

import re

from dex_rl_nodes.errors import UserError

_NAMESPACE = re.compile(r'/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?/?')


def parse_namespace(text: str) -> str:
    """The namespace without slashes around it, such as `left` or `lab/left`; empty: none.

    Raises:
        UserError: ROS does not allow it.
    """
    if not _NAMESPACE.fullmatch(text):
        raise UserError(
            f'namespace "{text}" is not one of ROS; use letters, digits and _, with no digit in front, '
            'such as namespace:=left or lab/left'
        )
    return text.strip('/')
