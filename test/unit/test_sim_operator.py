"""The scripted operator: does every task through the devices, and fails on purpose when asked to."""

import numpy as np
import pytest
from operate import make, operate

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import Mark
from dex_rl_nodes.sim import operator
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.tasks import TASKS

SEED = 4100  # of the first episode; far from those of any run


@pytest.fixture(scope='module', params=sorted(TASKS))
def sim(request):
    return make(request.param)


def test_demonstrations_succeed_and_end_with_many_positive_frames(sim):
    count = 5 if sim.task.name == 'pull_tissue' else 2
    episodes = [operate(sim, 'demonstrate', SEED + i) for i in range(count)]
    assert sum(episode.mark == Mark.SUCCESS for episode in episodes) >= count - 1
    for episode in episodes:
        if episode.mark == Mark.SUCCESS:
            assert sum(episode.successes) >= 6
            assert len(episode.actions) < sim.task.episode_steps


def test_demonstrations_use_both_devices_within_their_range_and_differ():
    sim = make('pull_tissue')
    first, second = operate(sim, 'demonstrate', SEED), operate(sim, 'demonstrate', SEED + 1)
    for episode in (first, second):
        twists = np.array([entry.twist for entry in episode.inputs])
        gloves = np.array([entry.glove for entry in episode.inputs])
        assert np.abs(twists).max() <= 1.0 and np.abs(twists).max() > 0.3
        assert gloves.min() >= 0.0 and gloves.max() <= 1.0
        assert any(entry.right_button for entry in episode.inputs)
        assert np.ptp(episode.actions[:, 6:], axis=0).max() > 0.3
    length = min(len(first.actions), len(second.actions))
    assert np.abs(first.actions[:length] - second.actions[:length]).max() > 0.1


def test_a_survey_looks_from_more_sides_and_succeeds_in_time(sim):
    usual, survey = (operate(sim, skill, SEED + 2) for skill in ('demonstrate', 'survey'))
    assert survey.mark == Mark.SUCCESS and len(survey.actions) < sim.task.episode_steps
    assert len(survey.actions) > len(usual.actions) + 10, 'the looking takes its time'
    sideways = [np.abs(episode.actions[:, :2]).sum() for episode in (usual, survey)]
    assert sideways[1] > 1.5 * sideways[0]


def test_negative_attempts_come_near_and_are_never_marked_as_success(sim):
    episodes = [operate(sim, 'negative', SEED + i) for i in range(2)]
    assert all(episode.mark in (Mark.FAILURE, Mark.DISCARD) for episode in episodes)
    assert any(not any(episode.successes) for episode in episodes)


@pytest.mark.parametrize('name', ['assemble_box', 'grasp_place'])
def test_what_is_let_go_beside_its_place_is_a_near_miss_too(name, monkeypatch):
    monkeypatch.setattr(operator, '_MISPLACED', 1.0)
    sim, thing = make(name), {'assemble_box': 'lid', 'grasp_place': 'bottle'}[name]
    lifted = []
    watched = ScriptedOperator.act
    monkeypatch.setattr(
        ScriptedOperator, 'act', lambda self, scene, reading: (lifted.append(scene), watched(self, scene, reading))[1]
    )
    episode = operate(sim, 'negative', SEED + 2)
    first, last = lifted[0], lifted[-1]
    assert episode.mark == Mark.FAILURE and not any(episode.successes)
    assert any(scene['held'] > 0 for scene in lifted) and not last['held'], 'it was held, and let go'
    before, after = (np.hypot(s[f'{thing}_x'] - s['box_x'], s[f'{thing}_y'] - s['box_y']) for s in (first, last))
    assert after < 0.5 * before, 'it came near its place'


def test_only_what_is_put_down_can_be_misplaced(monkeypatch):
    monkeypatch.setattr(operator, '_MISPLACED', 1.0)
    monkeypatch.setattr(operator, '_misplace', lambda plan, rng: pytest.fail('nothing is put down here'))
    for name in ('pull_tissue', 'open_drawer'):
        ScriptedOperator(load_task(name), load_robot('sim'), 'negative')


def test_the_same_seed_is_the_same_person():
    sim = make('pull_tissue')
    first, second = operate(sim, 'demonstrate', SEED), operate(sim, 'demonstrate', SEED)
    assert np.array_equal(first.actions, second.actions)


def test_an_unknown_skill_is_named():
    with pytest.raises(UserError, match='choose one of: demonstrate'):
        ScriptedOperator(load_task('pull_tissue'), load_robot('sim'), 'juggle')


@pytest.fixture(scope='module')
def arranged():
    return make('assemble_box', arranged=True)


def test_what_was_arranged_is_called_by_its_name_while_the_hand_moves_over_it(arranged):
    episodes = [operate(arranged, 'present', SEED + i) for i in range(12)]
    right = [episode.successes[0] for episode in episodes]
    assert 2 <= sum(right) <= 10
    for episode, success in zip(episodes, right, strict=True):
        assert episode.mark == (Mark.SUCCESS if success else Mark.FAILURE)
        assert success or len(episode.actions) > 15, 'what is wrong is shown for a while'


def test_an_arrangement_that_the_hand_knocks_over_after_its_mark_is_discarded(arranged):
    reading = arranged.reset(SEED)
    person = ScriptedOperator(arranged.task, arranged.robot, 'present')
    scene = {**arranged.scene(), 'success': 1.0}
    marks = [person.act(scene, reading).mark for _ in range(8)]
    marks += [person.act({**scene, 'success': 0.0}, reading).mark for _ in range(5)]
    assert marks.count(Mark.SUCCESS) == 1 and marks[-1] == Mark.DISCARD


def test_arrangements_are_drawn_from_the_seed_and_tasks_without_them_say_so(arranged):
    usual = make('assemble_box')
    first, again, other = (arranged.reset(SEED + i) for i in (0, 0, 1))
    assert np.array_equal(first.tcp_pose, again.tcp_pose) and not np.allclose(first.tcp_pose, other.tcp_pose)
    assert arranged.scene()['box_x'] == pytest.approx((usual.reset(SEED + 1), usual.scene()['box_x'])[1])
    with pytest.raises(UserError, match='arrangements: 0'):
        make('pull_tissue', arranged=True).reset(SEED)
