"""The simulated robot: every task resets, steps and renders; the same seed is the same episode."""

import threading

import numpy as np
import pytest
from operate import make

from dex_rl_nodes.config import Camera, load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.robot.limits import ArmLimits
from dex_rl_nodes.sim import hand, renderer, tasks
from dex_rl_nodes.sim.robot import SimRobot
from dex_rl_nodes.sim.tasks import assemble_box

SEED = 4000


@pytest.fixture(scope='module', params=sorted(tasks.TASKS))
def sim(request):
    return make(request.param)


@pytest.fixture(scope='module')
def tissue():
    return make('pull_tissue')


def _wander(sim: SimRobot, seed: int, ticks: int = 12) -> list[np.ndarray]:
    """What is seen and measured while arm and hand move about the start."""
    rng = np.random.default_rng(seed)
    pose = sim.reset(seed).tcp_pose.copy()
    seen = []
    for _ in range(ticks):
        pose[:3] += rng.uniform(-0.015, 0.015, 3)
        sim.step(pose, rng.uniform(0, 0.5, 6))
        reading = sim.read()
        joints = np.concatenate([reading.joint_position, reading.joint_velocity])
        seen.append(np.concatenate([reading.tcp_pose, reading.hand, joints, [*sim.scene().values()]]))
        seen.extend(sim.render(view) for view in sim.robot.cameras)
    return seen


def test_every_task_steps_with_the_promised_shapes_and_finite_numbers(sim):
    reading = sim.reset(SEED)
    assert not sim.success() and sim.failure() == 'arm'
    for entry in _wander(sim, SEED):
        assert np.isfinite(entry).all()
    assert sum(warning.number for warning in sim._data.warning) == 0, 'MuJoCo warns about the model'
    reading = sim.read()
    assert reading.tcp_pose.shape == (7,) and reading.hand.shape == (6,) and reading.hand.dtype == np.float32
    assert reading.joint_position.shape == reading.joint_velocity.shape == (7,)
    assert len(sim.joint_names) == len(sim.joint_positions) == 18
    assert all(isinstance(value, float) for value in sim.scene().values())
    assert {'success', 'near', 'held'} <= set(sim.scene())


def test_the_same_seed_is_the_same_episode_bit_for_bit(sim):
    other = make(sim.task.name)
    first = _wander(sim, SEED)
    _wander(sim, SEED + 1, 3)
    for fresh in (_wander(sim, SEED), _wander(other, SEED)):
        assert all(np.array_equal(a, b) for a, b in zip(first, fresh))
    other.close()


def test_starts_differ_and_stay_in_the_workspace(sim):
    starts, scenes = [], []
    for seed in range(SEED, SEED + 6):
        starts.append(sim.reset(seed).tcp_pose)
        scenes.append([*sim.scene().values()])
        assert (starts[-1][:3] > sim.task.workspace_low).all() and (starts[-1][:3] < sim.task.workspace_high).all()
        joints, limits = sim.read().joint_position, ArmLimits()
        assert (joints > np.array(limits.joint_low) + 0.1).all() and (joints < np.array(limits.joint_high) - 0.1).all()
    assert np.ptp(np.array(starts), axis=0)[:3].max() > 0.01
    assert np.ptp(np.array(scenes), axis=0).max() > 0.01


def test_cameras_show_hand_and_object_in_the_task_crop(sim):
    sim.reset(SEED)
    for view, camera in sim.robot.cameras.items():
        image = sim.render(view)
        assert image.shape == (camera.height, camera.width, 3) and image.dtype == np.uint8
        top, left, bottom, right = sim.task.crops[view]
        rows = slice(round(top * camera.height), round(bottom * camera.height))
        columns = slice(round(left * camera.width), round(right * camera.width))
        crop = image[rows, columns].astype(int)
        assert abs(crop.shape[0] - crop.shape[1]) <= 1
        red, green, blue = crop[..., 0], crop[..., 1], crop[..., 2]
        fingertips = (red > 120) & (red > green + 40) & (green > blue + 20)
        assert fingertips.sum() > 40, f'{view}: no fingertips'
        assert crop.reshape(-1, 3).std(0).max() > 25, f'{view}: nothing to see'


def test_the_arm_goes_where_it_is_told(tissue):
    reading = tissue.reset(SEED)
    pose = reading.tcp_pose.copy()
    pose[:3] += [0.05, -0.04, 0.03]
    pose[3:] = rotations.turned(pose[3:], np.array([0.0, 0.0, 0.2]))
    for _ in range(20):
        tissue.step(pose, tissue.start_hand)
    reached = tissue.read().tcp_pose
    assert np.abs(reached[:3] - pose[:3]).max() < 0.003
    assert np.linalg.norm(rotations.difference(pose[3:], reached[3:])) < 0.02


def test_the_table_stops_the_hand_with_a_bounded_force(tissue):
    pose = tissue.reset(SEED).tcp_pose.copy()
    pose[:3] = [0.35, 0.2, 0.30]
    for _ in range(30):
        pose[2] -= 0.02
        tissue.step(pose, tissue.start_hand)
    assert pose[2] < -0.25 and tissue.read().tcp_pose[2] > 0.005
    assert np.isfinite(tissue.read().joint_velocity).all()


