"""What killed programs leave in shared memory: Fast DDS removes its segments only where it is closed."""

import fcntl
import os
import re
import time
from pathlib import Path

FOLDER = Path('/dev/shm')
_SEGMENT = re.compile('fastrtps_[0-9a-f]{16}')
_SETTLED = 60  # s since a segment was made, for it is locked a moment later


def left_over() -> list[Path]:
    """Segments of this user that no living program holds, with the lock file that belongs to each beside them.

    A living participant keeps NAME_el locked for as long as its segment NAME is used, also in a container.
    """
    found = []
    for path in sorted(FOLDER.glob('fastrtps_*')):
        if not _SEGMENT.fullmatch(path.name):
            continue
        try:
            status = path.stat()
            settled = status.st_uid == os.getuid() and time.time() - status.st_ctime > _SETTLED
            if settled and not _is_locked(path.with_name(f'{path.name}_el')):
                found.append(path)
        except OSError:
            continue  # it went meanwhile
    return found


def _is_locked(path: Path) -> bool:
    try:
        with path.open('rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def size_of(segments: list[Path]) -> float:
    """Their memory (MiB): pages that were written, not the length."""
    return sum(path.stat().st_blocks * 512 for path in segments if path.exists()) / 2**20


def remove(segments: list[Path]) -> None:
    """Remove segments and their lock files."""
    for path in segments:
        for file in (path, path.with_name(f'{path.name}_el')):
            file.unlink(missing_ok=True)
