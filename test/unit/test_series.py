"""Which episode comes next, and when it is enough."""

from dataclasses import replace

import pytest

from dex_rl_nodes.config import load_task
from dex_rl_nodes.evaluation.series import EpisodeSeries
from dex_rl_nodes.records import Outcome

TASK = load_task('pull_tissue')


def test_demonstrations_count_only_successes():
    series = EpisodeSeries(TASK, 'demos', 4, number=19, counted=18)
    assert series.episodes == 20 and series.seed == 1_004_000_019
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.DISCARDED, Outcome.TIMEOUT, Outcome.STOPPED):
        series.finish(outcome, 50)
    assert (series.counted, series.number, series.done) == (19, 24, False)
    series.finish(Outcome.SUCCESS, 50)
    assert series.done


def test_evaluation_repeats_starts_that_did_not_count():
    series = EpisodeSeries(TASK, 'evaluation', 4, episodes=3)
    seeds = []
    for outcome in (Outcome.SUCCESS, Outcome.DISCARDED, Outcome.TIMEOUT, Outcome.STOPPED, Outcome.FAILURE):
        seeds.append(series.seed - TASK.evaluation.seed)
        series.finish(outcome, 10)
    assert seeds == [0, 1, 1, 2, 2] and series.done and series.number == 5


def test_online_budget():
    series = EpisodeSeries(TASK, 'online', 0, ticks=TASK.online_steps - 130)
    assert series.time_limit == 120 and not series.done
    series.finish(Outcome.TIMEOUT, 120)
    assert series.time_limit == 10
    series.finish(Outcome.TIMEOUT, 10)
    assert series.done and series.ticks_left == 0
    assert replace(series, ticks=0, steps=0, episodes=2).ticks_left is None
    assert EpisodeSeries(TASK, 'online', 0, episodes=2, steps=50).time_limit == 50


def test_ticks_after_success():
    assert [EpisodeSeries(TASK, purpose, 0).ticks_after_success > 0 for purpose in ('demos', 'reward', 'online')] == [
        False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(('purpose', 'outcome'), [('demos', Outcome.SUCCESS), ('online', Outcome.TIMEOUT)])
def test_an_episode_that_is_taken_back_is_wanted_again(purpose, outcome):
    series = EpisodeSeries(load_task('pull_tissue'), purpose, 0, episodes=1)
    series.finish(outcome, 30)
    assert series.done
    series.take_back(outcome)
    assert not series.done and (series.number, series.ticks) == (1, 30), 'the robot has made them all the same'
