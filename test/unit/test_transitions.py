"""Transitions: what belongs together, in any order of arrival, numbered, and never a wrong one."""

import random
from dataclasses import replace

import numpy as np
import pytest
from transition_parts import FEATURES, episode_parts

from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.recording.history import owed_retraction, read_history
from dex_rl_nodes.recording.spool import SUFFIX, TransitionSpool, count_transitions, read_transitions
from dex_rl_nodes.recording.transitions import LAST_STEP, TransitionAssembler
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import (
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Origin,
    Outcome,
    Phase,
    PolicyStep,
    StepResult,
    Transition,
)
from dex_rl_nodes.run_directory import RunDirectory

TERMINAL = (Outcome.SUCCESS, Outcome.FAILURE)


def assemble(parts, assembler=None):
    assembler = assembler or TransitionAssembler()
    return [transition for part in parts for transition in assembler.add(part)], assembler


def order(transitions):
    return [(t.sequence, t.episode, t.step) for t in transitions]


@pytest.mark.parametrize('outcome', sorted(set(Outcome) - {Outcome.NONE, Outcome.DISCARDED}))
def test_end_of_an_episode(outcome):
    """T25: the mask is 0 after success and irrecoverable failure only; a time limit keeps its next observation."""
    found, assembler = assemble(episode_parts(4, 6, outcome))
    assert order(found) == [(n + 1, 4, n) for n in range(6)] and assembler.dropped == 0
    last = found[-1]
    assert (last.mask, last.truncated) == ((0, False) if outcome in TERMINAL else (1, True))
    assert (last.reward, last.success) == ((1, True) if outcome == Outcome.SUCCESS else (0, False))
    assert all((t.mask, t.truncated, t.reward, t.success) == (1, False, 0, False) for t in found[:-1])


def test_contents():
    """T27: the executed action is stored, and the next history is the history shifted with the executed target."""
    parts = list(episode_parts(0, 12))
    found, _ = assemble(parts)
    steps = {part.step: part for part in parts if isinstance(part, PolicyStep)}
    executed = {part.step: part for part in parts if isinstance(part, ExecutedAction)}
    cores = {part.step: part for part in parts if isinstance(part, CoreAction)}
    for n, transition in enumerate(found):
        now, following = steps[n], steps[n + 1]
        assert transition.stamp == now.stamp and transition.encoder == 'test:1' and len(transition.features) == FEATURES
        for name in ('features', 'state', 'hand_history', 'context', 'base_core'):
            assert np.array_equal(getattr(transition, name), getattr(now, name))
            assert np.array_equal(getattr(transition, f'next_{name}'), getattr(following, name))
        assert np.array_equal(transition.action, executed[n].action)
        assert np.array_equal(transition.residual, cores[n].residual)
        shifted = np.concatenate((transition.hand_history[6:], (transition.action[6:] + 1) / 2))
        assert np.allclose(transition.next_hand_history, shifted, atol=1e-6)
    moved = [Origin.POLICY, Origin.INTERVENTION_ARM, Origin.INTERVENTION_HAND, Origin.INTERVENTION]
    assert [transition.source for transition in found] == moved + 8 * [Origin.POLICY]


def test_any_order_of_arrival():
    expected, _ = assemble(episode_parts(0, 8, Outcome.SUCCESS))
    for seed in range(200):
        shuffler = random.Random(seed)
        parts = list(enumerate(episode_parts(0, 8, Outcome.SUCCESS)))
        parts.sort(key=lambda item: item[0] + shuffler.uniform(0, 12))
        found, assembler = assemble(part for _, part in parts)
        assert order(found) == order(expected) and assembler.dropped == 0, seed
        assert all(np.array_equal(a.next_features, b.next_features) for a, b in zip(found, expected))


def test_parts_twice_and_after_the_end_change_nothing():
    parts = list(episode_parts(0, 5, Outcome.SUCCESS))
    stamp = parts[-1].stamp
    stragglers = [
        ExecutedAction(stamp, 0, 5), CoreAction(stamp, 0, 5), PolicyStep(stamp, 0, 6), StepResult(stamp, 0, 6),
    ]  # fmt: skip
    found, assembler = assemble([part for part in parts for _ in range(2)] + stragglers * 20 + parts)
    assert order(found) == [(n + 1, 0, n) for n in range(5)] and assembler.dropped == 0
    more, _ = assemble(episode_parts(1, 3), assembler)
    assert order(more) == [(n + 6, 1, n) for n in range(3)] and assembler.dropped == 0


@pytest.mark.parametrize('kind', [CoreAction, ExecutedAction, StepResult, PolicyStep])
def test_a_missing_part_costs_its_ticks_and_no_number(kind):
    parts = [part for part in episode_parts(0, 40) if not (isinstance(part, kind) and part.step == 7)]
    found, assembler = assemble(parts)
    missing = {CoreAction: [7], ExecutedAction: [7], StepResult: [6], PolicyStep: [6, 7]}[kind]
    assert [t.step for t in found] == [n for n in range(40) if n not in missing]
    assert [t.sequence for t in found] == list(range(1, 41 - len(missing))) and assembler.dropped == len(missing)


def test_verdicts_that_lag_behind_cost_nothing():
    """A starved classifier is no reason to throw away what the robot did."""
    parts = list(episode_parts(0, 60, Outcome.SUCCESS))
    late = [part for part in parts if isinstance(part, StepResult)]
    prompt = [part for part in parts if not isinstance(part, StepResult)]
    at = {id(part): place for place, part in enumerate(prompt)}
    due = [(at[id(part)], part) for part in prompt] + [((part.step + 40) * 3.0, part) for part in late]
    found, assembler = assemble(part for _, part in sorted(due, key=lambda item: item[0]))
    assert order(found) == [(n + 1, 0, n) for n in range(60)] and found[-1].success and assembler.dropped == 0


def test_an_episode_that_breaks_off():
    """The recorder hears that it was stopped, but no verdict: nothing terminal is made up."""
    parts = [part for part in episode_parts(0, 9) if not (isinstance(part, StepResult) and part.step > 6)]
    parts[-1] = EpisodeState(parts[-1].stamp, 0, Phase.ENDED, Outcome.STOPPED, final_step=6)
    found, assembler = assemble([*parts, *episode_parts(1, 20)])
    assert order(found) == [(n + 1, 0, n) for n in range(6)] + [(n + 7, 1, n) for n in range(20)]
    assert all(t.mask == 1 for t in found) and assembler.dropped == 0


@pytest.mark.parametrize('spoil', ['encoder', 'history', 'nan'])
def test_contradictions_are_dropped(spoil):
    parts = list(episode_parts(0, 6))
    step = next(part for part in parts if isinstance(part, PolicyStep) and part.step == 3)
    if spoil == 'encoder':
        step.encoder = 'other:2'
    elif spoil == 'history':
        step.hand_history = step.hand_history + 0.01
    else:
        step.features = np.full(FEATURES, np.nan, np.float32)
    found, assembler = assemble(parts)
    steps = {'encoder': [0, 1, 4, 5], 'history': [0, 1, 3, 4, 5], 'nan': [0, 1, 4, 5]}[spoil]
    assert [t.step for t in found] == steps and assembler.dropped == 6 - len(steps)


@pytest.mark.parametrize('seed', range(50))
def test_a_discarded_episode_is_taken_back(seed):
    """In any order of arrival, after all its transitions, once."""
    shuffler = random.Random(seed)
    parts = list(enumerate(episode_parts(3, 8, Outcome.DISCARDED)))
    parts.sort(key=lambda item: item[0] + shuffler.uniform(0, 12))
    found, assembler = assemble([part for _, part in parts] + [part for _, part in parts[-3:]])
    assert order(found) == [(n + 1, 3, n) for n in range(8)] + [(9, 3, LAST_STEP)]
    assert [t.source == Origin.RETRACTION for t in found] == [False] * 8 + [True] and assembler.dropped == 0
    more, _ = assemble(episode_parts(4, 2), assembler)
    assert order(more) == [(10, 4, 0), (11, 4, 1)]


def test_a_retraction_does_not_wait_for_what_was_lost():
    """A lost message must not leave the learner with a discarded episode until the next one is under way."""
    parts = list(episode_parts(3, 6, Outcome.DISCARDED))
    lost = next(part for part in parts if isinstance(part, ExecutedAction) and part.step == 2)
    found, assembler = assemble([part for part in parts if part is not lost])
    assert order(found) == [(1, 3, 0), (2, 3, 1)]
    assert order(assembler.settle()) == [(n, 3, n) for n in (3, 4, 5)] + [(6, 3, LAST_STEP)]
    assert assembler.dropped == 1 and assembler.settle() == []
    assert assembler.add(lost) == [], 'it comes after all'


def test_a_success_behind_a_lost_tick_is_not_lost_when_nothing_comes_any_more():
    parts = list(episode_parts(3, 6, Outcome.SUCCESS))
    parts = [part for part in parts if not (isinstance(part, ExecutedAction) and part.step == 2)]
    found, assembler = assemble(parts)
    assert order(found) == [(1, 3, 0), (2, 3, 1)]
    assert assembler.settle() == [], 'what is missing may still come'
    found = assembler.settle(nothing_comes=True)
    assert order(found) == [(n, 3, n) for n in (3, 4, 5)] and found[-1].success and assembler.dropped == 1


def test_an_episode_that_goes_on_is_not_settled():
    parts = [part for part in episode_parts(3, 6) if not (isinstance(part, ExecutedAction) and part.step == 2)]
    ends = [part for part in parts if isinstance(part, EpisodeState)][1:]
    last = [part for part in parts if isinstance(part, StepResult) and part.truncated]
    _, assembler = assemble([part for part in parts if part not in ends + last])
    assert assembler.settle(nothing_comes=True) == [] and assembler.dropped == 0


def test_a_discarded_episode_without_transitions_needs_no_retraction():
    first, *_, last = episode_parts(0, 1, Outcome.DISCARDED)
    last.final_step = 0
    assert assemble([first, last])[0] == []


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    return RunDirectory('test')


def spool_of(run, name):
    return TransitionSpool(run, run.bags('online') / (name + SUFFIX))


def test_spool_over_sessions(run):
    first = spool_of(run, '00000')
    made, _ = assemble(episode_parts(0, 30))
    for transition in made:
        first.append(transition)
    assert [number for number, _ in first.fetch(28, 100)] == [28, 29, 30]  # out of memory, before anything is closed
    assert order(read_transitions(run)) == order(made)  # and on disk
    with pytest.raises(ValueError, match='transition 5 does not follow 30'):
        first.append(Transition(sequence=5))
    first.close()
    second = spool_of(run, '00001')
    assert second.newest == 30
    more, _ = assemble(episode_parts(1, 3), TransitionAssembler(second.newest + 1))
    for transition in more:
        second.append(transition)
    assert order(read_transitions(run)) == order(made + more)
    assert [number for number, _ in second.fetch(29, 3)] == [29, 30, 31]
    assert second.fetch(34, 5) == [] and len(second.fetch(0, 2)) == 1
    second.close()
    assert count_transitions(run) == (33, 1)
    history = read_history(run, 'online')
    assert (history.next_episode, history.steps) == (2, 33)


def test_spool_of_a_cut_bag_has_no_gap(run):
    spool = spool_of(run, '00000')
    for transition in assemble(episode_parts(0, 10))[0]:
        spool.append(transition)
    path, offset = spool._places[7]
    spool.close()
    path.write_bytes(path.read_bytes()[: offset + 40])
    again = spool_of(run, '00001')
    assert again.newest == 7 and [n for n, _ in again.fetch(1, 20)] == list(range(1, 8))
    assert order(read_transitions(run)) == [(n + 1, 0, n) for n in range(7)]


