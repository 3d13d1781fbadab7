"""What online learning measured: metrics.jsonl and the same for TensorBoard."""

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dex_rl_nodes.errors import UserError

LINE_PERIOD = 9.0  # s after which a line is due; it comes with the next step or update, within 10 s
_RATES = {'env_steps': 'steps_per_second', 'updates': 'updates_per_second'}


class MetricsWriter:
    """Appends one line of JSON, and one point per curve, at least every 10 s and at the end of every episode.

    Args:
        folder: the run directory; what an earlier session wrote is kept.
        clock: seconds, monotonic.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._last_time = clock()
        self._last_progress: dict[str, float] = {}
        path = folder / 'metrics.jsonl'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cut_off = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b'\n')
            self._file = path.open('a', buffering=1)
            self._board = SummaryWriter(str(folder / 'tensorboard'))
            if cut_off:  # the last session was killed within a line
                self._file.write('\n')
        except OSError as error:
            raise UserError(f'cannot write {error.filename or path}: {error.strerror}') from None

    def add(self, losses: Mapping[str, float]) -> None:
        """Values of one update; what is written is their mean since the last line."""
        for name, value in losses.items():
            self._sums[name] += value
            self._counts[name] += 1

    def write(self, progress: Mapping[str, float], episode_ended: bool = False) -> bool:
        """Write a line if one is due.

        Args:
            progress: counters, with `env_steps` and `updates`.
            episode_ended: a line is due now.

        Returns:
            whether a line was written.

        Raises:
            UserError: the disk is full.
        """
        now = self._clock()
        elapsed = now - self._last_time
        if not episode_ended and elapsed < LINE_PERIOD and self._last_progress:
            return False
        values = dict(progress)
        for counter, rate in _RATES.items():
            before = self._last_progress.get(counter, progress[counter])
            values[rate] = (progress[counter] - before) / elapsed if elapsed > 0 else 0.0
        values |= {name: self._sums[name] / self._counts[name] for name in self._sums}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            self._file.write(json.dumps({'time': time.time(), **finite}) + '\n')
            for name, value in finite.items():  # raises what the thread that writes the curves met before
                self._board.add_scalar(name, value, int(progress['env_steps']))
        except OSError as error:
            where = error.filename or self._file.name
            raise UserError(f'cannot write {where}: {error.strerror}; free some space') from None
        self._sums.clear()
        self._counts.clear()
        self._last_time, self._last_progress = now, dict(progress)
        return True

    def close(self) -> None:
        """Flush and close both files; what a full disk does not take is lost."""
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                file.close()
