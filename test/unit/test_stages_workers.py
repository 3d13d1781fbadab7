"""Pieces of work in processes of their own: order, failures, and a process that dies."""

import pytest
from works import leave, note, refuse, stumble, vanish, vanish_once

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.stages import progress
from dex_rl_nodes.stages.progress import ProgressBoard
from dex_rl_nodes.stages.workers import Work, WorkFailed, run_all


def test_needs_come_first_and_results_come_back(tmp_path):
    log = tmp_path / 'log'
    works = [
        Work('c', note, (log, 'c'), ('a', 'b')),
        Work('a', note, (log, 'a')),
        Work('b', note, (log, 'b'), ('a',)),
    ]
    assert run_all(works, ProgressBoard(), parallel=3) == {'a': 'A', 'b': 'B', 'c': 'C'}
    assert log.read_text() == 'abc'


def test_the_rest_goes_on_when_a_process_dies(tmp_path):
    failed = {}
    works = [
        Work('dies', vanish, (tmp_path / 'deaths',)),
        Work('leaves', leave),
        Work('stumbles', stumble),
        Work('waits for it', note, (tmp_path / 'log', 'x'), ('dies',)),
        Work('goes on', note, (tmp_path / 'log', 'y')),
    ]
    results = run_all(works, ProgressBoard(), parallel=2, on_failed=lambda name, reason: failed.update({name: reason}))
    assert results == {'goes on': 'Y'}
    assert failed['dies'] == 'its process ended with signal SIGKILL'
    assert (tmp_path / 'deaths').read_text() == 'xx', 'started once more, and no third time'
    assert failed['leaves'] == 'its process ended with exit code 130'
    assert 'ZeroDivisionError: by nought' in failed['stumbles'] and 'works.py' in failed['stumbles']
    assert failed['waits for it'] == 'it needs dies'


def test_what_died_is_started_once_more(tmp_path, capfd):
    works = [
        Work('dies once', vanish_once, (tmp_path / 'log',)),
        Work('needs it', note, (tmp_path / 'log', '!'), ('dies once',)),
    ]
    assert run_all(works, ProgressBoard(), parallel=2) == {'dies once': 'AGAIN', 'needs it': '!'}
    assert (tmp_path / 'log').read_text() == 'xagain!'
    told = ''.join(capfd.readouterr())
    assert 'dies once: its process ended with signal SIGKILL; it is started once more' in told
    assert told.count('started once more') == 1


def test_the_first_failure_ends_everything_unless_told_otherwise(tmp_path):
    works = [Work('stumbles', stumble), Work('never', note, (tmp_path / 'log', 'x'), ('stumbles',))]
    with pytest.raises(WorkFailed, match='^stumbles: ZeroDivisionError'):
        run_all(works, ProgressBoard())
    assert not (tmp_path / 'log').exists()
    with pytest.raises(UserError, match='^there is no spoon; bring one$'):
        run_all([Work('refuses', refuse)], ProgressBoard())


def test_without_a_terminal_a_line_says_how_far_and_how_long(capsys, monkeypatch):
    clock = iter((100.0, 105.0, 160.0))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    board = ProgressBoard()
    for done in (20, 25, 50):  # 20 are of an earlier session
        board.update('learning', done, 100)
    assert capsys.readouterr().err == 'learning: 50 of 100 [01:00<01:40]\n'
