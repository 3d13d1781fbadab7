"""Learn the residual online. The graph is described in dex_rl_nodes/graph.py."""

from launch import LaunchDescription

from dex_rl_nodes.nodes.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch dex_rl_nodes online_rl.launch.py`."""
    return describe('online_rl')