def test_retractions_are_no_steps_and_none_is_owed_twice(run):
    parts = list(episode_parts(0, 5, Outcome.DISCARDED))
    with BagWriter(run.bags('online') / '00000') as bag:
        bag.write('/episode', parts[0])
        bag.write('/episode', parts[-1])
    spool = spool_of(run, '00000')
    for transition in assemble(parts[:-1])[0]:  # killed before the retraction was written
        spool.append(transition)
    spool.close()
    assert count_transitions(run) == (5, 0)
    second = spool_of(run, '00001')
    owed = owed_retraction(run, second)
    assert (owed.source, owed.sequence, owed.episode) == (Origin.RETRACTION, 6, 0)
    second.append(owed)
    assert owed_retraction(run, second) is None and second.newest_tick == (0, LAST_STEP)
    assert assemble(parts, TransitionAssembler(7, second.newest_tick))[0] == []  # kept for late joiners, comes again
    second.close()
    assert order(read_transitions(run))[-1] == (6, 0, LAST_STEP)
    assert count_transitions(run) == (5, 0) and read_history(run, 'online').steps == 5


def test_an_episode_can_be_discarded_after_its_end(run):
    *parts, end = episode_parts(0, 5, Outcome.SUCCESS)
    back = replace(end, stamp=end.stamp + 1, outcome=Outcome.DISCARDED)
    found, assembler = assemble([*parts, end])
    assert found[-1].success
    found += assembler.add(back)
    assert order(found) == [*((n + 1, 0, n) for n in range(5)), (6, 0, LAST_STEP)] and assembler.add(back) == []
    with BagWriter(run.bags('online') / '00000') as bag:
        for part in (parts[0], end, back):
            bag.write('/episode', part)
    assert (read_history(run, 'online').episodes, read_history(run, 'online').successes) == (0, 0)
    spool = spool_of(run, '00000')
    for transition in found[:-1]:  # killed before the retraction was written
        spool.append(transition)
    assert owed_retraction(run, spool).sequence == 6
    spool.close()


def test_nothing_is_owed_for_other_outcomes(run):
    parts = list(episode_parts(0, 3))
    with BagWriter(run.bags('online') / '00000') as bag:
        for part in (parts[0], parts[-1]):
            bag.write('/episode', part)
    spool = spool_of(run, '00000')
    assert owed_retraction(run, spool) is None
    for transition in assemble(parts)[0]:
        spool.append(transition)
    assert owed_retraction(run, spool) is None
    spool.close()


def test_history_of_a_purpose(run):
    assert read_history(run, 'demos').next_episode == 0
    outcomes = (Outcome.SUCCESS, Outcome.DISCARDED, Outcome.FAILURE, None)
    with BagWriter(run.bags('demos') / '00000') as bag:
        for episode, outcome in enumerate(outcomes):
            bag.write('/left/episode', EpisodeState(episode, episode, Phase.RUNNING))
            if outcome:
                bag.write('/left/episode', EpisodeState(episode, episode, Phase.ENDED, outcome, final_step=10))
    history = read_history(run, 'demos')
    assert (history.next_episode, history.episodes, history.successes, history.steps) == (4, 2, 1, 30)


def test_hand_targets_of_an_episode():
    action = np.random.default_rng(0).random((4, 12), np.float32) * 2 - 1
    episode = Episode(
        0, 0, Outcome.SUCCESS, {}, np.zeros((5, 12)), np.full((5, 48), 0.3), np.array([0, 0, 0, 1, 1], bool), action,
        np.zeros(4, np.uint8),
    )  # fmt: skip
    assert len(episode) == 4 and episode.success_step == 3
    assert np.allclose(episode.hand_targets[0], 0.3) and np.allclose(episode.hand_targets[1:], (action[:, 6:] + 1) / 2)
