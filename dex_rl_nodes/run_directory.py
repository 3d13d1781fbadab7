"""The folder of one run: what lies where, and files that are never seen half written."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dex_rl_nodes import __version__, config
from dex_rl_nodes.errors import UserError, next_step
from dex_rl_nodes.paths import runs_directory

_UMASK = os.umask(0)  # can only be read by setting it
os.umask(_UMASK)
_LONGEST = 200  # bytes of a name
_LISTED = 8  # runs, at most, in a sentence
_UNITS = ('control_rate', 'translation_scale', 'rotation_scale')  # of the robot; what a stored action means
_OF_A_CAMERA = ('driver', 'serial', 'width', 'height')  # of the robot; what a stored image shows
PURPOSES = ('demos', 'reward', 'online', 'evaluation')


@dataclass(frozen=True)
class RunSettings:
    """What a run is; fixed when the run is created."""

    task: str
    robot: str
    interface: str
    method: str
    seed: int


DRY = 'dry'  # ends the name of the run of a dry run, in which the robot stands still


def dry_name(run: str) -> str:
    """Name under which a dry run is recorded."""
    return run if re.search(rf'(^|_){DRY}$', run) else f'{run}_{DRY}'


def refuse_dry(run: str) -> None:
    """UserError where a run that moves the robot, or learns, has the name of a dry one."""
    if run == dry_name(run):
        raise UserError(f'"{run}" is the name of a dry run, in which the robot stood still; choose another run:=NAME')


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new content, also after a power cut."""
    temporary = ''
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
        with os.fdopen(handle, 'wb') as file:
            os.fchmod(handle, 0o666 & ~_UMASK)  # mkstemp lets nobody else read it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        step = next_step(error, 'choose another folder, DEXRL_RUNS is that of all runs')
        raise UserError(f'cannot write {path}: {error.strerror}; {step}') from None


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, (json.dumps(content, indent=2) + '\n').encode())


def read_json(path: Path) -> dict:
    """Read a JSON file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}') from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f'{path} is damaged (no JSON object); delete it and run its stage again')
    return content


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _cameras(robot: config.Robot) -> dict[str, dict[str, str | int]]:
    """By view, what a run notes about the cameras of its robot; what is called device is where a V4L2 camera is."""
    noted = {view: {key: getattr(camera, key) for key in _OF_A_CAMERA} for view, camera in robot.cameras.items()}
    for view, camera in robot.cameras.items():
        noted[view]['device'] = camera.device if camera.driver == 'v4l2' else ''
    return noted


class RunDirectory:
    """Paths of one run below runs/ (or $DEXRL_RUNS), or below another folder."""

    def __init__(self, name: str, parent: Path | None = None):
        if not name.isprintable() or not name or '/' in name or name.startswith('.') or len(name.encode()) > _LONGEST:
            shown = ascii(name[:40])[1:-1] + '...' * (len(name) > 40)
            raise UserError(f'"{shown}" cannot be the name of a run; use letters, digits, - and _')
        self.name = name
        self.path = (parent or runs_directory()) / name

    def create(self, settings: RunSettings) -> 'RunDirectory':
        """Create the run, or check that the existing one has the same settings, and recordings that mean the same."""
        robot = config.load_robot(settings.robot)
        noted = {key: getattr(robot, key) for key in _UNITS} | {'cameras': _cameras(robot)}
        if not self.exists:
            about = {'version': __version__, 'created': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}
            write_json(self.file('run.json'), {**asdict(settings), **noted, **about})
            return self
        stored = self.settings()
        for key, value in asdict(settings).items():
            if getattr(stored, key) != value:
                raise UserError(
                    f'run "{self.name}" was made with {key} {getattr(stored, key)}, not {value}; '
                    f'choose another run:=NAME or the same {key}'
                )
        content = self._about()
        before = {**noted, **{key: content[key] for key in noted if key in content}}  # a run of before noted less
        self._refuse_change(robot.name, before, noted)
        before['cameras'] = {
            view: {**noted['cameras'][view], **camera, 'serial': camera['serial'] or noted['cameras'][view]['serial']}
            for view, camera in before['cameras'].items()
        }
        if {**content, **before} != content:
            write_json(self.file('run.json'), {**content, **before})
        return self

    def _refuse_change(self, robot: str, before: dict, now: dict) -> None:
        """UserError where what was recorded would mean something else; a serial number may be filled in later."""
        where, advice = f'in config/robots/{robot}.yaml', 'put it back or choose another run:=NAME'
        for key in _UNITS:
            if before[key] != now[key]:
                raise UserError(
                    f'run "{self.name}" was made with {key} {before[key]:g} {where}, not {now[key]:g}: recorded '
                    f'actions would mean another motion; {advice}'
                )
        for view, camera in now['cameras'].items():
            for key, value in camera.items():
                old = before['cameras'][view].get(key, value)
                if old != value and not (key == 'serial' and not old):
                    raise UserError(
                        f'run "{self.name}" was made with cameras.{view}.{key} {old} {where}, not {value or "none"}: '
                        f'recorded images would not look like new ones; {advice}'
                    )

    @contextmanager
    def claimed(self, command: str) -> Iterator[None]:
        """Work on the run alone, as far as this account on this machine goes.

        Raises:
            UserError: another command does; names it.
        """
        mark = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        with (Path(tempfile.gettempdir()) / f'dexrl-{os.getuid()}-run-{mark}.lock').open('a+') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                other = file.read().strip() or 'another command'
                raise UserError(
                    f'{other} works on run "{self.name}"; wait for it, or choose another run:=NAME'
                ) from None
            file.truncate(0)
            file.write(f'./dexrl {command} (process {os.getpid()})')
            file.flush()
            yield

    @property
    def exists(self) -> bool:
        """Whether it was created."""
        return self.file('run.json').exists()

    @property
    def lack(self) -> str:
        """What to say where there is no such run: it may be a slip in the name."""
        known = sorted(file.parent.name for file in self.path.parent.glob('*/run.json'))
        others = f' (it has: {", ".join(known[:_LISTED])}{", ..." * (len(known) > _LISTED)})' if known else ''
        return f'there is no run "{self.name}" in {self.path.parent}{others}'

    def settings(self) -> RunSettings:
        """Settings of the existing run; UserError without one."""
        if not self.exists:
            raise UserError(self.lack)
        content = self._about()
        return RunSettings(**{key: content[key] for key in RunSettings.__dataclass_fields__})

    def _about(self) -> dict:
        """What run.json says; UserError where that cannot be."""
        path = self.file('run.json')
        try:
            content = read_json(path)
        except UserError:
            content = {}
        usual = {**dict.fromkeys(('task', 'robot', 'interface', 'method'), str), 'seed': int}
        numbers = dict.fromkeys(_UNITS, (int, float))
        wrong = [key for key, kind in usual.items() if not isinstance(content.get(key), kind)]
        wrong += [key for key, kind in numbers.items() if not isinstance(content.get(key, 1.0), kind)]
        cameras = content.get('cameras', {view: {} for view in config.VIEWS})
        if not isinstance(cameras, dict) or not all(isinstance(cameras.get(view), dict) for view in config.VIEWS):
            wrong.append('cameras')
        if wrong:
            raise UserError(f'{path} is damaged ({wrong[0]}); put it back from a copy, or begin in another run:=NAME')
        return content

    def bags(self, purpose: str) -> Path:
        """Folder of the bags of one purpose."""
        if purpose not in PURPOSES:
            raise ValueError(purpose)
        return self.path / 'bags' / purpose

    def file(self, name: str) -> Path:
        """A file of the run by name, for example `prior.json`."""
        return self.path / name
