"""Who publishes on a topic."""

from collections.abc import Iterable

import rclpy.node


def other_publisher(node: rclpy.node.Node, topics: Iterable[str]) -> str:
    """Who publishes beside `node` on one of the topics: names and topic; empty when nobody does."""
    mine = (node.get_name(), node.get_namespace())
    for topic in topics:
        publishers = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
        if len(publishers) > 1:
            others = [p.node_name for p in publishers if (p.node_name, p.node_namespace) != mine]
            return f'{", ".join(others) or f"another {node.get_name()}"} on {topic}'
    return ''


def publisher_ids(node: rclpy.node.Node, topic: str) -> set[tuple[int, ...]]:
    """What tells the publishers of a topic apart, also a process from the one that was started in its place."""
    return {tuple(p.endpoint_gid) for p in node.get_publishers_info_by_topic(node.resolve_topic_name(topic))}
