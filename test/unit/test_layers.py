"""Rooms import only rooms below them, ROS stays in nodes/, and set-up needs nothing but Python."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'dex_rl_nodes'
# from top to bottom; rooms of one line may import each other
ORDER = [
    {'nodes'},
    {'launch_command', 'diagnosis'},
    {'supervisor'},
    {'graph'},
    {'arm_bringup'},
    {'stages'},
    {'sim'},
    {'drivers'},
    {'recording'},
    {'learning'},
    {'robot'},
    {'evaluation'},
    {
        'descriptions',
        'parameters',
        'records',
        'config',
        'seeds',
        'run_directory',
        'paths',
        'process',
        'parameter_file',
        'sole_graph',
    },
    {'setup'},
    {'findings', 'namespace'},
    {'errors', 'interrupt', '__init__'},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
ROS = {
    'ament_index_python',
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'sensor_msgs',
    'std_msgs',
    'std_srvs',
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path: Path) -> list[str]:
    """Every module a file imports, anywhere in it, with the names taken from a package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: relative import'
            found.append(node.module)
            if node.module == 'dex_rl_nodes':
                found += [f'dex_rl_nodes.{name.name}' for name in node.names if not name.name.startswith('_')]
    return found


FILES = sorted(PACKAGE.rglob('*.py'))


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} == set(RANK)


def test_the_architecture_names_every_room():
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    for room in set(RANK) - {'__init__'}:
        assert f'`{room}/`' in text or f'`{room}.py`' in text, room


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(path)
    for module in imported(path):
        top, *rest = module.split('.')
        if top == 'dex_rl_nodes' and rest and rest[0] in RANK:
            assert rest[0] == room or RANK[rest[0]] >= RANK[room], f'{room} must not import {module}'
        generated = top == 'dex_rl_nodes' and rest and rest[0] in ('msg', 'srv')
        if room != 'nodes':
            allowed = {'launch'} if room == 'launch_command' else set()
            assert top not in ROS - allowed and not generated, f'{room} must not know ROS: {module}'
        if room == 'setup':
            assert top in sys.stdlib_module_names or top == 'dex_rl_nodes', f'setup must do without {module}'


def test_walking_imports_sees_a_violation(tmp_path):
    path = tmp_path / 'file.py'
    path.write_text('def f():\n    from rclpy.node import Node\n    import dex_rl_nodes.sim.world\n')
    assert imported(path) == ['rclpy.node', 'dex_rl_nodes.sim.world']
