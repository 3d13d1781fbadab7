"""The graph in lockstep and the loop in one process are the same computation: equal numbers, tick by tick."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('mujoco')
torch = pytest.importorskip('torch')

from tiny_run import SETTINGS, launch, make_run, start

from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.sac import ResidualSettings
from dex_rl_nodes.learning.speed import random_transitions
from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.recording.messages import deserialise
from dex_rl_nodes.recording.reader import BagReader, bag_folders, next_folder
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import CoreAction, Phase
from dex_rl_nodes.run_directory import RunDirectory
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop

DEADLINE = 150  # s
CHAIN = ('policy_step', 'reward', 'core_action', 'action_command', 'executed_action', 'step_result')


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    torch.set_num_threads(1)
    return tmp_path


def _records(folder: Path, topics: Sequence[str]) -> tuple[dict, list]:
    """Records of a bag by topic, episode and step, and its ended episodes."""
    found, ended = {}, []
    for message in BagReader(folder, [f'/{topic}' for topic in (*topics, 'episode')]):
        record, topic = deserialise(message.data, message.type_name), message.topic.strip('/')
        if topic != 'episode':
            found[topic, record.episode, record.step] = record
        elif record.phase == Phase.ENDED:
            ended.append(record)
    return found, ended


def _compare(graph: Path, process: list[Path], topics: Sequence[str]) -> int:
    """Assert that both did the same; returns the number of records compared."""
    theirs, episodes = _records(graph, topics)
    ours = {}
    for folder, episode in zip(process, episodes, strict=True):
        records, (end,) = _records(folder, topics)
        assert (episode.seed, episode.outcome, episode.final_step) == (end.seed, end.outcome, end.final_step)
        ours |= records
    final = {episode.episode: episode.final_step for episode in episodes}
    # whatever belongs to ticks after the end of its episode is ignored, and so is the action of the last one
    last = {'policy_step': 0, 'reward': 0, 'step_result': 0}
    theirs = {key: record for key, record in theirs.items() if key[2] <= final[key[1]] + last.get(key[0], -1)}
    assert set(theirs) == set(ours)
    for key, record in ours.items():
        for name, value in asdict(record).items():
            if name != 'stamp':  # how often the scene was reset before is of no importance
                assert np.array_equal(value, getattr(theirs[key], name), equal_nan=name == 'probability'), (key, name)
    return len(ours)


def _in_process(run: RunDirectory, loop: Loop, purpose: str, episodes: int) -> list[Path]:
    folders = [run.path / f'in_process_{number}' for number in range(episodes)]
    for number, folder in enumerate(folders):
        with BagWriter(folder) as bag:
            loop.episode(number, start_seed(loop.task, purpose, SETTINGS.seed, number), purpose, bag)
    return folders


def _starve_recorder(graph: subprocess.Popen, run: RunDirectory, log: Path) -> None:
    """Take the processor away from the recorder once it records, until the graph stands still or an episode is over."""
    end = time.monotonic() + DEADLINE
    while not list(run.bags('demos').glob('*/*.mcap')):
        assert time.monotonic() < end and graph.poll() is None, 'the recorder does not record'
        time.sleep(0.05)  # between two looks at another process
    children = psutil.Process(graph.pid).children(recursive=True)
    recorder, robot = (
        next(child for child in children if f'__node:={name}' in child.cmdline())
        for name in ('replay_recorder', 'sim_robot')
    )
    recorder.suspend()
    try:
        before = -1.0
        while 'episode 0:' not in log.read_text() and sum(robot.cpu_times()[:2]) - before > 0.1:
            before = sum(robot.cpu_times()[:2])
            with pytest.raises(subprocess.TimeoutExpired):  # the graph does not end without its recorder
                graph.wait(2)
    finally:
        recorder.resume()


def test_collecting_also_with_a_recorder_that_stands_still_for_a_while(runs):
    run, log = RunDirectory('collect'), runs / 'log.txt'
    with log.open('w') as file, start(runs, 'collect_demos', 'run:=collect', 'episodes:=2', stdout=file) as graph:
        try:
            _starve_recorder(graph, run, log)
            graph.wait(DEADLINE)
        finally:
            graph.terminate()
    assert graph.returncode == 0, log.read_text()
    job = Job(run, SETTINGS)
    loop = Loop(job.task, job.robot, operator=ScriptedOperator(job.task, job.robot, 'demonstrate'))
    folders = _in_process(run, loop, 'demos', 2)
    (bag,) = bag_folders(run.bags('demos'))
    assert _compare(bag, folders, ('policy_step', 'action_command', 'executed_action', 'step_result')) > 200


def _acting_run(name: str) -> Job:
    """A run with a residual that learned one step."""
    job = Job(make_run(name), SETTINGS)
    interface, encoder = job.interface(), job.encoder()
    dimensions = encoder.feature_dim, interface.context_dim, interface.core_dim
    shown, online = (
        [replace(t, encoder=encoder.identity) for t in random_transitions(300, *dimensions, seed=seed)]
        for seed in (1, 2)
    )
    learner = Learner(ResidualSettings(start=1), interface, shown, seed=1)
    learner.extend(online)
    learner.update()
    learner.save(job.run.file('learner'))
    return job


def _residuals(bag: Path) -> list[CoreAction]:
    return [record for record in _records(bag, ['core_action'])[0].values() if record.residual.any()]


def test_acting_with_policy_prior_residual_and_classifier(runs):
    job = _acting_run('act')
    code, said = launch(runs, 'evaluate', 'run:=act', 'episodes:=1')
    assert code == 0, said
    loop = Loop(job.task, job.robot, job.brain(residual='learned'))
    folders = _in_process(job.run, loop, 'evaluation', 1)
    (bag,) = bag_folders(job.run.bags('evaluation'))
    assert _compare(bag, folders, CHAIN) > 600
    assert all(action.deterministic for action in _residuals(bag)) and _residuals(bag)


def test_exploring_draws_the_same_residuals(runs):
    """As many steps as come before the first iteration of the learner, with the weights of an earlier session."""
    job, steps = _acting_run('explore'), 60
    with BagWriter(next_folder(job.run.bags('demos'))) as bag:
        loop = Loop(job.task, job.robot, operator=ScriptedOperator(job.task, job.robot, 'demonstrate'))
        loop.episode(0, start_seed(job.task, 'demos', SETTINGS.seed, 0), 'demos', bag)
    loop.close()
    arguments = ('run:=explore', 'prepare:=false', 'operator:=none', f'steps:={steps}')
    code, said = launch(runs, 'online_rl', *arguments)
    assert code == 0, said
    folder = job.run.path / 'in_process'
    loop = Loop(job.task, job.robot, job.brain(residual='learned'))
    with BagWriter(folder) as bag:
        loop.episode(0, start_seed(job.task, 'online', SETTINGS.seed, 0), 'online', bag, steps)
    (theirs,) = episode_bags(job.run, 'online')
    assert _compare(theirs, [folder], CHAIN) > 5 * steps
    assert len(_residuals(theirs)) >= steps and not any(action.deterministic for action in _residuals(theirs))
