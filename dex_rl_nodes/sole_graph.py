"""The one graph that drives a robot in a domain and namespace: its lock, and the folder of its emulated devices.

Everybody who works at a machine shares the lock; another machine is told by the graph itself (`nodes/publishers.py`).
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import Value

_SHARED = Path('/tmp')  # whatever TMPDIR of an account is
LAST_DOMAIN = 232  # with the ports of a higher one DDS would leave the range of ports


def device_folder(values: Mapping[str, Value]) -> str:
    """Where the emulated devices of a graph appear: only one such graph runs per domain and namespace."""
    return f'{_place_of(str(values.get("namespace", "")), os.environ)}-devices'


def domain_of(variables: Mapping[str, str]) -> int:
    """ROS_DOMAIN_ID; UserError when it is none."""
    text = variables.get('ROS_DOMAIN_ID') or '0'
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_DOMAIN):
        raise UserError(f'ROS_DOMAIN_ID is "{text}"; it must be a number from 0 to {LAST_DOMAIN}')
    return int(text)


@contextmanager
def sole_graph(name: str, namespace: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Hold the domain and namespace for one graph that drives a robot.

    Args:
        name: of the graph, for whoever is refused.
        namespace: of its nodes and topics.
        variables: the environment; the domain is in ROS_DOMAIN_ID.

    Raises:
        UserError: another graph holds them; names it.
    """
    domain, place = domain_of(variables), _place_of(namespace, variables)
    with _open_for_all(_SHARED / f'{_name_of(namespace, variables)}.lock') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            where = f'domain {domain}' + (f' and namespace {namespace}' if namespace else '')
            raise UserError(
                f'{file.read().strip() or "another graph"} already runs in {where}; '
                'stop it, or set another ROS_DOMAIN_ID or namespace:=NAME'
            ) from None
        file.truncate(0)
        file.write(f'{name}.launch.py (process {os.getpid()})')
        file.flush()
        # a killed graph leaves links to terminals that may be somebody else's by now
        shutil.rmtree(f'{place}-devices', ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(f'{place}-devices', ignore_errors=True)


def _open_for_all(path: Path) -> TextIO:
    """A file that whoever comes first makes, and that everybody may write.

    It is not opened for making where it is there: in a sticky folder the kernel refuses that to all but its owner.
    """
    with suppress(FileExistsError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.fchmod(handle, 0o666)  # whatever the umask says
        return os.fdopen(handle, 'r+')
    return path.open('r+')


def _name_of(namespace: str, variables: Mapping[str, str], whose: str = '') -> str:
    """Name, without its end, of what belongs to the one graph of a domain and namespace."""
    domain, name = domain_of(variables), namespace.strip('/').replace('/', '-')
    return f'dexrl-{whose}domain-{domain}{"-" * bool(name)}{name}'


def _place_of(namespace: str, variables: Mapping[str, str]) -> Path:
    """Path, without its end, of what only this account uses of it."""
    return Path(tempfile.gettempdir()) / _name_of(namespace, variables, f'{os.getuid()}-')
