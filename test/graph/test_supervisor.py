"""The supervisor: order, restarts, ends and exit codes of a graph, with small programs in place of nodes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from dex_rl_nodes.graph import APPLICATIONS, Process
from dex_rl_nodes.supervisor import command_line

ROOT = Path(__file__).parents[2]
GOOD = """
    import signal, sys, threading
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    print('ready', flush=True)
    stop.wait(60)
    print('bye', flush=True)
"""
DEAF = """
    import signal, threading
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print('ready', flush=True)
    threading.Event().wait(60)
"""
LONG = "print('ready', flush=True)\nimport threading\nthreading.Event().wait(60)"
RUN = """
    import json, os, sys
    from dex_rl_nodes.graph import Process
    from dex_rl_nodes.supervisor import Supervisor
    rows = json.loads(sys.argv[1])
    commands = {row['name']: [sys.executable, *row.pop('words', ('-u', '-c')), row.pop('code')] for row in rows}
    processes = [Process(executable='', **row) for row in rows]
    sys.exit(Supervisor(processes, commands, dict(os.environ)).run())
"""


class Graph:
    """A running graph of small programs, and the lines it has written."""

    def __init__(self, *rows: dict, read: bool = True):
        import json

        rows = [{**row, 'code': textwrap.dedent(row['code'])} for row in rows]
        command = [sys.executable, '-c', textwrap.dedent(RUN), json.dumps(rows)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if read:
            self.read()

    def read(self) -> None:
        """Take what the graph writes."""
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()

    def wait_for(self, line: str, count: int = 1) -> None:
        with self._news:
            seen = self._news.wait_for(lambda: self.lines.count(line) >= count, 30)
        assert seen, self.lines

    def end(self, number: int = 0) -> int:
        """Send a signal (if any) and wait for the end; returns the exit code."""
        if number:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@pytest.fixture
def graph():
    graphs = []

    def start(*rows: dict, **how: bool) -> Graph:
        graphs.append(Graph(*rows, **how))
        return graphs[-1]

    yield start
    for started in graphs:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_with_code_0(graph, number):
    running = graph({'name': 'a', 'code': GOOD}, {'name': 'b', 'code': GOOD})
    running.wait_for('[a] ready')
    running.wait_for('[b] ready')
    assert running.end(number) == 0
    assert {'[a] bye', '[b] bye'} <= set(running.lines)


def test_a_process_that_stays_is_killed_and_named(graph):
    running = graph({'name': 'a', 'code': GOOD}, {'name': 'deaf', 'code': DEAF})
    running.wait_for('[a] ready')
    running.wait_for('[deaf] ready')
    start = time.monotonic()
    assert running.end(signal.SIGINT) == 1
    assert time.monotonic() - start < 15, 'it would sleep for a minute'
    assert any('deaf did not stop within' in line for line in running.lines)


def test_a_dead_process_stops_the_graph_and_is_named_with_its_code_and_last_words(graph):
    code = "import sys\nprint('dying')\nsys.stderr.write('last words')\nsys.exit(3)"
    running = graph({'name': 'a', 'code': GOOD}, {'name': 'b', 'code': code})
    assert running.end() == 3
    assert '[dexrl] b ended with exit code 3, so the graph stops' in running.lines
    assert {'[b] dying', '[b] last words'} <= set(running.lines)


def test_output_that_nobody_takes_does_not_stop_who_supervises(graph, tmp_path):
    """As with Ctrl-S, or in a pager."""
    full = tmp_path / 'full'
    talks = f"for _ in range(5000): print('x' * 100)\nimport os, pathlib\npathlib.Path({str(full)!r}).touch()\n"
    dies = f"""
        import pathlib, threading
        while not pathlib.Path({str(full)!r}).exists():
            threading.Event().wait(0.05)
        raise SystemExit(3)
    """
    running = graph(
        {'name': 'a', 'code': talks + 'import threading; threading.Event().wait(60)'},
        {'name': 'b', 'code': dies},
        read=False,
    )
    assert running.process.wait(30) == 3
    running.read()
    running._reader.join(10)
    assert '[a] ' + 'x' * 100 in running.lines


def test_a_killed_process_is_named_with_its_signal(graph):
    code = 'import os, signal\nos.kill(os.getpid(), signal.SIGKILL)'
    running = graph({'name': 'a', 'code': GOOD}, {'name': 'b', 'code': code})
    assert running.end() == 1
    assert '[dexrl] b ended with signal SIGKILL, so the graph stops' in running.lines


def test_restarts_are_counted_and_then_the_graph_stops(graph):
    row = {'name': 'b', 'code': "print('again')\nraise SystemExit(4)", 'on_exit': 'restart', 'max_restarts': 1}
    running = graph({'name': 'a', 'code': GOOD}, row)
    assert running.end() == 4
    assert running.lines.count('[b] again') == 2
    assert any('(restart 1 of 1)' in line for line in running.lines)


def test_what_a_person_must_mend_is_not_restarted(graph):
    row = {'name': 'b', 'code': "print('once')\nraise SystemExit(2)", 'on_exit': 'restart'}
    running = graph({'name': 'a', 'code': GOOD}, row)
    assert running.end() == 2
    assert running.lines.count('[b] once') == 1


def test_completion_ends_the_graph_with_code_0(graph):
    running = graph({'name': 'a', 'code': GOOD}, {'name': 'b', 'code': "print('result')", 'ends_graph': True})
    assert running.end() == 0
    assert '[dexrl] b is done' in running.lines


def test_a_signal_that_meets_the_start_of_a_process_is_no_failure(graph):
    # as CPython ends when SIGINT arrives while it imports `site`
    code = GOOD.replace("print('bye', flush=True)", "print('Fatal Python error', flush=True)\n    sys.exit(1)")
    running = graph({'name': 'a', 'code': code})
    running.wait_for('[a] ready')
    assert running.end(signal.SIGINT) == 0
    assert '[a] Fatal Python error' in running.lines


def test_a_failure_while_stopping_is_named(graph):
    code = GOOD.replace("print('bye', flush=True)", 'sys.exit(3)')
    running = graph({'name': 'a', 'code': code})
    running.wait_for('[a] ready')
    assert running.end(signal.SIGINT) == 1
    assert '[dexrl] a ended with exit code 3 while stopping' in running.lines


def test_preparation_ends_before_the_others_start(graph):
    first = {'name': 'first', 'code': "print('prepared')", 'is_node': False, 'runs_first': True}
    running = graph(first, {'name': 'b', 'code': "print('started')", 'ends_graph': True})
    assert running.end() == 0
    assert running.lines.index('prepared') < running.lines.index('[b] started')


def test_failed_preparation_starts_nothing(graph):
    first = {'name': 'first', 'code': 'raise SystemExit(2)', 'is_node': False, 'runs_first': True}
    running = graph(first, {'name': 'b', 'code': "print('started')"})
    assert running.end() == 2
    assert '[b] started' not in running.lines


def test_interrupted_preparation_is_a_clean_end(graph):
    first = {'name': 'first', 'code': LONG, 'is_node': False, 'runs_first': True}
    running = graph(first, {'name': 'b', 'code': "print('started')"})
    running.wait_for('ready')
    assert running.end(signal.SIGINT) == 0
    assert '[b] started' not in running.lines


@pytest.mark.skipif(not Path('/usr/bin/setpriv').exists(), reason='setpriv is not installed')
def test_nothing_outlives_a_killed_supervisor(graph):
    running = graph(
        {'name': 'a', 'code': GOOD.replace("'ready'", 'os.getpid()').replace('import signal', 'import os, signal')}
    )
    with running._news:
        assert running._news.wait_for(lambda: running.lines, 30)
    child = int(running.lines[0].split()[-1])
    running.process.kill()
    running.process.wait(10)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, 'the process outlived its supervisor'
        threading.Event().wait(0.05)


def test_parameters_keep_their_types_on_the_way_to_a_node(tmp_path):
    process = Process('policy', 'policy', parameters={'run': '2024', 'seed': 3, 'lockstep': True}, namespace='left')
    command = command_line(process, tmp_path)
    assert ['-r', '__node:=policy'] == command[5:7] and '__ns:=/left' in command
    written = yaml.safe_load((tmp_path / 'policy.yaml').read_text())['/**']['ros__parameters']
    assert written == {'run': '2024', 'seed': 3, 'lockstep': True}


def test_stages_run_without_ros_arguments(tmp_path):
    app = APPLICATIONS['train']
    (process,) = app.build(app.values({'stage': 'prior', 'seed': '4'}))
    command = command_line(process, tmp_path)
    assert command[1:5] == ['-m', 'dex_rl_nodes.stages', 'train', 'prior']
    assert 'seed:=4' in command and '--ros-args' not in command


def test_a_module_of_ours_starts_with_ctrl_c_kept(graph, tmp_path, monkeypatch):
    mask = "import signal; print('held', signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)"
    (tmp_path / 'tells_mask.py').write_text(mask)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    for words, code, held in ((['-m'], 'tells_mask', True), (['-u', '-c'], mask, False)):
        running = graph({'name': 'one', 'words': words, 'code': code, 'ends_graph': True})
        running.wait_for(f'[one] held {held}')
        assert running.end() == 0
