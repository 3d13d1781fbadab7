"""What killed programs leave in shared memory: what is found, removed and told, and what is left alone."""

import fcntl
import os

import pytest

from dex_rl_nodes.setup import command, doctor, shared_memory
from dex_rl_nodes.setup.places import Places

SEGMENT = 'fastrtps_0123456789abcdef'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'FOLDER', tmp_path)
    return tmp_path


def leave(folder, name=SEGMENT):
    path = folder / name
    path.write_bytes(bytes(2**20))
    path.with_name(f'{name}_el').touch()
    return path


def later(monkeypatch, seconds=3600.0):
    now = shared_memory.time.time()
    monkeypatch.setattr(shared_memory.time, 'time', lambda: now + seconds)


def test_a_segment_without_its_program_is_found_and_removed_with_its_lock(folder, monkeypatch):
    path = leave(folder)
    later(monkeypatch)
    assert shared_memory.left_over() == [path]
    assert shared_memory.size_of([path]) == pytest.approx(1, abs=0.1)
    shared_memory.remove([path])
    assert list(folder.iterdir()) == []


def test_a_segment_in_use_is_left_alone(folder, monkeypatch):
    path = leave(folder)
    later(monkeypatch)
    with path.with_name(f'{path.name}_el').open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert shared_memory.left_over() == []
    assert shared_memory.left_over() == [path]


def test_a_new_segment_may_not_be_locked_yet(folder):
    leave(folder)
    assert shared_memory.left_over() == []


def test_what_belongs_to_another_user_or_program_is_left_alone(folder, monkeypatch):
    for name in ('fastrtps_port7411', 'sem.fastrtps_port7411_mutex', 'fastrtps_something', 'psm_0123456789abcdef'):
        leave(folder, name)
    path = leave(folder)
    later(monkeypatch)
    assert shared_memory.left_over() == [path]
    uid = os.getuid()
    monkeypatch.setattr(shared_memory.os, 'getuid', lambda: uid + 1)
    assert shared_memory.left_over() == []


@pytest.mark.parametrize(('name', 'stays'), [('launch', False), ('test', False), ('train', True)])
def test_launch_and_test_remove_it_before_they_start(folder, monkeypatch, tmp_path, name, stays):
    path = leave(folder)
    later(monkeypatch)
    monkeypatch.setattr(command.os, 'execv', lambda *_: None)
    monkeypatch.setattr(command.os, 'chdir', lambda *_: None)
    monkeypatch.setattr(command.os, 'environ', {})
    monkeypatch.setattr(command, 'run_variables', lambda _: {})
    monkeypatch.setattr(command.interrupt, 'hold', lambda: None)
    command.hand_over(Places(tmp_path, tmp_path, ''), name, [])
    assert path.exists() == stays


def test_doctor_says_how_much_it_is(folder, monkeypatch):
    assert 'left by' not in doctor._shared_memory().text
    leave(folder)
    later(monkeypatch)
    finding = doctor._shared_memory()
    assert (finding.level, finding.fix) == ('good', '')
    assert finding.text.endswith(', 1 MiB left by programs that were killed')
    monkeypatch.setattr(shared_memory, 'size_of', lambda _: 10000)
    finding = doctor._shared_memory()
    assert finding.level == 'warning'
    assert './dexrl launch' in finding.fix
