"""The robot alone: the simulated one, or its drivers. The graph is described in dex_rl_nodes/graph.py."""

from launch import LaunchDescription

from dex_rl_nodes.nodes.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch dex_rl_nodes robot.launch.py`."""
    return describe('robot')
