"""All stages of a run, with a few steps of everything, in one process."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dex_rl_nodes.config import Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import numbered
from dex_rl_nodes.recording.history import read_history
from dex_rl_nodes.recording.spool import read_transitions
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import HAND_DIM, EpisodeState, Mark, OperatorInput, Origin, Outcome, Phase
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, read_json, write_json
from dex_rl_nodes.stages import collect, inputs
from dex_rl_nodes.stages.bench.pictures import draw_run
from dex_rl_nodes.stages.collect import reward_works
from dex_rl_nodes.stages.evaluate import evaluate
from dex_rl_nodes.stages.inputs import Amounts
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop
from dex_rl_nodes.stages.online import OnlineSession
from dex_rl_nodes.stages.prepare import preparation_works
from dex_rl_nodes.stages.recordings import ended_episodes
from dex_rl_nodes.stages.train import encoder_stage, policy_stage, stages_for

AMOUNTS = Amounts(demonstrations=2, shown=1, near_misses=1, rollouts=1, strays=1)
SETTINGS = RunSettings('pull_tissue', 'sim', 'latent_prior', 'smoke', 7)


def run_here(works) -> None:
    """Do pieces of work one after the other, in this process."""
    for work in works:
        work.function(*work.arguments, lambda done, total: None)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory) -> Job:
    """A run on which everything before online learning was done."""
    torch.set_num_threads(1)
    run = RunDirectory('tiny', tmp_path_factory.mktemp('runs')).create(SETTINGS)
    job = Job(run, SETTINGS, AMOUNTS)
    run_here(preparation_works(job))
    return job


def copy_of(job: Job, folder) -> Job:
    """The same run somewhere else."""
    shutil.copytree(job.run.path, folder / 'copy')
    return Job(RunDirectory('copy', folder), job.settings, job.amounts)


def test_every_stage_says_what_it_measured(prepared):
    prior, policy, reward = (read_json(prepared.run.file(f'{name}.json')) for name in ('prior', 'policy', 'reward'))
    assert len(prior['test_rmse']) == HAND_DIM and prior['task'] == 'pull_tissue'
    assert {'active_units', 'off_manifold_ratio', 'inputs'} <= set(prior)
    assert policy['test']['ticks'] > 0 and {'precision', 'recall', 'curve'} <= set(reward)
    demos = read_json(prepared.run.file('demos.json'))
    assert demos['successes'] == 2 and demos['n'] >= 2
    assert inputs.missing(prepared.run, SETTINGS, AMOUNTS) == []


def test_what_was_done_is_not_done_again(prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.run.path.glob('*.safetensors')}
    names = [work.name for work in preparation_works(prepared)]
    assert names == ['recordings', 'encoder', 'prior', 'policy', 'rollouts', 'reward']
    run_here(preparation_works(prepared))
    assert {path: path.stat().st_mtime_ns for path in prepared.run.path.glob('*.safetensors')} == before


def test_what_is_out_of_date_is_noticed(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == []
    prior = job.run.file('prior.json')
    prior.write_text(prior.read_text().replace(read_json(prior)['sha256'], '0' * 64))
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == ['prior', 'policy']
    shutil.rmtree(next(job.run.bags('demos').iterdir()))
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == ['demos', 'encoder', 'prior', 'policy', 'reward']


def test_rollouts_of_another_policy_are_recorded_again(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    rollouts = sorted(path.name for path in job.run.bags('reward').glob('e*') if int(path.name[1:]) >= inputs.ROLLOUTS)
    policy = job.run.file('policy.json')
    policy.write_text(policy.read_text().replace(read_json(policy)['sha256'], '0' * 64))  # as of another one
    write_json(policy, {**read_json(policy), 'inputs': {**read_json(policy)['inputs'], 'prior': 'another'}})
    works = {work.name: work for work in preparation_works(job)}
    assert len(rollouts) == 2 and {'rollouts 0', 'strays 0'} <= set(works)
    run_here([works['policy']])
    assert not any((job.run.bags('reward') / name).exists() for name in rollouts)
    assert sorted(path.name for path in job.run.bags('reward').iterdir()) == ['e00500', 'e01000']
    run_here([works['rollouts 0'], works['strays 0']])
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == ['reward']
    run_here([works['rollouts 0']])  # nothing is left to do
    assert all((job.run.bags('reward') / name).exists() for name in rollouts)


def test_an_encoder_that_is_trained_again_is_the_same(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    before = read_json(job.run.file('encoder.json'))['sha256']
    encoder_stage(job, lambda done, total: None, again=True)
    assert read_json(job.run.file('encoder.json'))['sha256'] == before


def test_the_first_reward_sessions_make_an_encoder_out_of_date_and_further_ones_do_not(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    folders = sorted(job.run.bags('reward').iterdir())
    shutil.rmtree(folders[-1])
    assert not inputs.outdated(job.run, SETTINGS).get('encoder')
    for folder in folders[:-1]:
        shutil.rmtree(folder)
    encoder_stage(job, lambda done, total: None)  # as on a robot where the policy comes first
    policy_stage(job, lambda done, total: None)
    assert inputs.is_current(job.run, SETTINGS, 'encoder') and inputs.is_current(job.run, SETTINGS, 'policy')
    assert stages_for('reward', job) == ['reward']
    shutil.copytree(prepared.run.bags('reward') / folders[0].name, folders[0])
    assert inputs.outdated(job.run, SETTINGS)['encoder'] == ['sessions']
    assert stages_for('reward', job) == ['encoder', 'reward']


def test_other_crops_are_noticed_but_not_in_a_run_that_never_noted_them(prepared, tmp_path, monkeypatch):
    job, task = copy_of(prepared, tmp_path), prepared.task
    changed = task.model_copy(update={'crops': {**task.crops, 'wrist': [0.1, 0.1, 0.9, 0.9]}})
    monkeypatch.setattr(inputs.config, 'load_task', lambda name: changed)
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == ['encoder', 'policy', 'reward']
    assert inputs.outdated(job.run, SETTINGS)['policy'] == ['crops']
    with pytest.raises(UserError, match='encoder of run "copy" was trained with other crops than config/tasks/pull_'):
        Job(job.run, SETTINGS, AMOUNTS).encoder()
    for stage in inputs.TRAINED:
        content = read_json(job.run.file(f'{stage}.json'))
        content['inputs'].pop('crops', None)
        write_json(job.run.file(f'{stage}.json'), content)
    assert inputs.missing(job.run, SETTINGS, AMOUNTS) == []
    assert Job(job.run, SETTINGS, AMOUNTS).encoder().identity == job.encoder().identity


def test_reward_sessions_that_were_all_broken_off_are_no_hindrance(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    shutil.rmtree(job.run.bags('reward'))
    with BagWriter(job.run.bags('reward') / '00000') as bag:
        bag.write('/episode', EpisodeState(1, 1, Phase.RUNNING))
    assert job.has('reward') and job.finished('reward') == []
    assert encoder_stage(job, lambda done, total: None, again=True)['other_frames'] == 0


def test_an_interrupted_collection_goes_on(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    lost = sorted(job.run.bags('demos').iterdir())[0]
    for path in lost.glob('*.mcap'):
        path.unlink()  # as if stopped before its first byte
    works = [work for work in preparation_works(job) if work.bar == 'demonstrations']
    run_here(works)
    successes = [state for state in ended_episodes(job.run, 'demos').values() if state.outcome == Outcome.SUCCESS]
    assert len(successes) == 2


def learn(job: Job, steps: int, second_thread: bool = True) -> OnlineSession:
    session = OnlineSession(job, second_thread=second_thread)
    session.learn(steps, lambda done, note: None)
    return session


def test_online_learning_is_repeatable_bit_by_bit_with_and_without_a_second_thread(prepared, tmp_path):
    sessions, transitions = [], []
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        job = copy_of(prepared, tmp_path / name)
        sessions.append(learn(job, 80, second_thread=name == 'a'))
        transitions.append(list(read_transitions(job.run)))
    first, second = transitions
    assert [t.sequence for t in first] == list(range(1, 81))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.action, other.action) and np.array_equal(one.residual, other.residual)
    assert sessions[0].learner.updates == 80
    assert sessions[0].learner.weights()[1] == sessions[1].learner.weights()[1]
    assert any(np.abs(t.residual).max() > 0 for t in first), 'the learned residual never came to the robot'


def test_transitions_fit_together(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    learn(job, 125)
    transitions = list(read_transitions(job.run))
    for before, after in zip(transitions[:-1], transitions[1:], strict=True):
        if before.episode == after.episode:
            assert after.step == before.step + 1 and not before.truncated
            assert np.array_equal(before.next_features, after.features)
            assert np.array_equal(before.next_hand_history, after.hand_history)
            assert np.allclose(after.hand_history[-HAND_DIM:], (before.action[-HAND_DIM:] + 1) / 2, atol=1e-6)
        else:
            assert before.mask == 0 or before.truncated
    assert transitions[-1].truncated, 'the budget ends the last episode'
    assert {t.encoder for t in transitions} == {job.encoder().identity}


def test_online_learning_goes_on_where_it_stopped(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    learn(job, 20)
    episodes = read_history(job.run, 'online').next_episode
    session = learn(job, 60)
    assert session.learner.env_steps == 60 and session.learner.updates == 60
    transitions = list(read_transitions(job.run))
    assert [t.sequence for t in transitions] == list(range(1, 61))
    assert transitions[20].episode == episodes and transitions[20].step == 0
    lines = [json.loads(line) for line in job.run.file('metrics.jsonl').read_text().splitlines()]
    assert {'time', 'env_steps', 'updates', 'episodes', 'successes', 'interventions'} <= set(lines[-1])
    assert lines[-1]['env_steps'] == 60


def test_a_session_without_an_update_leaves_no_checkpoint(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    assert learn(job, 20).learner.updates == 0 and not job.run.file('learner').exists()


def test_lost_recordings_are_said_and_learning_goes_on(prepared, tmp_path, capsys):
    job = copy_of(prepared, tmp_path)
    learn(job, 70)
    shutil.rmtree(job.run.bags('online'))
    session = learn(job, 60)
    assert session.learner.updates == 130, 'one more for every transition of this session'
    error = capsys.readouterr().err
    assert 'step_70.safetensors was learned from 70 online transitions, of which 0 are in' in error


class Discarder:
    """A person who throws the first episode away at its fifth tick."""

    ticks = 0

    def reset(self, seed: int) -> None:
        pass

    def act(self, scene, reading) -> OperatorInput:
        self.ticks += 1
        return OperatorInput(glove=reading.hand, mark=Mark.DISCARD if self.ticks == 5 else Mark.NONE)


def test_a_discarded_episode_is_not_learned_from(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    session = OnlineSession(job, presence=1.0)
    session._loop.operator = Discarder()
    session.learn(60, lambda done, note: None)
    learner, transitions = session.learner, list(read_transitions(job.run))
    first = [t for t in transitions if t.episode == 0]
    assert [t.source == Origin.RETRACTION for t in first] == [False] * (len(first) - 1) + [True] and len(first) > 3
    assert (learner.env_steps, len(learner.online)) == (60, 60 - (len(first) - 1))
    assert learner.retracted == len(first) - 1 and read_history(job.run, 'online').steps == 60
    again = OnlineSession(job)  # rebuilt from the bags
    assert (again.learner.env_steps, len(again.learner.online)) == (60, len(learner.online))
    again._loop.close()


def test_online_bags_that_were_cut_off_are_mended_and_named(prepared, tmp_path, capsys):
    job = copy_of(prepared, tmp_path)
    session = OnlineSession(job)
    session.learn(60, lambda done, note: None)
    bag = next(job.run.bags('online').glob('*_transitions/*.mcap'))
    bag.write_bytes(bag.read_bytes()[: bag.stat().st_size * 2 // 3])
    capsys.readouterr()
    again = OnlineSession(job)
    again._loop.close()
    said = capsys.readouterr().err
    assert str(bag.parent) in said and 0 < again.learner.env_steps < 60


def test_iterations_that_a_session_left_are_made_up_for_and_kept(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)
    OnlineSession(job).learn(120, lambda done, note: None)
    before = numbered(job.run.file('learner'))[-1].stem
    shutil.rmtree(job.run.file('learner'))  # as the message about another network says
    again, told = OnlineSession(job), []
    assert again.learner.owed == 120
    again.learn(120, lambda done, note: told.append(note))
    assert again.learner.owed == 0 and numbered(job.run.file('learner'))[-1].stem == before == 'step_120'
    assert [note for note in told if note.startswith('catching up')] == told and len(told) > 1


def test_a_score_that_was_broken_off_is_kept_beside_the_one_of_before(prepared, tmp_path):
    job = copy_of(prepared, tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(job, 'none', 2, tell=stop)
    assert read_json(job.run.file('evaluation_imitation_partial.json'))['n'] == 1
    evaluate(job, 'none', 1)
    assert not job.run.file('evaluation_imitation_partial.json').exists()


def test_evaluation_writes_rows_and_intervals(prepared):
    found = evaluate(prepared, 'none', 1)
    kept = read_json(prepared.run.file('evaluation_imitation.json'))
    assert kept == json.loads(json.dumps(found))
    row = kept['episodes'][0]
    assert kept['n'] == 1 and row['seed'] == prepared.task.evaluation.seed
    assert row['success'] or row['failure'] in ('arm', 'hand', 'stall')
    assert len(row['hand_targets']) == row['steps'] and math.isfinite(row['jitter'])
    assert 0 <= kept['wilson_low'] <= kept['wilson_high'] <= 1
    assert sum(kept['failures'].values()) == kept['n'] - kept['successes']


def test_pictures_of_a_run(prepared, tmp_path):
    drawn = draw_run(prepared, 'none', tmp_path)
    assert {path.name for path in drawn} >= {
        f'pull_tissue_latent_prior{end}' for end in ('.gif', '_strip.png', '_latent_flow.png')
    }  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_scenes_arranged_by_hand_are_recorded_side_by_side_and_gone_on_with(tmp_path):
    settings, amounts = replace(SETTINGS, task='assemble_box'), Amounts(arrangements=6, rollouts=0, strays=0)
    job = Job(RunDirectory('arranged', tmp_path).create(settings), settings, amounts)
    works = reward_works(job, ('arrangements',))
    assert [work.name for work in works] == ['arrangements 0', 'arrangements 1']
    run_here(works)
    folders = sorted(job.run.bags('reward').iterdir())
    assert [folder.name for folder in folders] == [f'e0{number}' for number in range(1500, 1506)]
    episodes = job.finished('reward')
    assert {episode.outcome for episode in episodes} == {Outcome.SUCCESS, Outcome.FAILURE}
    for episode in episodes:
        assert episode.success.all() if episode.outcome == Outcome.SUCCESS else not episode.success.any()
        assert episode.labelled.all()
    hands = np.array([episode.hand_targets[0] for episode in episodes])
    assert np.ptp(hands, axis=0).min() > 0.02 and not np.allclose(hands, job.task.start.hand)
    assert 'reward sessions' not in inputs.missing(job.run, settings, amounts)
    assert 'reward sessions' in inputs.missing(job.run, settings, replace(amounts, arrangements=7))
    shutil.rmtree(folders[3])
    assert 'reward sessions' in inputs.missing(job.run, settings, amounts)
    assert [work.arguments[-1] for work in reward_works(job, ('arrangements',))] == [[1503]]


@pytest.mark.parametrize(('task', 'amount', 'wanted'), [
    ('assemble_box', None, 1600), ('assemble_box', 5, 5), ('assemble_box', 0, 0), ('pull_tissue', None, 0),
    ('pull_tissue', 5, 0),
])  # fmt: skip
def test_scenes_are_arranged_where_the_task_can_be(tmp_path, task, amount, wanted):
    settings = replace(SETTINGS, task=task)
    job = Job(RunDirectory('amounts', tmp_path).create(settings), settings, Amounts(arrangements=amount))
    assert job.wanted_examples('arrangements') == wanted


def test_no_two_kinds_of_reward_sessions_share_a_number():
    most = {'shown': 500, 'near_misses': 500, 'arrangements': 2500}  # limits of config.Task; the first is not to be set
    ends = [first + most.get(kind, 1000) for kind, first in collect._FIRST.items()]
    starts = list(collect._FIRST.values())
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert collect._FIRST['arrangements'] == inputs.ARRANGED and collect._FIRST['rollouts'] == inputs.ROLLOUTS
    for name in ('near_misses', 'arrangements'):
        assert next(part.le for part in Task.model_fields[name].metadata if hasattr(part, 'le')) == most[name]


def test_who_scores_needs_no_buttons_of_a_scripted_operator(prepared):
    robot = prepared.robot.model_copy(update={'teleop': {'mark_buttons': {12: 'success'}}})
    Loop(prepared.task, robot).close()
    with pytest.raises(UserError, match='a scripted operator needs a button for failure, discard'):
        Loop(prepared.task, robot, operator=Discarder())
