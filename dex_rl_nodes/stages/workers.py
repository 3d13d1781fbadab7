"""Runs pieces of work in processes of their own, side by side, in the order their needs allow."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from dex_rl_nodes import interrupt
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.process import end_of, was_stopped
from dex_rl_nodes.stages.progress import ProgressBoard

Tell = Callable[[int, int], None]  # steps done, steps in all
_PERIOD = 0.2  # s between two reports of progress
_GRACE = 8.0  # s a process has to end after Ctrl-C
# The first optimiser of a process imports torch._dynamo, which takes seconds: once for all of them.
_PRELOAD = ['torch', 'torch._dynamo', 'mujoco', 'dex_rl_nodes.stages.job']


@dataclass(frozen=True)
class Work:
    """One piece of work.

    `function` is importable and is called with `arguments` and, last, a function that is told the progress. It starts
    when all that it `needs` (names) is done; `bar` is the name under which its progress is shown. It is started once
    more when its process dies, so it must do its work as well after it died half way.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple = ()
    needs: tuple[str, ...] = ()
    bar: str = ''


class WorkFailed(UserError):
    """A piece of work ended badly; the message names it."""


def core_count() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def run_all(
    works: Sequence[Work],
    board: ProgressBoard,
    parallel: int = 0,
    on_done: Callable[[str, Any], None] = lambda name, result: None,
    on_failed: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Run the works in processes of their own; returns their results by name.

    Args:
        works: earlier ones start first.
        parallel: how many at a time; 0: one per core.
        on_done: told when a work is done.
        on_failed: told the name and one sentence when a work failed; what needs it is left out and the rest goes on.
            None: the first failure ends everything.

    Raises:
        WorkFailed: a work failed and there is no `on_failed`.
        UserError: as raised by the work itself.
    """
    return _Scheduler(works, board, parallel or core_count(), on_done, on_failed).run()


class _Scheduler:
    def __init__(self, works, board, parallel, on_done, on_failed):
        self._waiting = list(works)
        self._board = board
        self._parallel = parallel
        self._on_done, self._on_failed = on_done, on_failed
        self._running: dict[Connection, tuple[Work, multiprocessing.Process]] = {}
        self._started = 0
        self._results: dict[str, Any] = {}
        self._died: set[str] = set()  # works whose process died once
        self._parts: dict[str, dict[str, tuple[int, int]]] = {}  # bar -> work -> done, total
        self._context = multiprocessing.get_context('forkserver')
        self._context.set_forkserver_preload(_PRELOAD)
        resource_tracker.ensure_running()  # when it starts, it takes Ctrl-C for whoever wanted that to wait

    def run(self) -> dict[str, Any]:
        try:
            while self._waiting or self._running:
                self._start_ready()
                for connection in wait(list(self._running), timeout=1.0):
                    self._hear(connection)
        except BaseException:
            self._stop()
            raise
        return self._results

    def _start_ready(self) -> None:
        names = {work.name for work in self._waiting} | {work.name for work, _ in self._running.values()}
        for work in list(self._waiting):
            if len(self._running) >= self._parallel:
                return
            if not names.isdisjoint(work.needs):
                continue
            self._waiting.remove(work)
            here, there = self._context.Pipe(duplex=False)
            arguments = there, work.function, work.arguments, self._started
            process = self._context.Process(target=_child, args=arguments, name=work.name)
            self._started += 1
            interrupt.hold()  # the server of the processes loads for seconds, and who is started must be known
            try:
                process.start()
                there.close()
                self._running[here] = work, process
            finally:
                interrupt.accept()
            self._tell(work, 0, 1)

    def _hear(self, connection: Connection) -> None:
        work, process = self._running[connection]
        try:
            kind, *content = connection.recv()
        except (EOFError, OSError):
            process.join()
            kind = 'failed' if was_stopped(process.exitcode) else 'died'
            content = [f'its process ended with {end_of(process.exitcode)}']
        if kind == 'progress':
            self._tell(work, *content)
            return
        del self._running[connection]
        connection.close()
        process.join()
        if kind == 'died' and work.name not in self._died:
            self._died.add(work.name)
            self._board.say(f'{work.name}: {content[0]}; it is started once more')
            self._waiting.insert(0, work)
        elif kind == 'done':
            self._results[work.name] = content[0]
            self._tell_end(work)
            self._on_done(work.name, content[0])
        elif self._on_failed is None:
            raise UserError(content[0]) if kind == 'refused' else WorkFailed(f'{work.name}: {content[0]}')
        else:
            self._on_failed(work.name, content[0])
            self._drop_dependents(work.name)

    def _drop_dependents(self, name: str) -> None:
        dropped = [name]
        while dropped:
            cause = dropped.pop()
            for work in [work for work in self._waiting if cause in work.needs]:
                self._waiting.remove(work)
                self._on_failed(work.name, f'it needs {cause}')
                dropped.append(work.name)

    def _tell(self, work: Work, done: int, total: int) -> None:
        """Several works may share a bar; it shows their sum."""
        bar = work.bar or work.name
        parts = self._parts.setdefault(bar, {})
        parts[work.name] = done, total
        waiting = total * sum((mate.bar or mate.name) == bar for mate in self._waiting)
        done, total = (sum(part[index] for part in parts.values()) for index in (0, 1))
        self._board.update(bar, done, total + waiting)

    def _tell_end(self, work: Work) -> None:
        bar = work.bar or work.name
        total = self._parts[bar][work.name][1]
        self._tell(work, total, total)
        unfinished = [*self._waiting, *(running for running, _ in self._running.values())]
        if not any((mate.bar or mate.name) == bar for mate in unfinished):
            self._board.finish(bar)

    def _stop(self) -> None:
        """Ask every process to end, and make those that do not."""
        for _, process in self._running.values():
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + _GRACE
        for _, process in self._running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _child(connection: Connection, function: Callable[..., Any], arguments: tuple, number: int) -> None:
    """What runs in the process of a work; `number` counts the processes."""
    try:
        signal.signal(signal.SIGINT, _interrupt_once)
        signal.signal(signal.SIGTERM, _interrupt_once)
        interrupt.accept()
        _work(connection, function, arguments, number)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # nobody is there to be told
        raise SystemExit(1) from None


def _work(connection: Connection, function: Callable[..., Any], arguments: tuple, number: int) -> None:
    import torch

    from dex_rl_nodes.learning.device import take_card

    take_card(number)
    torch.set_num_threads(1)  # the other cores have work of their own, and results must not depend on their number
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _PERIOD:
            told = time.monotonic()
            connection.send(('progress', done, total))

    try:
        connection.send(('done', function(*arguments, tell)))
    except UserError as error:
        connection.send(('refused', str(error)))
    except BrokenPipeError:
        raise
    except Exception as error:  # reported with its place, for it is a mistake in the program
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{os.path.basename(place.filename)}:{place.lineno}'
        connection.send(('failed', f'{type(error).__name__}: {error} ({where})'))


def _interrupt_once(_number: int, _frame: Any) -> None:
    """Ctrl-C reaches the whole terminal group, and the parent passes it on too: once is enough."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt
