"""The scripted operator: does every task through the devices, and fails on purpose when asked to."""

from dataclasses import replace

import numpy as np
import pytest
from operate import make, operate

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import HAND_JOINTS, Mark
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


def test_an_assistant_takes_over_when_nothing_happens():
    sim = make('pull_tissue')
    episode = operate(sim, 'assist', SEED)
    active = [bool(np.any(entry.twist)) for entry in episode.inputs]
    assert not any(active[:35]) and any(active)
    assert all(entry.mark == Mark.NONE for entry in episode.inputs)


def told(scene, hand):
    """The scene with a hand that is told to be so."""
    return scene | {f'{joint}_target': float(target) for joint, target in zip(HAND_JOINTS, hand, strict=True)}


@pytest.mark.parametrize(
    'held, closed, stage, opens',
    [(1, 1.0, 'lift', False), (1, 0.5, 'pinch', False), (0, 0.2, 'descend', False), (0, 1.0, 'approach', True)],
)
def test_an_assistant_goes_on_from_where_the_policy_got_to(held, closed, stage, opens):
    sim = make('pull_tissue')
    reading, operator = sim.reset(SEED), ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    start, grip = np.array(sim.task.start.hand), np.array(operator._task.grip.closed)
    scene = {**sim.scene(), 'held': float(held)}
    pose = np.array([scene['pinch_x'], scene['pinch_y'], scene['pinch_z'] + 0.05, *reading.tcp_pose[3:]])
    reading = replace(reading, tcp_pose=pose, hand=(start + closed * (grip - start)).astype(np.float32))
    scene = told(scene, reading.hand)
    inputs, stages = [], []
    while not inputs or not np.any(inputs[-1].twist):
        inputs.append(operator.act(scene, reading))
        stages.append(operator.stage)
        assert len(inputs) < 90
    assert stages[-1] == stage
    for _ in range(6):
        inputs.append(operator.act(scene, reading))
    moved = np.array([entry.glove - reading.hand for entry in inputs[-7:]])
    assert np.abs(moved[0]).max() < 0.3, 'it begins with the hand as it is'
    assert (moved.min() < -0.2) == opens, moved


def carried(sim, lift: float, closed: float):
    """The scene and reading of a hand that holds the bottle over its place in the box, so far above it."""
    reading, scene = sim.reset(SEED), sim.scene()
    start, grip = np.array(sim.task.start.hand), np.array(ScriptedOperator(sim.task, sim.robot)._task.grip.closed)
    place = np.array([scene['box_x'], scene['box_y'], 0.004 + lift])
    tcp = place + [0.0, 0.0, 0.09]
    scene |= dict(zip(('bottle_x', 'bottle_y', 'bottle_z'), place, strict=True)) | {'held': 1.0}
    scene |= dict(zip(('hang_x', 'hang_y', 'hang_z'), place - tcp, strict=True))
    hand = (start + closed * (grip - start)).astype(np.float32)
    return told(scene, hand), replace(reading, tcp_pose=np.array([*tcp, *reading.tcp_pose[3:]]), hand=hand)


@pytest.mark.parametrize('closed', [1.0, 0.6])
def test_an_assistant_lets_go_of_what_stands_in_its_place(closed):
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=closed)
    stages = []
    while not operator._in_control:
        operator.act(scene, reading)
        stages.append(operator.stage)
    assert stages[-1] == 'release'
    assert len(stages) > 0.33 * sim.task.episode_steps, 'a long task is watched for longer'


def test_an_assistant_closes_a_loose_hand_where_it_is_before_it_moves_on():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.12, closed=0.5)
    while not operator._in_control:
        operator.act(scene, reading)
    assert operator.stage == 'grasp'
    inputs = [operator.act(scene, reading) for _ in range(4)]
    assert np.abs([entry.twist for entry in inputs]).max() < 0.25, 'the bottle is not pushed down to the table'
    for _ in range(12):
        inputs.append(operator.act(scene, reading))
    assert (inputs[-1].glove - reading.hand).max() > 0.1, 'the hand closes'
    assert operator.stage in ('lift', 'carry')


