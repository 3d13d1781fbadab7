"""Starts a node by its name: `python -m dex_rl_nodes.nodes NAME --ros-args ...`."""

import importlib
import os
import signal
import sys

from dex_rl_nodes import interrupt


def start(name: str) -> None:
    """Run a node to its end; Ctrl-C while its modules are still loading is a clean end too."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    interrupt.accept()
    from dex_rl_nodes.graph import environment

    os.environ.update(environment(os.environ))  # a node that is started by hand finds the graph
    importlib.import_module(f'dex_rl_nodes.nodes.{name}').main()


if __name__ == '__main__':
    start(sys.argv.pop(1))
