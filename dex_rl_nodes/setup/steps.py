"""Runs the steps of a set-up: one line of progress each, output in a log file, one sentence when it fails."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dex_rl_nodes.errors import UserError

REFRESH = 0.2  # s between two updates of the progress line


class Progress:
    """Shows which steps run and how long they take: one updating line on a terminal, else a line per event."""

    def __init__(self, total: int):
        self.total = total
        self.number = 0
        self._live = sys.stderr.isatty()
        self._running: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step from its start to its end."""
        with self._lock:
            self.number += 1
            number, start = self.number, time.monotonic()
            self._running[title] = (number, start)
        if not self._live:
            self._print(f'[{number}/{self.total}] {title} ...')
        try:
            yield
        finally:
            with self._lock:
                del self._running[title]
        self._print(f'[{number}/{self.total}] {title}: {time.monotonic() - start:.1f} s')

    def refresh(self) -> None:
        """Redraw the line of the running steps."""
        if not self._live:
            return
        with self._lock:
            now = time.monotonic()
            text = '  '.join(
                f'[{n}/{self.total}] {title} {now - start:.0f} s' for title, (n, start) in self._running.items()
            )
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write(f'\r\033[K{text[: width - 1]}')
        sys.stderr.flush()

    def _print(self, text: str) -> None:
        sys.stderr.write(f'\r\033[K{text}\n' if self._live else f'{text}\n')
        sys.stderr.flush()


class Runner:
    """Starts the programs of a set-up and ends them when it is interrupted."""

    def __init__(self, progress: Progress, logs: Path, lock: int):
        self.progress = progress
        self.logs = logs
        self._lock = lock  # programs inherit it: it stays held until the last of them is gone
        self._children: list[subprocess.Popen] = []
        self._stopped = False
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Run a program to its end.

        Raises:
            UserError: it failed; names the log and quotes its last words.
        """
        log = self.logs / f'{name}.log'
        with log.open('a') as file:
            file.write(f'\n$ {" ".join(map(str, command))}\n')
            file.flush()
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(variables or {})},
                pass_fds=(self._lock,),
                start_new_session=True,
            )
            self._children.append(child)
            code = self._wait(child)
        if code:
            raise UserError(
                f'{name} failed ({last_words(log)}); the whole output is in {log}, start again to continue from here'
            )

    def _wait(self, child: subprocess.Popen) -> int:
        while True:
            if self._stopped:
                raise KeyboardInterrupt
            try:
                return child.wait(REFRESH)
            except subprocess.TimeoutExpired:
                self.progress.refresh()

    def together(self, *tasks: Callable[[], None]) -> None:
        """Run tasks at the same time; the first failure is raised when all have ended."""
        failures: list[BaseException] = []

        def guarded(task: Callable[[], None]) -> None:
            try:
                task()
            except BaseException as error:  # raised again below, in the main thread
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(REFRESH)
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """End every program that still runs."""
        self._stopped = True
        for number in (signal.SIGINT, signal.SIGKILL):
            alive = [child for child in self._children if child.poll() is None]
            for child in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
            deadline = time.monotonic() + 3
            while any(child.poll() is None for child in alive) and time.monotonic() < deadline:
                time.sleep(0.05)


def last_words(log: Path) -> str:
    """The line of a log that most likely says what went wrong."""
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines[-200:] if 'error' in line.lower() and 'warning' not in line.lower()]
    return (errors or lines or ['no output'])[-1][:200]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold a lock file against a second set-up; waits for one that runs, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'another set-up is running (lock {path}); waiting for it', file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
