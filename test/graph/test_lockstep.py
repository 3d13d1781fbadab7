"""Online learning through the whole graph in lockstep: a run is continued, and the learner is killed in the middle."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from itertools import cycle

import psutil
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('mujoco')
torch = pytest.importorskip('torch')

from tiny_run import SETTINGS, launch, make_run, start

from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.recording.reader import next_folder
from dex_rl_nodes.recording.spool import SUFFIX, TransitionSpool, read_transitions
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.run_directory import RunSettings
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.tasks import TASKS
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop

DEADLINE = 150  # s
BEFORE, STEPS = 50, 200


def demonstrated(settings: RunSettings) -> Job:
    """A run with models and one demonstration."""
    torch.set_num_threads(1)
    job = Job(make_run('online', settings), settings)
    with BagWriter(next_folder(job.run.bags('demos'))) as bag:
        demonstrator = ScriptedOperator(job.task, job.robot, 'demonstrate')
        loop = Loop(job.task, job.robot, operator=demonstrator)
        loop.episode(0, start_seed(job.task, 'demos', SETTINGS.seed, 0), 'demos', bag)
    loop.close()
    return job


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A run with models, one demonstration, and one episode of online transitions from an earlier session."""
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    job = demonstrated(SETTINGS)
    online = next_folder(job.run.bags('online'))
    spool = TransitionSpool(job.run, online.with_name(online.name + SUFFIX))
    loop = Loop(job.task, job.robot, job.brain(), transitions=spool.append)
    loop.episode(0, start_seed(job.task, 'online', SETTINGS.seed, 0), 'online', None, BEFORE)
    spool.close()
    loop.close()
    return job


def _learner(graph: subprocess.Popen) -> int:
    """Process id of the learner."""
    children = psutil.Process(graph.pid).children(recursive=True)
    (found,) = [child.pid for child in children if '__node:=learner' in child.cmdline()]
    return found


def _until(condition, what, graph):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end and graph.poll() is None, f'{what}: not within {DEADLINE} s'
        time.sleep(0.05)  # between two looks at another process


def test_goes_on_with_a_run_and_does_not_wait_for_a_dead_learner(job, tmp_path):
    arguments = ('run:=online', 'prepare:=false', 'operator:=none', f'steps:={STEPS}')
    log = tmp_path / 'log.txt'
    with log.open('w') as file, start(tmp_path, 'online_rl', *arguments, stdout=file) as graph:
        try:
            # the first episode begins when the learner is there
            _until(lambda: len(episode_bags(job.run, 'online')), 'the first episode', graph)
            os.kill(_learner(graph), signal.SIGKILL)
            graph.wait(DEADLINE)
        finally:
            graph.terminate()
    said = log.read_text()
    assert graph.returncode == 0, said
    assert 'learner ended with' in said and 'starting it again' in said
    assert f'{STEPS} of {STEPS} steps' in said

    transitions = list(read_transitions(job.run))
    assert [transition.sequence for transition in transitions] == list(range(1, STEPS + 1))
    firsts = [transition.episode for transition in transitions if transition.step == 0]
    assert firsts == sorted(set(firsts)) and len(firsts) > 2
    for before, after in zip(transitions, transitions[1:]):
        if after.step:
            assert (after.episode, after.step) == (before.episode, before.step + 1)
            assert (after.features == before.next_features).all() and (after.state == before.next_state).all()
        else:
            assert before.truncated or not before.mask


OTHERS = [task for task in sorted(TASKS) if task != SETTINGS.task]


@pytest.mark.parametrize(('task', 'interface'), list(zip(OTHERS, cycle(('raw', 'pca', 'vq')))))
def test_every_other_task_runs_with_another_interface(task, interface, tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    job = demonstrated(replace(SETTINGS, task=task, interface=interface))
    arguments = (
        f'task:={task}',
        f'interface:={interface}',
        'run:=online',
        'prepare:=false',
        'operator:=none',
        'steps:=25',
    )
    code, said = launch(tmp_path, 'online_rl', *arguments, timeout=DEADLINE)
    assert code == 0, said
    transitions = list(read_transitions(job.run))
    assert len(transitions) == 25 and all(
        transition.base_core.shape == (job.interface().core_dim,) for transition in transitions
    )
