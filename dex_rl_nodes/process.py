"""What a graph is made of: processes, and launch files of other packages."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dex_rl_nodes.parameters import Value

PACKAGE = 'dex_rl_nodes'
_STEADY = 60.0  # s; a process that ran for longer had no trouble with its start


@dataclass(frozen=True)
class Process:
    """One process of a graph: a ROS node, or a program that runs to its end; or a whole launch file.

    `on_exit` says what an unexpected end means: `stop` ends the whole graph, `restart` starts the process again,
    at most `max_restarts` times. Exit code 2 (a person has to act) always ends the graph.
    """

    name: str
    executable: str  # of a launch file: the file
    package: str = PACKAGE
    is_node: bool = True
    is_launch_file: bool = False  # of another package; its arguments are name:=value
    arguments: tuple[str, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remaps: tuple[tuple[str, str], ...] = ()
    namespace: str = ''
    on_exit: Literal['stop', 'restart'] = 'stop'
    max_restarts: int = 5
    runs_first: bool = False  # the others start when it has ended with code 0
    ends_graph: bool = False  # its end with code 0 ends the graph, also with code 0
    may_end: bool = False  # its end with code 0 is nothing unexpected


class Restarts:
    """Counts how often a process is started again; forgets it once the process has run for a while."""

    def __init__(self, most: int):
        self.most, self.count = most, 0

    def allow(self, ran: float) -> bool:
        """Whether a process that ended after `ran` seconds may be started again."""
        self.count = (0 if ran > _STEADY else self.count) + 1
        return self.count <= self.most


def end_of(code: int) -> str:
    """How a process ended, in words.

    Args:
        code: exit code; negative: the number of the signal that ended it.
    """
    if code >= 0:
        return f'exit code {code}'
    known = -code in {number.value for number in signal.Signals}
    return f'signal {signal.Signals(-code).name if known else -code}'


def was_stopped(code: int) -> bool:
    """Whether an exit code is that of a process which somebody told to end with Ctrl-C.

    A node whose middleware hangs once all is written ends itself, with SIGALRM if need be.
    """
    return code in (-signal.SIGINT, 128 + signal.SIGINT, -signal.SIGALRM)


def is_installed(package: str) -> bool:
    """Whether a ROS package is installed, as the sourced set-up files say."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    index = Path('share', 'ament_index', 'resource_index', 'packages', package)
    return any((Path(prefix) / index).exists() for prefix in prefixes if prefix)