def test_an_assistant_gives_up_what_nobody_can_bring_back():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=1.0)
    marks = [operator.act({**scene, 'lost': float(tick != 4)}, reading).mark for tick in range(40)]
    assert marks.count(Mark.FAILURE) == 1 and set(marks) == {Mark.FAILURE, Mark.NONE}
    assert marks.index(Mark.FAILURE) > 9, 'what falls over for a moment is not given up'


def test_an_assistant_who_has_taken_over_ends_what_succeeds():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=1.0)
    until_taken_over(operator, scene, reading)
    done = told({**scene, 'held': 0.0, 'success': 1.0}, sim.task.start.hand)
    for _ in range(12):
        hands = operator.act(done, reading)
    assert operator._in_control and operator.stage == 'retreat' and np.any(hands.twist), 'until it is called a success'


def test_nobody_takes_over_what_has_succeeded():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = sim.reset(SEED), None
    scene, reading = {**sim.scene(), 'success': 1.0}, scene
    for _ in range(sim.task.episode_steps):
        operator.act(scene, reading)
    assert not operator._in_control


def test_an_assistant_opens_a_hand_that_stays_behind_its_targets():
    """Fingers that hold something cannot follow: the glove changes their targets, which are further."""
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.12, closed=0.5)
    target = reading.hand + np.array([0.0, 0.4, 0.1, 0.1, 0.1, 0.1])
    until_taken_over(operator, told({**scene, 'held': 0.0}, target), reading)
    assert operator._stage < operator._grasp
    pressed = operator.act(told({**scene, 'held': 1.0}, target), reading)
    inputs = [operator.act(told({**scene, 'held': 1.0}, target), reading) for _ in range(14)]
    change = np.array([hands.glove - pressed.glove for hands in inputs])
    assert (target + change[-1] - sim.task.start.hand)[1] < 0.1, 'the thumb is told to open as far as an open hand'
    assert all(hands.right_button for hands in inputs), 'the policy does not close it meanwhile'
    assert np.abs([hands.twist for hands in inputs[4:12]]).max() < 0.1, 'the arm waits for that'


def until_taken_over(operator, scene, reading) -> int:
    """Ticks that a person who sees this goes on watching."""
    for ticks in range(300):
        operator.act(scene, reading)
        if operator._in_control:
            return ticks
    raise AssertionError('the person never takes over')


def test_an_assistant_waits_anew_when_the_policy_gets_a_stage_further():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.12, closed=1.0)
    elsewhere = {**scene, 'held': 0.0}
    patience = until_taken_over(operator, elsewhere, reading)
    operator.reset(SEED)
    for _ in range(patience - 5):
        operator.act(elsewhere, reading)
    waited = until_taken_over(operator, scene, reading)
    assert 0.5 * patience < waited < patience, 'over the box with the bottle'


def test_an_assistant_does_not_wait_long_when_something_was_let_go():
    sim = make('grasp_place')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.12, closed=1.0)
    for _ in range(5):
        operator.act(scene, reading)
    for _ in range(10):
        operator.act({**scene, 'held': 0.0}, reading)
    for _ in range(3):
        operator.act(scene, reading)
    assert not operator._in_control, 'held again'
    assert 10 < until_taken_over(operator, {**scene, 'held': 0.0}, reading) < 25


def test_an_assistant_lifts_a_lid_that_was_gripped_askew_without_turning_after_it():
    sim = make('assemble_box')
    operator = ScriptedOperator(sim.task, sim.robot, 'assist')
    reading, scene = sim.reset(SEED), sim.scene()
    lift = next(stage for stage in operator._plan if stage.name == 'lift')
    tcp = reading.tcp_pose[:2]
    beside = {'lid_x': tcp[0] + 0.03, 'lid_y': tcp[1] - 0.02, 'hang_x': 0.03, 'hang_y': -0.02}
    askew = {**scene, **beside, 'lid_yaw': 0.3, 'hang_yaw': 0.3}
    error, turn = operator._errors(lift, askew, reading)
    assert abs(turn[2] + sim.sim_task.hand_yaw()) < 0.02, 'the hand itself stands straight'
    assert np.abs(error[:2]).max() < 0.01, 'and does not follow what hangs beside it'


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
