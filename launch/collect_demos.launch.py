"""Record demonstrations of a task. The graph is described in dex_rl_nodes/graph.py."""

from launch import LaunchDescription

from dex_rl_nodes.nodes.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch dex_rl_nodes collect_demos.launch.py`."""
    return describe('collect_demos')
