"""The scripted person who stands by: pushes back what comes down beside its place, and takes over what is stuck."""

from dataclasses import replace

import numpy as np
import pytest
from operate import make, operate

from dex_rl_nodes.records import HAND_JOINTS, Mark
from dex_rl_nodes.sim.assistant import Assistant

SEED = 4100  # of the first episode; far from those of any run


def test_an_assistant_takes_over_when_nothing_happens():
    sim = make('pull_tissue')
    episode = operate(sim, Assistant(sim.task, sim.robot), SEED)
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
    reading, operator = sim.reset(SEED), Assistant(sim.task, sim.robot)
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
    start, grip = np.array(sim.task.start.hand), np.array(Assistant(sim.task, sim.robot)._task.grip.closed)
    place = np.array([scene['box_x'], scene['box_y'], 0.004 + lift])
    tcp = place + [0.0, 0.0, 0.09]
    scene |= dict(zip(('bottle_x', 'bottle_y', 'bottle_z'), place, strict=True)) | {'held': 1.0}
    scene |= dict(zip(('hang_x', 'hang_y', 'hang_z'), place - tcp, strict=True))
    hand = (start + closed * (grip - start)).astype(np.float32)
    return told(scene, hand), replace(reading, tcp_pose=np.array([*tcp, *reading.tcp_pose[3:]]), hand=hand)


@pytest.mark.parametrize('closed', [1.0, 0.6])
def test_an_assistant_lets_go_of_what_stands_in_its_place(closed):
    sim = make('grasp_place')
    operator = Assistant(sim.task, sim.robot)
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
    operator = Assistant(sim.task, sim.robot)
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
    operator = Assistant(sim.task, sim.robot)
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=1.0)
    marks = [operator.act({**scene, 'lost': float(tick != 4)}, reading).mark for tick in range(40)]
    assert marks.count(Mark.FAILURE) == 1 and set(marks) == {Mark.FAILURE, Mark.NONE}
    assert marks.index(Mark.FAILURE) > 9, 'what falls over for a moment is not given up'


def test_an_assistant_who_has_taken_over_ends_what_succeeds():
    sim = make('grasp_place')
    operator = Assistant(sim.task, sim.robot)
    operator.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=1.0)
    until_taken_over(operator, scene, reading)
    done = told({**scene, 'held': 0.0, 'success': 1.0}, sim.task.start.hand)
    for _ in range(12):
        hands = operator.act(done, reading)
    assert operator._in_control and operator.stage == 'retreat' and np.any(hands.twist), 'until it is called a success'


def test_nobody_takes_over_what_has_succeeded():
    sim = make('grasp_place')
    operator = Assistant(sim.task, sim.robot)
    operator.reset(SEED)
    scene, reading = sim.reset(SEED), None
    scene, reading = {**sim.scene(), 'success': 1.0}, scene
    for _ in range(sim.task.episode_steps):
        operator.act(scene, reading)
    assert not operator._in_control


def test_an_assistant_opens_a_hand_that_stays_behind_its_targets():
    """Fingers that hold something cannot follow: the glove changes their targets, which are further."""
    sim = make('grasp_place')
    operator = Assistant(sim.task, sim.robot)
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
    operator = Assistant(sim.task, sim.robot)
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
    operator = Assistant(sim.task, sim.robot)
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
    operator = Assistant(sim.task, sim.robot)
    reading, scene = sim.reset(SEED), sim.scene()
    lift = next(stage for stage in operator._plan if stage.name == 'lift')
    tcp = reading.tcp_pose[:2]
    beside = {'lid_x': tcp[0] + 0.03, 'lid_y': tcp[1] - 0.02, 'hang_x': 0.03, 'hang_y': -0.02}
    askew = {**scene, **beside, 'lid_yaw': 0.3, 'hang_yaw': 0.3}
    error, turn = operator._errors(lift, askew, reading)
    assert abs(turn[2] + sim.sim_task.hand_yaw()) < 0.02, 'the hand itself stands straight'
    assert np.abs(error[:2]).max() < 0.01, 'and does not follow what hangs beside it'


def coming_down(operator, beside: float, above: float, turned: float = 0.0):
    """Deflections of a person who sees an open hand over the bottle for a while, so far beside and above its grasp."""
    scene, reading = carried(make('grasp_place'), lift=0.0, closed=0.0)
    grasp = operator._plan[operator._grasp - 1].target(scene)
    tcp = np.array([grasp[0] + beside, grasp[1], grasp[2] + above])
    seen = {**scene, 'held': 0.0}
    operator.reset(SEED)
    return np.array([operator.act(seen, replace(reading, tcp_pose=np.array([*tcp, *reading.tcp_pose[3:]]))).twist
                     for _ in range(40)])  # fmt: skip


@pytest.fixture
def assistant():
    """Of somebody to whom 10 mm beside the bottle are too much."""
    sim = make('grasp_place')
    made = Assistant(sim.task, sim.robot)
    plan = made._task.plan()
    near = ('descend', 'lower')
    made._task.plan = lambda: [replace(stage, slack=0.01) if stage.name in near else stage for stage in plan]
    return made


def test_a_hand_that_comes_down_beside_is_pushed_over_its_place(assistant):
    twists = coming_down(assistant, beside=0.03, above=0.01)
    pushed = np.abs(twists).max(1) > 0
    assert 5 < pushed.sum() < 40, 'in short pushes'
    assert twists[pushed][:, 0].mean() < -0.2, 'back over the bottle'
    assert not assistant._in_control


@pytest.mark.parametrize(
    ('beside', 'above'), [(0.006, 0.01), (0.03, 0.06), (0.09, 0.01)], ids=['near enough', 'high', 'elsewhere']
)
def test_a_hand_is_not_pushed_without_need(assistant, beside, above):
    assert not coming_down(assistant, beside, above).any()


def test_nobody_pushes_where_a_policy_may_find_its_own_way():
    sim = make('grasp_place')
    assert not coming_down(Assistant(sim.task, sim.robot), beside=0.03, above=0.01).any()


def test_what_is_held_is_pushed_up_and_over_its_place_when_it_comes_down_beside(assistant):
    sim = make('grasp_place')
    assistant.reset(SEED)
    scene, reading = carried(sim, lift=0.0, closed=1.0)
    beside = {**scene, 'bottle_x': scene['bottle_x'] + 0.02, 'bottle_z': 0.11}
    shift = np.array([0.02, 0, 0.106, 0, 0, 0, 0])
    twists = [assistant.act(beside, replace(reading, tcp_pose=reading.tcp_pose + shift)).twist for _ in range(12)]
    pushed = np.array([twist for twist in twists if twist.any()])
    assert len(pushed) and pushed[:, 0].mean() < -0.1 and pushed[:, 2].mean() > 0.1
