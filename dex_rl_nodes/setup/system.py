"""What the machine itself must have: a compiler, Python's headers, libraries for drawing without a screen."""

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.setup.steps import Runner


@dataclass(frozen=True)
class Requirement:
    """Something the machine must have, how to see it, and the Debian or Ubuntu packages that bring it."""

    name: str
    present: Callable[[], bool]
    packages: tuple[str, ...]


def _loads(*libraries: str) -> bool:
    try:
        for library in libraries:
            ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_headers() -> bool:
    return Path(sysconfig.get_path('include'), 'Python.h').is_file()


def _has_software_renderer() -> bool:
    places = [Path('/usr/lib'), Path('/usr/lib64')]
    return any(next(place.glob(pattern), None) for place in places for pattern in ('*/dri/*_dri.so', 'dri/*_dri.so'))


_version = f'{sys.version_info.major}.{sys.version_info.minor}'
REQUIREMENTS = (
    Requirement('a C++ compiler', lambda: bool(shutil.which('g++') and shutil.which('gcc')), ('g++',)),
    Requirement('make', lambda: bool(shutil.which('make')), ('make',)),
    Requirement("Python's headers", _has_headers, (f'python{_version}-dev',)),
    Requirement(
        'the venv module', lambda: importlib.util.find_spec('ensurepip') is not None, (f'python{_version}-venv',)
    ),
    Requirement('EGL', lambda: _loads('libEGL.so.1'), ('libegl1',)),
    Requirement('OpenGL', lambda: _loads('libGL.so.1', 'libOpenGL.so.0'), ('libgl1', 'libopengl0')),
    Requirement("Mesa's software renderer", _has_software_renderer, ('libgl1-mesa-dri', 'libegl-mesa0')),
)


def missing() -> list[Requirement]:
    """Requirements the machine does not meet."""
    return [requirement for requirement in REQUIREMENTS if not requirement.present()]


def install_line(requirements: list[Requirement]) -> str:
    """The command that installs what is missing."""
    packages = [package for requirement in requirements for package in requirement.packages]
    return ' '.join(['apt-get install --yes --no-install-recommends', *packages])


def ensure(runner: Runner) -> None:
    """Install what is missing when allowed to; UserError with the command line otherwise."""
    lacking = missing()
    if not lacking:
        return
    names = ', '.join(requirement.name for requirement in lacking)
    line = install_line(lacking)
    if not shutil.which('apt-get'):
        raise UserError(f'this machine lacks {names}; install them (on Debian: {line}) and start again')
    if os.geteuid() != 0:
        raise UserError(f'this machine lacks {names}; run "sudo {line}" and start again')
    quiet = {'DEBIAN_FRONTEND': 'noninteractive'}
    try:
        runner.run('apt-get', line.split(), quiet)
    except UserError:  # the package lists may be old or absent
        runner.run('apt-get', ['apt-get', 'update'], quiet)
        runner.run('apt-get', line.split(), quiet)
    if still := missing():
        raise UserError(
            f'{", ".join(requirement.name for requirement in still)} still missing after "{line}"; '
            f'see {runner.logs / "apt-get.log"}'
        )
