"""Where the environment and the build lie, and from what they are made."""

import hashlib
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from dex_rl_nodes.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
REQUIREMENTS = CHECKOUT / 'requirements'
RECIPE = '1'  # raise it when set-up itself changes in a way that old environments do not have
OLDEST_DRIVER = 580  # of NVIDIA, for CUDA 13 of the pinned PyTorch
_DRIVER, _CARD = Path('/proc/driver/nvidia/version'), Path('/dev/nvidiactl')
DISTRIBUTIONS = ('humble', 'iron', 'jazzy', 'kilted', 'lyrical', 'rolling')


@dataclass(frozen=True)
class Places:
    """Folders of one kind of set-up on this machine.

    `distribution` is the sourced ROS installation, or empty where ROS comes from wheels.
    """

    environment: Path
    build: Path
    distribution: str

    @property
    def python(self) -> Path:
        """Interpreter of the environment."""
        return self.environment / 'bin' / 'python'

    @property
    def install(self) -> Path:
        """Where colcon installs the package (its prefix)."""
        return self.build / 'install' / 'dex_rl_nodes'

    @property
    def logs(self) -> Path:
        """Folder of the logs of the set-up steps."""
        return self.build / 'setup_log'

    def stamp(self, step: str) -> Path:
        """File that exists once a step of the environment is complete."""
        return self.environment / '.steps' / step

    def is_complete(self) -> bool:
        """True when environment and build are there and made from what the checkout holds now."""
        build_stamp = self.build / 'stamp'
        return (
            self.stamp('complete').exists()
            and build_stamp.exists()
            and build_stamp.read_text() == build_hash(self.environment)
        )


def sourced_distribution() -> str:
    """Name of the ROS distribution whose setup file is sourced; empty without one."""
    name = os.environ.get('ROS_DISTRO', '')
    if not name or not os.environ.get('AMENT_PREFIX_PATH'):
        return ''
    if name not in DISTRIBUTIONS:
        raise UserError(
            f'ROS 2 {name} is sourced, but dex_rl_nodes needs {DISTRIBUTIONS[0]} or newer; '
            'source a newer one, or unset ROS_DISTRO to use the private environment'
        )
    return name


def home() -> Path:
    """Folder of the private environments: $DEXRL_HOME, else ~/.cache/dexrl."""
    given = os.environ.get('DEXRL_HOME', '')
    try:
        folder = Path(given or Path.home() / '.cache' / 'dexrl').expanduser().resolve()
    except RuntimeError as error:  # no such account
        raise UserError(f'DEXRL_HOME={given} cannot be resolved ({error}); choose another folder') from None
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or nearest == Path('/proc'):
        raise UserError(f'DEXRL_HOME={folder} can be no folder, for {nearest} is none; choose another one')
    if CHECKOUT in (folder, *folder.parents):
        # CMake refuses include folders inside the source tree, and NumPy's headers are in the environment
        raise UserError(f'DEXRL_HOME={folder} lies inside the checkout; choose a folder outside of {CHECKOUT}')
    return folder


def card_driver() -> int:
    """Version (the first number) of the driver of an NVIDIA card that can be reached; 0 without one."""
    try:
        found = re.search(r'Module.*?\s(\d+)\.\d', _DRIVER.read_text())
    except OSError:
        return 0
    return int(found[1]) if found and _CARD.exists() else 0  # a container may know of the driver alone


def torch_build() -> str:
    """Which PyTorch: $DEXRL_TORCH, else the build for NVIDIA cards where a driver can run it, else for the processor.

    Raises:
        UserError: $DEXRL_TORCH is something else.
    """
    build = os.environ.get('DEXRL_TORCH') or ('cuda' if card_driver() >= OLDEST_DRIVER else 'cpu')
    if build not in ('cpu', 'cuda'):
        raise UserError(f'DEXRL_TORCH must be cpu or cuda, not "{build}"')
    return build


def find_places() -> Places:
    """Folders for the machine as it is now."""
    distribution = sourced_distribution()
    files = ['runtime.txt', 'test.txt', 'torch.txt'] if distribution else ['ros.lock', 'library.lock', 'torch.txt']
    parts = [RECIPE, distribution, sys.version, platform.machine(), torch_build()]
    digest = _digest(parts, [REQUIREMENTS / file for file in files])
    # one build per kind, so that changing between a ROS installation and the wheels does not mix them
    return Places(home() / f'env-{digest[:12]}', CHECKOUT / '.dexrl' / (distribution or 'wheels'), distribution)


def build_hash(environment: Path) -> str:
    """Hash of everything the colcon build is made from; Python files are used from the checkout and do not count."""
    interfaces = sorted([*CHECKOUT.glob('msg/*.msg'), *CHECKOUT.glob('srv/*.srv')])
    files = [*interfaces, CHECKOUT / 'CMakeLists.txt', CHECKOUT / 'package.xml']
    return _digest([str(environment), str(CHECKOUT)], files)


def _digest(parts: list[str], files: list[Path]) -> str:
    digest = hashlib.sha256()
    for part in [*parts, *(f'{file.name}\n{file.read_text()}' for file in files)]:
        digest.update(part.encode() + b'\0')
    return digest.hexdigest()
