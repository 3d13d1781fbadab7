"""Runs a graph where `launch` is not installed: starts, watches and stops its processes.

circus spawns, signals, reaps and reads the processes; this file holds what a graph means: who is waited for, who may
be restarted, and which end ends everything.
"""

import os
import queue
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from circus.arbiter import Arbiter
from circus.exc import ConflictError
from circus.stream.redirector import Redirector
from circus.watcher import Watcher
from tornado.ioloop import IOLoop, PeriodicCallback

from dex_rl_nodes import interrupt
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.process import PACKAGE, Process, Restarts, end_of, was_stopped

GRACE = 4.5  # s between SIGINT and SIGKILL, so that everything is gone within 5 s
CHECK_PERIOD = 0.1  # s between two looks for ended processes
RESTART_DELAY = 1.0  # s before the first restart; doubles with each
STARTING = 5.0  # s in which a process may still be on its way to handle SIGINT
_WAITING = 1000  # outputs that may wait for the terminal
_FAREWELL = 1.0  # s for the last of them
USER_ERROR = 2  # exit code: a person has to act, starting again cannot help


class _Redirector(Redirector):
    """Reads what is left in the pipes before it lets them go: the last words of a process matter most."""

    def remove_redirections(self, process):
        for name, pipe in self.get_process_pipes(process):
            if pipe.closed or self.redirect[name] is None:
                continue
            os.set_blocking(pipe.fileno(), False)
            while data := pipe.read(self.buffer):
                self.redirect[name]({'data': data, 'pid': process.pid, 'name': name})
        super().remove_redirections(process)


class _Watcher(Watcher):
    _redirector_class = _Redirector
    accepts_late = False  # it keeps Ctrl-C until it can handle it, see interrupt.py

    def spawn_process(self, *arguments):
        if self.accepts_late:
            interrupt.hold()
        try:
            return super().spawn_process(*arguments)
        finally:
            interrupt.accept()


