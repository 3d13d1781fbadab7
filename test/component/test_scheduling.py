"""Real-time priority is taken where the system allows it, and done without where it does not."""

import os
import subprocess
import sys

import pytest

from dex_rl_nodes.nodes import scheduling

THREADS = """
import os, sys, threading
from pathlib import Path
from dex_rl_nodes.nodes.scheduling import prefer
end = threading.Event()
def another():
    thread = threading.Thread(target=end.wait)
    thread.start()
    return thread
before = another()
print(prefer(3))
after = another()
print({(os.sched_getscheduler(int(t.name)), os.sched_getparam(int(t.name)).sched_priority)
       for t in Path('/proc/self/task').iterdir()})
end.set()
"""


def may_be_preferred() -> bool:
    code = 'import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(3))'
    return subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def test_every_thread_of_the_process_is_preferred_also_those_made_later():
    lines = subprocess.run(
        [sys.executable, '-c', THREADS], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    if may_be_preferred():
        assert lines == ['SCHED_RR 3', str({(os.SCHED_RR, 3)})]
    else:
        assert 'rtprio' in lines[0]
        assert lines[1] == str({(os.SCHED_OTHER, 0)})


@pytest.mark.parametrize(('allowed', 'taken'), [(0, None), (2, 2)])
def test_without_the_right_the_node_runs_on_and_says_how_to_allow_it(monkeypatch, allowed, taken):
    given = []

    def refuse(_thread, _policy, parameters):
        if parameters.sched_priority > allowed:
            raise PermissionError
        given.append(parameters.sched_priority)

    monkeypatch.setattr(os, 'sched_setscheduler', refuse)
    monkeypatch.setattr(scheduling.resource, 'getrlimit', lambda _kind: (allowed, allowed))
    told = scheduling.prefer(10)
    assert set(given) == ({taken} if taken else set())
    assert told == f'SCHED_RR {taken}' if taken else 'rtprio 10' in told


def test_nobody_is_preferred_who_did_not_ask(monkeypatch):
    monkeypatch.setattr(os, 'sched_setscheduler', lambda *_: pytest.fail('priority was changed'))
    assert scheduling.prefer(0) == 'usual priority'
