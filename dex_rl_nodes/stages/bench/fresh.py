"""How long it takes from a fresh clone to the first node, and to the first online episode."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.paths import share_directory
from dex_rl_nodes.stages.bench.measurement import Measurement

_DEADLINE = 3600.0  # s
_LOOK = 0.1  # s
_STOP_DEADLINE = 15.0  # s


def fresh_clone(task: str) -> list[Measurement]:
    """Clone the repository, start online learning with an empty cache, and wait for its first episode.

    Raises:
        UserError: there is no repository, or the command ended too early.
    """
    with tempfile.TemporaryDirectory(prefix='dexrl-fresh-') as folder:
        clone = Path(folder) / 'clone'
        words = ['git', 'clone', '-q', str(share_directory()), str(clone)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f'cannot clone {share_directory()}: {done.stderr.strip().splitlines()[-1]}')
        leave_out = ('VIRTUAL_ENV', 'PYTHONPATH', 'AMENT_PREFIX_PATH', 'DEXRL_RUNS')
        variables = {name: value for name, value in os.environ.items() if name not in leave_out}
        variables |= {'DEXRL_HOME': f'{folder}/home'}
        command = ['./dexrl', 'launch', 'online_rl.launch.py', f'task:={task}', 'run:=fresh']
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=clone, env=variables, start_new_session=True)
        try:
            _wait(lambda: _runs(process, 'dex_rl_nodes.stages') or _runs(process, 'dex_rl_nodes.nodes'), process)
            first = time.monotonic() - started
            _wait(lambda: any((clone / 'runs' / 'fresh' / 'bags' / 'online').glob('*/*.mcap')), process)
            episode = time.monotonic() - started
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return [
        _measured('fresh_first_node', 'fresh clone, packages downloaded, to the first process', first, 4, task),
        _measured('fresh_first_episode', 'fresh clone to the first online episode, with prepare', episode, 12, task),
    ]


def _measured(figure: str, title: str, seconds: float, bar: float, task: str) -> Measurement:
    minutes = seconds / 60
    return Measurement(
        figure, title, f'dexrl bench fresh task:={task}', f'{minutes:.1f} min', f'{bar:g} min or less', minutes <= bar,
        values={'seconds': seconds},
    )  # fmt: skip


def _runs(process: subprocess.Popen, module: str) -> bool:
    """Whether a descendant runs a module of that name."""
    try:
        lines = [' '.join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)]
    except psutil.Error:  # one of them has just ended
        return False
    return any(module in line for line in lines)


def _wait(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + _DEADLINE
    while not condition():
        if process.poll() is not None:
            raise UserError(f'./dexrl launch ended with exit code {process.returncode}; see the messages above')
        if time.monotonic() > end:
            raise UserError(f'no online episode within {_DEADLINE / 60:g} min; see the messages above')
        time.sleep(_LOOK)
