"""What every test needs: a fixed, printed seed, its own ROS domain, and one PyTorch thread."""

import os
import random

import numpy as np
import pytest

SEED = int(os.environ.get('DEXRL_TEST_SEED', '0'))
# set before anything imports rclpy, MuJoCo or PyTorch, and inherited by the processes that tests start
_REAL_TIME = {f'test_{name}.py' for name in ('command_mux', 'command_mux_stops', 'drivers', 'camera_driver')}
DOMAINS = 101  # from 1 on, below the range of ephemeral ports on Linux
# never that of the shell, in which a robot may run; tests that run beside each other (gw0, gw1, ...) do not hear it
_shell = os.environ.setdefault('DEXRL_SHELL_DOMAIN', os.environ.get('ROS_DOMAIN_ID', '0'))
_free = [str(domain) for domain in range(1, DOMAINS + 1) if str(domain) != _shell]
_first = int(os.environ.setdefault('DEXRL_TEST_DOMAIN', str(1 + os.getpid() % DOMAINS)))
_worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
os.environ['ROS_DOMAIN_ID'] = _free[(_first - 1 + 7 * _worker) % len(_free)]
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
os.environ.setdefault('MUJOCO_GL', 'egl')
os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_report_header() -> str:
    """Said at the top of every report."""
    return f'DEXRL_TEST_SEED={SEED} DEXRL_TEST_DOMAIN={os.environ["DEXRL_TEST_DOMAIN"]}'


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'realtime: measures real time, so a busy machine gets up to three attempts')


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # On several cores a file stays with one worker, for its tests share what is dear to make; and whole graphs stay
        # with one, for two at a time starve each other, and those who live in real time beside them.
        together = item.path.parent.name == 'graph' or item.path.name in _REAL_TIME
        item.add_marker(pytest.mark.xdist_group('graph' if together else item.path.name))
        if item.get_closest_marker('realtime'):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(autouse=True)
def seeded() -> int:
    """Seed of the test; Python's and NumPy's global generators start from it."""
    random.seed(SEED)
    np.random.seed(SEED)
    return SEED
