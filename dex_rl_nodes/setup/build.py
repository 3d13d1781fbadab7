"""The colcon build of the package, and the variables that make it found."""

import os
import shutil
from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.setup.places import CHECKOUT, Places, build_hash
from dex_rl_nodes.setup.steps import Runner


def build_variables(places: Places) -> dict[str, str]:
    """Variables of the build itself."""
    variables = {
        'PATH': f'{places.environment / "bin"}{os.pathsep}{os.environ["PATH"]}',
        # colcon's own choice also limits the load, which on a busy machine means one compiler at a time
        'MAKEFLAGS': os.environ.get('MAKEFLAGS') or f'-j{len(os.sched_getaffinity(0))}',
    }
    if places.distribution:
        return variables
    prefix = str(places.environment)
    return {
        **variables,
        'AMENT_PREFIX_PATH': prefix,
        'CMAKE_PREFIX_PATH': prefix,
        'COLCON_PREFIX_PATH': '',
        'PYTHONPATH': '',
    }


def build(places: Places, runner: Runner) -> None:
    """Build the package unless it is built from just these files; a torn build is started afresh."""
    stamp = places.build / 'stamp'
    wanted = build_hash(places.environment)
    with runner.progress.step('colcon build of the messages'):
        if stamp.exists() and stamp.read_text() == wanted:
            return
        begun = places.build / 'begun'
        made_with = f'{places.environment}\n{CHECKOUT}\n'
        if begun.exists() and begun.read_text() != made_with:
            _clean(places)  # another environment, or the checkout was moved
        torn = begun.exists() and not stamp.exists()
        stamp.unlink(missing_ok=True)
        places.build.mkdir(parents=True, exist_ok=True)
        begun.write_text(made_with)
        try:
            _colcon(places, runner)
        except UserError:
            if not torn:
                raise
            _clean(places)
            begun.write_text(made_with)
            _colcon(places, runner)
        stamp.write_text(wanted)


def _clean(places: Places) -> None:
    for name in ('build', 'install', 'begun', 'stamp'):
        path = places.build / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _colcon(places: Places, runner: Runner) -> None:
    own = places.environment / 'bin' / 'colcon'
    folders = {name: places.build / name for name in ('build', 'install', 'log')}
    command = [
        *([places.python, own] if own.exists() else ['colcon']),
        *('--log-base', folders['log']),
        'build',
        *('--base-paths', CHECKOUT),
        *('--build-base', folders['build']),
        *('--install-base', folders['install']),
        '--symlink-install',
        *('--event-handlers', 'console_direct+'),
        '--cmake-args',
        '-DBUILD_TESTING=OFF',
        f'-DPython3_EXECUTABLE={places.python}',
        # seen to work with the generators of Jazzy, which the wheels are too
        f'-DUNITY_TYPESUPPORT={"ON" if places.distribution in ("", "jazzy") else "OFF"}',
    ]
    runner.run('colcon', command, build_variables(places))


def run_variables(places: Places) -> dict[str, str]:
    """Variables with which the package runs: what install/setup.bash would set, without the second it takes."""
    install = places.install
    site = next((path.parent for path in install.rglob('*-packages/dex_rl_nodes')), None)
    if site is None:
        raise UserError(f'{install} is incomplete; delete {places.build} and start again')
    renderer = places.environment / 'renderer'
    prefixes = [install] if places.distribution else [install, places.environment]
    added = {
        'PATH': [places.environment / 'bin'],
        'AMENT_PREFIX_PATH': prefixes,
        'LD_LIBRARY_PATH': [install / 'lib'],
        # the checkout first: edits of Python files count at once
        'PYTHONPATH': [CHECKOUT, site],
    }
    variables = {name: _joined(paths, os.environ.get(name, '')) for name, paths in added.items()}
    variables['VIRTUAL_ENV'] = str(places.environment)
    if 'MUJOCO_GL' not in os.environ and renderer.exists():
        variables['MUJOCO_GL'] = renderer.read_text()
    return variables


def _joined(paths: list[Path], present: str) -> str:
    words = [str(path) for path in paths]
    return os.pathsep.join(words + [word for word in present.split(os.pathsep) if word and word not in words])
