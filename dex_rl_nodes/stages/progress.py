"""Progress bars, of one stage or of several that run side by side."""

import sys
import time

from tqdm import tqdm

_LINE_PERIOD = 10.0  # s between two lines where there is no terminal


class ProgressBoard:
    """One bar per stage on a terminal; elsewhere a line at the end of each and every 10 s; both with the time left."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}
        self._started: dict[str, float] = {}
        self._totals: dict[str, int] = {}
        self._done_before: dict[str, int] = {}  # by an earlier session
        self._counted: dict[str, float] = {}  # since when
        self._told: dict[str, float] = {}
        self._terminal = sys.stderr.isatty()

    def update(self, stage: str, done: int, total: int, note: str = '') -> None:
        """A stage has come so far."""
        now = time.monotonic()
        if stage not in self._started or total != self._totals[stage]:  # what it is about may be known only now
            self._started.setdefault(stage, now)
            self._told.setdefault(stage, now)
            self._totals[stage], self._done_before[stage], self._counted[stage] = total, done, now
        if self._terminal:
            self._draw(stage, done, total, note)
        elif now - self._told[stage] > _LINE_PERIOD:
            self._told[stage] = now
            elapsed, new = now - self._counted[stage], done - self._done_before[stage]
            left = tqdm.format_interval(elapsed * (total - done) / new) if new > 0 else '?'
            passed = f'[{tqdm.format_interval(elapsed)}<{left}]'
            print(f'{stage}: {done} of {total} {passed} {note}'.rstrip(), file=sys.stderr, flush=True)

    def _draw(self, stage: str, done: int, total: int, note: str) -> None:
        bar = self._bars.get(stage)
        if bar is None:
            form = '{desc:14} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}'
            bar = self._bars[stage] = tqdm(total=total, desc=stage, bar_format=form, dynamic_ncols=True, leave=False)
        bar.total, bar.n, bar.initial = total, done, self._done_before[stage]
        bar.set_postfix_str(note, refresh=False)
        bar.refresh()

    def finish(self, stage: str, note: str = '') -> None:
        """A stage is done; says how long it took."""
        seconds = time.monotonic() - self._started.pop(stage, time.monotonic())
        if stage in self._bars:
            self._bars.pop(stage).close()
        self.say(f'{stage}: done in {seconds:.0f} s{"; " if note else ""}{note}')

    def say(self, text: str) -> None:
        """Print one line without disturbing the bars."""
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def of(self, stage: str):
        """A function (done, total) for the stages of learning/."""
        return lambda done, total: self.update(stage, done, total)
