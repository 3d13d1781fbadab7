"""The URDF says what kinematics and simulation say."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.records import ARM_JOINTS, HAND_JOINTS
from dex_rl_nodes.robot import hand_model, kinematics, rotations, urdf
from dex_rl_nodes.robot.limits import ArmLimits
from dex_rl_nodes.robot.tool import flange_of, tcp_mismatch, tcp_of

SEED = 5
LIMITS = ArmLimits()


def numbers(element, key):
    return np.array([float(value) for value in element.get(key).split()])


def frames(text, angles, root):
    """Frames (4, 4) of all links, as any reader of URDF would compute them."""
    known = {root: np.eye(4)}
    for joint in ElementTree.fromstring(text).iter('joint'):
        pose = np.eye(4)
        origin = joint.find('origin')
        pose[:3, :3] = Rotation.from_euler('xyz', numbers(origin, 'rpy')).as_matrix()
        pose[:3, 3] = numbers(origin, 'xyz')
        if joint.get('type') == 'revolute':
            mimic = joint.find('mimic')
            angle = angles[joint.get('name')] if mimic is None else None
            if mimic is not None:
                angle = angles[mimic.get('joint')] * float(mimic.get('multiplier'))
            turn = Rotation.from_rotvec(angle * numbers(joint.find('axis'), 'xyz')).as_matrix()
            pose[:3, :3] = pose[:3, :3] @ turn
        known[joint.find('child').get('link')] = known[joint.find('parent').get('link')] @ pose
    return known


def random_angles(rng):
    arm = rng.uniform(LIMITS.joint_low, LIMITS.joint_high)
    travel = rng.uniform(0, 1, 6)
    return arm, travel, {**dict(zip(ARM_JOINTS, arm)), **dict(zip(HAND_JOINTS, travel * hand_model.TRAVEL))}


def test_frames_are_those_of_the_kinematics():
    rng = np.random.default_rng(SEED)
    for _ in range(100):
        arm, _, angles = random_angles(rng)
        known = frames(urdf.arm_urdf(), angles, 'base')
        expected = kinematics.joint_frames(arm)
        for index in range(7):
            assert np.allclose(known[f'fr3_link{index + 1}'], expected[index], atol=1e-8)
        assert np.allclose(known['fr3_link8'], expected[7], atol=1e-8)
        hand = frames(urdf.hand_urdf(), angles, 'fr3_link8')
        assert np.allclose(expected[7] @ hand['tcp'], kinematics.forward(arm, hand_model.tool()), atol=1e-8)


def test_frames_are_those_of_the_simulation():
    mujoco = pytest.importorskip('mujoco')
    from dex_rl_nodes.sim.robot import SimRobot

    core = SimRobot(load_task('pull_tissue'), load_robot('sim'))
    model, data = core._model, mujoco.MjData(core._model)
    rng = np.random.default_rng(SEED)
    for _ in range(20):
        arm, travel, angles = random_angles(rng)
        data.qpos[:7] = arm
        data.qpos[core._hand_address] = hand_model.joint_angles(travel)
        mujoco.mj_kinematics(model, data)
        known = frames(urdf.arm_urdf(), angles, 'base')
        hand = frames(urdf.hand_urdf(with_camera=True), angles, 'fr3_link8')
        known |= {name: known['fr3_link8'] @ pose for name, pose in hand.items()}
        bodies = [*(f'fr3_link{i}' for i in range(1, 8)), 'hand', *HAND_JOINTS, 'thumb_bend_distal', 'pinky_distal']
        for body in bodies:
            place = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)
            assert np.allclose(known[body][:3, 3], data.xpos[place], atol=1e-5), body
            assert np.allclose(known[body][:3, :3], data.xmat[place].reshape(3, 3), atol=1e-5), body
        mujoco.mj_camlight(model, data)
        camera = core._cameras['wrist']  # MuJoCo's cameras look along -z, with y up
        optical = known['wrist_color_optical_frame']
        assert np.allclose(optical[:3, 3], data.cam_xpos[camera], atol=1e-4)
        seen = data.cam_xmat[camera].reshape(3, 3) @ np.diag([1, -1, -1])
        assert np.allclose(optical[:3, :3], seen, atol=1e-4)
        assert np.allclose(known['tcp'][:3, 3], data.site_xpos[core._site], atol=1e-5)
        assert np.allclose(known['tcp'][:3, :3], data.site_xmat[core._site].reshape(3, 3), atol=1e-5)


def test_limits_and_couplings_are_those_of_the_robot():
    joints = {joint.get('name'): joint for joint in ElementTree.fromstring(urdf.arm_urdf()).iter('joint')}
    for index, name in enumerate(ARM_JOINTS):
        limit = joints[name].find('limit')
        assert float(limit.get('lower')) == LIMITS.joint_low[index]
        assert float(limit.get('upper')) == LIMITS.joint_high[index]
    hand = {joint.get('name'): joint for joint in ElementTree.fromstring(urdf.hand_urdf()).iter('joint')}
    assert set(hand_model.JOINT_NAMES) <= set(hand)
    assert np.allclose(
        hand_model.joint_angles(np.ones(6)), [float(hand[n].find('limit').get('upper')) for n in hand_model.JOINT_NAMES]
    )


def test_the_tool_that_people_type_into_desk_is_that_of_the_model():
    text = (Path(__file__).parents[2] / 'docs' / 'hardware.md').read_text()
    found = re.search(r'`x (\S+) y (\S+) z (\S+)` m, turned by (\S+) degrees about z', text)
    *place, turn = map(float, found.groups())
    tool = hand_model.tool()
    assert np.allclose(place, tool[:3, 3], atol=6e-5)
    assert np.allclose(Rotation.from_euler('z', turn, degrees=True).as_matrix(), tool[:3, :3], atol=1e-4)


def test_cylinders_lie_between_their_ends():
    robot = urdf._Robot('one', 'link')
    rng = np.random.default_rng(SEED)
    for start, end in [*rng.normal(size=(20, 2, 3)), [np.zeros(3), -np.eye(3)[2]], [np.zeros(3), np.eye(3)[2]]]:
        robot.cylinder(start, end, 0.01, '1 1 1 1')
        origin = robot.link.findall('visual')[-3].find('origin')
        axis = Rotation.from_euler('xyz', numbers(origin, 'rpy')).as_matrix()[:, 2]
        assert np.allclose(axis, (end - start) / np.linalg.norm(end - start), atol=1e-7)


def test_flange_and_tcp_are_converted_back_and_forth():
    rng = np.random.default_rng(SEED)
    for _ in range(50):
        arm, _, _ = random_angles(rng)
        flange, tcp = kinematics.forward(arm), kinematics.forward(arm, hand_model.tool())
        pose = np.concatenate([tcp[:3, 3], rotations.from_matrix(tcp[:3, :3])])
        assert np.allclose(flange_of(pose)[:3], flange[:3, 3], atol=1e-9)
        assert np.allclose(rotations.to_matrix(flange_of(pose)[3:]), flange[:3, :3], atol=1e-9)
        assert np.allclose(tcp_of(flange_of(pose)), pose, atol=1e-9)
        assert max(tcp_mismatch(pose, arm)) < 1e-6
        assert tcp_mismatch(flange_of(pose), arm)[0] > 0.19, 'the flange is not the TCP'