class _Terminal:
    """Writes in a thread of its own: output that nobody takes (Ctrl-S, a pager) must not stop who supervises."""

    def __init__(self):
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Write some lines; those for which there is no room are counted, and told later."""
        try:
            self._waiting.put_nowait(data)
        except queue.Full:
            self._left_out += data.count(b'\n')

    def log(self, text: str) -> None:
        """Write a sentence for the person."""
        self.write(f'[dexrl] {text}\n'.encode())

    def close(self) -> None:
        """Write what waits, if it is taken."""
        try:
            self._waiting.put(None, timeout=_FAREWELL)
        except queue.Full:
            return
        self._thread.join(_FAREWELL)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (data := self._waiting.get()) is not None:
            if left_out := self._left_out:
                self._left_out = 0
                data = f'[dexrl] {left_out} lines were left out, for nobody took them\n'.encode() + data
            try:
                while data:
                    data = data[os.write(sys.stdout.fileno(), data) :]
            except OSError:
                pass  # nobody reads any more; the graph goes on


class _Lines:
    """Passes the output of a process on, line by line, each with the name of the process."""

    def __init__(self, name: str, write: Callable[[bytes], None]):
        self.prefix = f'[{name}] '.encode()
        self.rest = b''
        self._write_all = write

    def __call__(self, chunk: dict) -> None:
        *lines, self.rest = (self.rest + chunk['data']).replace(b'\r\n', b'\n').split(b'\n')
        self._write(lines)

    def flush(self) -> None:
        """Write a last line without its end."""
        if self.rest:
            self._write([self.rest])
            self.rest = b''

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            self._write_all(b''.join(self.prefix + line + b'\n' for line in lines))


class Supervisor:
    """Runs the processes of one graph to its end.

    Args:
        processes: the graph.
        commands: command line of each process, by name.
        variables: environment of the processes.
    """

    def __init__(self, processes: list[Process], commands: Mapping[str, list[str]], variables: dict[str, str]):
        self.processes = {process.name: process for process in processes}
        self.commands = commands
        self.variables = variables
        self._terminal = _Terminal()
        self.log = self._terminal.log
        self.exit_code: int | None = None  # set when the graph ends
        self._restarts = {name: Restarts(process.max_restarts) for name, process in self.processes.items()}
        self._started = dict.fromkeys(self.processes, 0.0)
        self._lines = {name: _Lines(name, self._terminal.write) for name in self.processes}

    def run(self) -> int:
        """Run until the graph ends or a signal comes; returns the exit code."""
        with tempfile.TemporaryDirectory(prefix='dexrl-') as folder:
            self._loop = IOLoop.current()
            self._watchers = {name: self._watcher(process) for name, process in self.processes.items()}
            # circus wants addresses to be commanded at; nobody else knows these
            self._arbiter = Arbiter(
                list(self._watchers.values()),
                endpoint=f'ipc://{folder}/control',
                pubsub_endpoint=f'ipc://{folder}/events',
                check_delay=-1,  # it may not look while it starts; `_look` knows how to wait
                loglevel='CRITICAL',
            )
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            self._looks = PeriodicCallback(self._look, 1000 * CHECK_PERIOD)
            self._looks.start()
            self._arbiter.start()
        self._terminal.close()
        return self.exit_code or 0

    def _watcher(self, process: Process) -> Watcher:
        executable, *arguments = self._guarded(self.commands[process.name])
        # programs that run to their end draw progress bars, so they get the terminal itself
        stream = {'stream': self._lines[process.name]} if process.is_node else None
        watcher = _Watcher(
            process.name,
            shlex.quote(executable),
            args=arguments,
            env=self.variables,
            stop_signal=signal.SIGINT,
            graceful_timeout=GRACE,
            respawn=False,
            max_retry=1,
            autostart=process.runs_first or not any(other.runs_first for other in self.processes.values()),
            stdout_stream=stream,
            stderr_stream=stream,
            hooks={
                'after_spawn': (self._on_spawn, False),
                'before_reap': (self._before_reap, True),
                'after_reap': (self._on_end, True),
            },
        )
        watcher.accepts_late = '-m' in self.commands[process.name][:2]  # a module of ours
        return watcher

    @staticmethod
    def _guarded(command: list[str]) -> list[str]:
        """The command, told to stop when the supervisor is killed without a chance to stop it."""
        setpriv = shutil.which('setpriv')
        return [setpriv, '--pdeathsig', 'INT', *command] if setpriv else command

    def _look(self) -> None:
        """Reap what has ended. Circus' own look forgets a process that ends while it looks, and calls nobody."""
        self._arbiter.reap_processes()

    def _on_spawn(self, watcher: Watcher, pid: int, **_) -> bool:
        self._started[watcher.name] = time.monotonic()
        return True

    def _before_reap(self, watcher: Watcher, process_pid: int, **_) -> None:
        if watcher.stream_redirector:
            watcher.stream_redirector.remove_redirections(watcher.processes[process_pid])
        self._lines[watcher.name].flush()

    def _on_end(self, watcher: Watcher, exit_code: int | None, **_) -> None:
        process = self.processes[watcher.name]
        code = exit_code if exit_code is not None else 0
        if self.exit_code is not None:  # the graph is ending
            self._on_end_while_stopping(process, code)
        elif code == 0 and process.runs_first:
            self._start_others()
        elif code == 0 and process.ends_graph:
            self.log(f'{process.name} is done')
            self.stop(0)
        elif process.on_exit == 'restart' and code != USER_ERROR and self._may_restart(process):
            self._restart(process, code)
        else:
            self.log(f'{process.name} ended with {end_of(code)}, so the graph stops')
            self.stop(code if code > 0 else 1)

    def _on_end_while_stopping(self, process: Process, code: int) -> None:
        # what does not handle Ctrl-C (yet) ends through it; that is no failure. An interpreter that it meets while it
        # imports ends with code 1 and a message of its own.
        starting = time.monotonic() - self._started[process.name] < STARTING
        if code == 0 or was_stopped(code) or (code == 1 and starting):
            return
        killed = code == -signal.SIGKILL
        self.log(
            f'{process.name} did not stop within {GRACE:g} s and was killed'
            if killed
            else f'{process.name} ended with {end_of(code)} while stopping'
        )
        self.exit_code = self.exit_code or 1

    def _start_others(self) -> None:
        for watcher in self._watchers.values():
            if not self.processes[watcher.name].runs_first:
                self._loop.add_callback(watcher._start)

    def _may_restart(self, process: Process) -> bool:
        return self._restarts[process.name].allow(time.monotonic() - self._started[process.name])

    def _restart(self, process: Process, code: int) -> None:
        number = self._restarts[process.name].count
        delay = RESTART_DELAY * 2 ** (number - 1)
        self.log(
            f'{process.name} ended with {end_of(code)}; starting it again in {delay:g} s '
            f'(restart {number} of {process.max_restarts})'
        )
        self._loop.call_later(delay, self._start_again, self._watchers[process.name])

    async def _start_again(self, watcher: Watcher) -> None:
        if self.exit_code is None:
            await watcher._start()

    def _on_signal(self, number: int, _frame) -> None:
        self._loop.add_callback_from_signal(self.stop, 0)

    def stop(self, code: int) -> None:
        """End the graph: SIGINT to all, SIGKILL to those that stay."""
        if self.exit_code is None:
            self.exit_code = code
            self._stop_arbiter()

    def _stop_arbiter(self) -> None:
        self._looks.stop()  # stopping reaps by itself
        try:
            self._loop.add_future(self._arbiter.stop(), lambda future: future.result())
        except ConflictError:  # circus is busy starting or reaping
            self._loop.call_later(CHECK_PERIOD / 2, self._stop_arbiter)


def command_line(process: Process, folder: Path, parameter_file: str = '') -> list[str]:
    """Command line of a process without `launch`; parameters go through a file, so that their types survive.

    Raises:
        UserError: the process belongs to a package that only a ROS installation has.
    """
    if process.is_launch_file:
        raise UserError(
            f'the {process.name} is started by {process.executable} of {process.package}, which needs a ROS '
            f'installation; install and source it, or start the {process.name} on another machine and leave '
            f'devices.{process.name}.bringup in config/robots/ empty'
        )
    if process.package != PACKAGE:
        raise UserError(
            f'{process.name} is an executable of {process.package}, which needs a ROS installation; '
            f'install ros-$ROS_DISTRO-{process.package.replace("_", "-")} with apt-get and source its setup.bash'
        )
    if not process.is_node:
        return [sys.executable, '-m', f'{PACKAGE}.{process.executable}', *process.arguments]
    command = [sys.executable, '-m', f'{PACKAGE}.nodes', process.executable, *process.arguments]
    path = folder / f'{process.name}.yaml'
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': dict(process.parameters)}}))
    command += ['--ros-args', '-r', f'__node:={process.name}', '--params-file', str(path)]
    if process.namespace:
        command += ['-r', f'__ns:=/{process.namespace.strip("/")}']
    for source, target in process.remaps:
        command += ['-r', f'{source}:={target}']
    if parameter_file:
        command += ['--params-file', str(Path(parameter_file).resolve())]
    return command
