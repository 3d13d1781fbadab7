"""`./dexrl doctor`: what is used, what is missing or misconfigured, and the fix."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding
from dex_rl_nodes.namespace import parse_namespace
from dex_rl_nodes.setup import shared_memory, system
from dex_rl_nodes.setup.build import run_variables
from dex_rl_nodes.setup.places import CHECKOUT, Places, home, torch_build

_DEADLINE = 120  # s for everything that is looked at from inside the environment

MINIMUM_DISK = {'cpu': 5, 'cuda': 12}  # GiB: environment 2 (with CUDA's libraries about 9), build, logs, a run's bags
MINIMUM_MEMORY = 4  # GiB: eleven nodes, a replay buffer of cached features
MINIMUM_SHARED_MEMORY = 512  # MiB: a segment of 32 MB for each participant
MARKS = {'good': 'ok  ', 'warning': 'warn', 'bad': 'BAD '}


def examine(places: Places, arguments: list[str]) -> int:
    """Print the report; the exit code is 1 when something is bad."""
    robot, namespace = _robot_and_namespace(arguments)
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _interpreter(places),
        _machine,
        lambda: _resources(places),
        _graph_variables,
        lambda: _environment(places, robot, namespace),
    ]
    bad = 0
    for check in checks:
        for finding in check():
            bad += finding.level == 'bad'
            print(f'{MARKS[finding.level]}  {finding.subject:<22} {finding.text}')
            if finding.fix:
                print(f'      {"":<22} -> {finding.fix}')
    print(f'\n{"Everything needed is there." if not bad else f"{bad} to mend, see BAD above."}')
    return 1 if bad else 0


def _robot_and_namespace(arguments: list[str]) -> tuple[str, str]:
    given = {'robot': 'sim', 'namespace': ''}
    for text in arguments:
        name, separator, value = text.partition(':=')
        if name not in given or not separator:
            raise UserError(f'doctor takes robot:=NAME and namespace:=NAME, not "{text}"')
        given[name] = value
    valid = sorted(path.stem for path in (CHECKOUT / 'config' / 'robots').glob('*.yaml'))
    if given['robot'] not in valid:
        raise UserError(f'robot must be one of {", ".join(valid)}, not "{given["robot"]}"')
    return given['robot'], parse_namespace(given['namespace'])


def _interpreter(places: Places) -> Iterator[Finding]:
    yield Finding('good', 'Python', f'{sys.version.split()[0]} ({sys.executable})')
    if places.distribution:
        yield Finding('good', 'ROS 2', f'{places.distribution}, as sourced')
    else:
        yield Finding('good', 'ROS 2', 'Jazzy from wheels, in the private environment')
        if name := os.environ.get('ROS_DISTRO'):
            yield Finding(
                'warning', 'ROS_DISTRO', f'{name}, but not sourced', f'source /opt/ros/{name}/setup.bash, or unset it'
            )
    ready = places.is_complete()
    state = str(places.environment) if ready else f'{places.environment} is not complete'
    yield Finding('good' if ready else 'bad', 'environment', state, '' if ready else './dexrl setup')


def _machine() -> Iterator[Finding]:
    lacking = system.missing()
    for requirement in system.REQUIREMENTS:
        if requirement not in lacking:
            yield Finding('good', requirement.name, 'found')
        else:
            yield Finding('bad', requirement.name, 'missing', f'sudo {system.install_line([requirement])}')


def _resources(places: Places) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding('good' if cores >= 2 else 'warning', 'processor', f'{cores} cores')
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    yield Finding('good' if memory >= MINIMUM_MEMORY else 'warning', 'memory', f'{memory:.1f} GiB')
    yield _priority()
    runs = Path(os.path.expanduser(os.environ.get('DEXRL_RUNS') or 'runs')).resolve()
    for subject, folder in (('disk, environment', home()), ('disk, runs', runs)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        fix = '' if free >= MINIMUM_DISK[torch_build()] else f'free some space on the disk of {existing}'
        yield Finding('bad' if fix else 'good', subject, f'{free:.0f} GiB free ({folder})', fix)
    if shared_memory.FOLDER.exists():
        yield _shared_memory()


def _shared_memory() -> Finding:
    free = shutil.disk_usage(shared_memory.FOLDER).free / 2**20
    left = shared_memory.size_of(shared_memory.left_over())
    state = f'{free:.0f} MiB free' + (f', {left:.0f} MiB left by programs that were killed' if left >= 1 else '')
    if free + left < MINIMUM_SHARED_MEMORY:
        fix = 'give /dev/shm more room (docker run --shm-size=1g); camera images go through it'
    elif left > MINIMUM_SHARED_MEMORY:
        fix = './dexrl launch and ./dexrl test remove it before they start'
    else:
        fix = ''
    return Finding('warning' if fix else 'good', 'shared memory', state, fix)


def _priority() -> Finding:
    """Whether nodes on the way from a camera to a command may run before everything else."""
    attempt = 'import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))'
    if subprocess.run([sys.executable, '-c', attempt], capture_output=True, check=False).returncode == 0:
        return Finding('good', 'real-time priority', 'allowed')
    fix = 'add "USER - rtprio 99" to /etc/security/limits.d/dexrl.conf, as libfranka wants it, and log in again'
    return Finding('warning', 'real-time priority', 'not allowed, so ticks come late on a busy machine', fix)


def _graph_variables() -> Iterator[Finding]:
    domain = os.environ.get('ROS_DOMAIN_ID', '0') or '0'
    if not (domain.isascii() and domain.isdigit()) or int(domain) > 232:
        yield Finding(
            'bad', 'ROS_DOMAIN_ID', f'"{domain}" is not a domain', 'export ROS_DOMAIN_ID=0 (0 to 101 is safe)'
        )
    else:
        level, fix = (
            ('good', '')
            if int(domain) <= 101
            else ('warning', 'use 0 to 101: above, ports can be taken by other programs')
        )
        yield Finding(level, 'ROS_DOMAIN_ID', domain, fix)
    middleware = os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    fix = (
        ''
        if 'fastrtps' in middleware
        else 'the shipped profile is for Fast DDS; check that camera images arrive at full rate'
    )
    yield Finding('warning' if fix else 'good', 'middleware', middleware, fix)
    name = 'ROS_LOCALHOST_ONLY' if 'ROS_LOCALHOST_ONLY' in os.environ else 'ROS_AUTOMATIC_DISCOVERY_RANGE'
    yield Finding('good', 'discovery range', f'{name}={os.environ.get(name, "LOCALHOST")}')


def _environment(places: Places, robot: str, namespace: str) -> Iterator[Finding]:
    """What only the environment itself can tell: versions, drawing, weights, devices."""
    if not places.is_complete():
        return
    variables = {**os.environ, **run_variables(places)}
    command = [places.python, '-m', 'dex_rl_nodes.diagnosis', robot, namespace]
    try:
        result = subprocess.run(
            command, env=variables, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=_DEADLINE
        )
    except subprocess.TimeoutExpired:
        text = f'no answer within {_DEADLINE} s: a device hangs'
        yield Finding('bad', 'environment and devices', text, 'unplug the devices and plug them in again, one by one')
        return
    try:
        for row in json.loads(result.stdout.splitlines()[-1]):
            yield Finding(*row)
    except (IndexError, ValueError):
        words = (result.stderr.strip().splitlines() or ['no output'])[-1]
        yield Finding('bad', 'environment', f'does not run: {words}', f'rm -r {places.environment} && ./dexrl setup')
