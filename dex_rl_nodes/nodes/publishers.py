"""Who publishes on a topic."""

import time
from collections.abc import Iterable, Sequence

import rclpy.node

_GHOST = 25.0  # s; DDS forgets a killed process after 20 s
_UNKNOWN = '_NODE_NAME_UNKNOWN_'  # of a process that was killed, or of a node that is only just being discovered
_LOOK_AROUND = 0.15  # s, between two looks for somebody else who commands the robot


def other_publisher(node: rclpy.node.Node, topics: Iterable[str], named: bool = False) -> str:
    """Who publishes beside `node` on one of the topics: names and topic; empty when nobody does.

    Args:
        named: leave out who has no name.
    """
    mine = (node.get_name(), node.get_namespace())
    for topic in topics:
        publishers = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
        publishers = [p for p in publishers if not (named and p.node_name == _UNKNOWN)]
        if len(publishers) > 1:
            others = [p.node_name for p in publishers if (p.node_name, p.node_namespace) != mine]
            return f'{", ".join(others) or f"another {node.get_name()}"} on {topic}'
    return ''


class Lookout:
    """Looks, a few times a second, for somebody else who publishes on the topics of a node.

    A process that was killed is seen for a while yet, so before the first motion there is time for it to vanish.

    Args:
        topics: those of the node.
        heard: others that it hears, each of one publisher; two of them, another robot's in the same domain say, must
            not keep a motion from ending, but none begins.
    """

    def __init__(self, node: rclpy.node.Node, topics: Sequence[str], heard: Sequence[str] = ()):
        self._node, self._topics, self._heard = node, topics, heard
        self.intruder = ''  # who else is there
        self.doubled = ''  # who speaks beside whom on a topic of one
        self._alone_at = self._looked_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked_at >= _LOOK_AROUND

    def see(self) -> bool:
        """Look who is there now; whether no motion may begin."""
        self.intruder = other_publisher(self._node, self._topics)
        # who was killed and is there again speaks with one voice
        self.doubled = other_publisher(self._node, self._heard, named=True)
        return bool(self.intruder or self.doubled)

    def look(self, moving: bool) -> bool:
        """Look; True when somebody is there who must not be, at once while the robot is moving."""
        self._looked_at = now = time.monotonic()
        self.see()
        self.doubled = '' if moving else self.doubled
        if not self.intruder:
            self._alone_at = now
        return bool(self.intruder) and (moving or now - self._alone_at > _GHOST)


def publisher_ids(node: rclpy.node.Node, topic: str) -> set[tuple[int, ...]]:
    """What tells the publishers of a topic apart, also a process from the one that was started in its place."""
    return {tuple(p.endpoint_gid) for p in node.get_publishers_info_by_topic(node.resolve_topic_name(topic))}
