"""One measured figure as it is kept: what was measured, how, where, and against which bar."""

import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dex_rl_nodes import __version__
from dex_rl_nodes.paths import runs_directory, share_directory
from dex_rl_nodes.run_directory import read_json, write_json


@dataclass
class Measurement:
    """A figure of docs/results.md.

    Attributes:
        figure: name; that of the JSON file.
        title: what it is, one line.
        command: what a person types to measure it again.
        measured: the result in words, one line.
        bar: what it should reach; empty without a bar.
        met: whether it does; None without a bar.
        n: how often it was measured, or over how many things.
        seed: of the random numbers involved.
        values: all numbers behind it.
    """

    figure: str
    title: str
    command: str
    measured: str
    bar: str = ''
    met: bool | None = None
    n: int = 1
    seed: int = 0
    values: dict = field(default_factory=dict)

    def tell(self) -> None:
        """Print it, one line."""
        bar = f'; bar: {self.bar}: {"met" if self.met else "NOT met"}' if self.bar else ''
        print(f'{self.title}: {self.measured}{bar}', flush=True)

    def save(self, folder: Path | None = None) -> Path:
        """Write it below runs/bench (or a folder), with machine, code version and time."""
        path = (folder or bench_folder()) / f'{self.figure}.json'
        now = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())
        write_json(path, {**asdict(self), 'machine': machine(), 'code': code_version(), 'time': now})
        return path


def bench_folder() -> Path:
    """Where measurements are kept."""
    return runs_directory() / 'bench'


def measurements(folder: Path | None = None) -> list[dict]:
    """All kept measurements, by name."""
    found = [read_json(path) for path in sorted((folder or bench_folder()).glob('*.json'))]
    return [content for content in found if 'figure' in content and 'measured' in content]


def machine() -> dict:
    """What it was measured on."""
    processor = platform.processor()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        processor = next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return {
        'processor': processor,
        'cores': len(os.sched_getaffinity(0)),
        'memory_gib': round(memory, 1),
        'gpu': _gpu(),
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
    }


def _gpu() -> str:
    try:
        query = ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']
        return subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip().replace('\n', ', ')
    except (OSError, subprocess.TimeoutExpired):
        return ''


def code_version() -> str:
    """Version of the package, with the commit where there is one."""
    command = ['git', '-C', str(share_directory()), 'describe', '--always', '--dirty', '--exclude', '*']
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ''
    return f'{__version__} {commit}'.strip()
