"""`pip install -e .` gives the library without ROS; colcon builds messages and nodes with CMakeLists.txt instead."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Requirements of one file, without its comments."""
    lines = (HERE / 'requirements' / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name='dex_rl_nodes',
    version=re.search(r"__version__ = '(.*)'", (HERE / 'dex_rl_nodes' / '__init__.py').read_text()).group(1),
    description='Real-robot learning of dexterous manipulation as a ROS 2 node graph.',
    license='Apache-2.0',
    packages=find_packages(include=['dex_rl_nodes', 'dex_rl_nodes.*']),
    python_requires='>=3.10',
    install_requires=[*requirements('runtime.txt'), 'torch'],
    extras_require={'test': requirements('test.txt')},
)