def test_the_hand_moves_at_the_speed_of_its_motors(tissue):
    pose = tissue.reset(SEED).tcp_pose
    target = np.array([0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    tissue.step(pose, target)
    assert tissue.read().hand[2] < hand.SPEED * 0.1 + 0.02
    for _ in range(8):
        tissue.step(pose, target)
    assert np.abs(tissue.read().hand - target).max() < 0.03


def test_time_goes_on_over_resets_and_does_not_drift():
    sim = make('pull_tissue')
    before = sim.reset(SEED).stamp
    for _ in range(30):
        sim.advance(1 / 30)
    assert abs(sim.time - before - 1_000_000_000) <= 2_000_000
    assert sim.reset(SEED).stamp > before + 1_000_000_000


def test_physics_that_diverges_stops_where_it_was_and_goes_on(sim, tmp_path, monkeypatch):
    """MuJoCo would start the scene anew in the middle of an episode, at time 0."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log there
    pose = sim.reset(SEED).tcp_pose
    before = sim.read()
    sim._data.qvel[-1] = 1e12
    for ticks in (1, 2):
        sim.step(pose, sim.start_hand)
        reading = sim.read()
        assert reading.stamp == before.stamp + ticks * 100_000_000
        assert np.allclose(reading.tcp_pose, before.tcp_pose, atol=2e-3)
        assert all(np.isfinite(value) for value in sim.scene().values())


def test_failures_are_blamed_on_arm_stall_or_hand(tissue):
    pose = tissue.reset(SEED).tcp_pose.copy()
    for _ in range(25):
        tissue.step(pose, tissue.start_hand)
    assert tissue.failure() == 'arm'
    seen = tissue.scene()
    goal = [seen['pinch_x'], seen['pinch_y'], seen['pinch_z']]
    for _ in range(60):
        step = np.clip(goal - pose[:3], -0.015, 0.015)
        pose[:3] += step if abs(goal - pose[:3])[:2].max() < 0.01 else step * [1, 1, 0]
        tissue.step(pose, [0.6, 0.05, 0.1, 0.1, 0.1, 0.1])
    assert tissue.failure() == 'stall'
    pose[2] += 0.08
    for _ in range(8):
        tissue.step(pose, tissue.start_hand)
    assert tissue.failure() == 'hand'


def test_images_come_from_any_one_thread():
    sim = make('pull_tissue')
    sim.reset(SEED)
    images = []

    def look():
        images.append(sim.render('front'))
        sim.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(timeout=20)
    assert len(images) == 1 and images[0].std() > 10


def test_without_opengl_the_package_is_named(monkeypatch):
    monkeypatch.setattr(renderer.ctypes.util, 'find_library', lambda name: None)
    sim = make('pull_tissue')
    sim.reset(SEED)
    with pytest.raises(UserError, match='apt-get install -y libegl1'):
        sim.render('front')


def test_what_the_simulation_does_not_know_is_named():
    task, robot = load_task('pull_tissue'), load_robot('sim')
    with pytest.raises(UserError, match='task "juggle" has no simulation; simulated are:.*pull_tissue'):
        SimRobot(task.model_copy(update={'name': 'juggle'}), robot)
    with pytest.raises(UserError, match='scene.colour is not known'):
        SimRobot(task.model_copy(update={'scene': {'colour': 1.0}}), robot)
    with pytest.raises(UserError, match='no camera "rear"; it has: front, wrist'):
        SimRobot(task, robot.model_copy(update={'cameras': {'rear': Camera(topic='rear')}}))


def test_a_lid_fits_or_shows_that_it_does_not():
    """On a step in its rim it came to rest with one edge 4 mm too high, which two small images hardly show."""
    sim = make('assemble_box', arranged=True)
    halfway, fitted = [], 0
    for seed in range(100):
        sim.reset(seed)
        seen = sim.scene()
        fitted += seen['success'] > 0
        beside = np.hypot(seen['lid_x'] - seen['box_x'], seen['lid_y'] - seen['box_y'])
        height = seen['lid_z'] - assemble_box._SEATED
        if not seen['success'] and beside < 0.02 and height < sim.sim_task.parameters['seat_tolerance']:
            halfway.append((seed, beside, height, seen['tilt']))
    assert not halfway and 25 < fitted < 65


def test_what_falls_off_the_table_lies_on_the_floor():
    """Without a floor it fell on and span ever faster, until MuJoCo warned of numbers that are none."""
    sim = make('grasp_place')
    sim.reset(0)
    joint = sim.sim_task.joint('bottle')
    place, velocity = sim.sim_task.model.jnt_qposadr[joint], sim.sim_task.model.jnt_dofadr[joint]
    sim.sim_task.data.qpos[place : place + 7] = (1.1, 0.3, 0.03, 0.7071, 0.7071, 0, 0)
    sim.sim_task.data.qvel[velocity : velocity + 6] = (0.6, 0.1, 0, 0, 8, 0)
    sim.advance(4.0)
    assert -0.5 < sim.scene()['bottle_z'] < -0.4
    assert np.abs(sim.sim_task.data.qvel[velocity : velocity + 6]).max() < 30
