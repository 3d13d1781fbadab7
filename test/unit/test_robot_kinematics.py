"""Rotations, FR3 kinematics and units."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dex_rl_nodes.records import RobotReading
from dex_rl_nodes.robot import kinematics, rotations, units

SEED = 11


def random_quaternion(rng):
    return rotations.normalised(rng.normal(size=4))


def test_rotations_agree_with_scipy():
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        a, b = random_quaternion(rng), random_quaternion(rng)
        assert np.allclose(rotations.to_rotvec(a), Rotation.from_quat(a).as_rotvec(), atol=1e-12)
        assert np.allclose(rotations.to_matrix(a), Rotation.from_quat(a).as_matrix(), atol=1e-12)
        product = Rotation.from_quat(rotations.multiply(a, b))
        assert (product.inv() * Rotation.from_quat(a) * Rotation.from_quat(b)).magnitude() < 1e-12
        again = rotations.from_matrix(rotations.to_matrix(a))
        assert min(np.abs(again - a).max(), np.abs(again + a).max()) < 1e-12


@pytest.mark.parametrize('length', [0.0, 1e-12, 1e-7, 1e-4, 0.1, 3.0, np.pi - 1e-9])
def test_rotation_vector_round_trip(length):
    direction = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    rotvec = length * direction
    quaternion = rotations.from_rotvec(rotvec)
    assert np.allclose(rotations.to_rotvec(quaternion), rotvec, atol=1e-9, rtol=1e-9)
    for same in (quaternion, -quaternion, 2.0 * quaternion):
        assert rotations.angle(same) == pytest.approx(length, abs=1e-9)


def test_a_turning_tool_never_flips_the_sign_of_its_quaternion():
    quaternion = rotations.from_rotvec([np.pi - 0.01, 0.0, 0.0])
    for _ in range(500):
        turned = rotations.turned(quaternion, np.array([0.05, 0.02, -0.03]))
        assert np.linalg.norm(turned - quaternion) < 0.1
        assert abs(np.linalg.norm(turned) - 1.0) < 1e-12
        quaternion = turned


def test_no_rotation_leaves_the_very_bits():
    quaternion = random_quaternion(np.random.default_rng(SEED))
    assert rotations.turned(quaternion, np.zeros(3)) is quaternion


@pytest.mark.parametrize('bad', [[0, 0, 0, 0], [np.nan, 0, 0, 1]])
def test_what_is_no_rotation_is_refused(bad):
    with pytest.raises(ValueError, match='not a rotation'):
        rotations.normalised(np.array(bad, float))


def test_flange_at_known_postures():
    # Stretched up: the links add to 0.333 + 0.316 + 0.384 m, the flange hangs 0.107 m below, 0.088 m in front.
    assert np.allclose(kinematics.forward(np.zeros(7))[:3, 3], [0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107], atol=1e-12)
    # The home posture as the manufacturer's own tools report it: pointing down, 45 degrees about the vertical.
    home = kinematics.forward(kinematics.HOME)
    assert np.allclose(home[:3, 3], [0.306891, 0.0, 0.590282], atol=1e-6)
    assert np.allclose(home[:3, 2], [0.0, 0.0, -1.0], atol=1e-12)


def test_jacobian_is_the_derivative_of_the_pose():
    rng = np.random.default_rng(SEED)
    tool = np.eye(4)
    tool[:3, 3] = [0.01, -0.02, 0.12]
    joints = kinematics.HOME + rng.uniform(-0.5, 0.5, 7)
    pose = kinematics.forward(joints, tool)
    jacobian = kinematics.jacobian(joints, pose[:3, 3])
    for joint in range(7):
        moved = kinematics.forward(joints + 1e-7 * np.eye(7)[joint], tool)
        turn = Rotation.from_matrix(moved[:3, :3] @ pose[:3, :3].T).as_rotvec()
        numeric = np.concatenate([moved[:3, 3] - pose[:3, 3], turn]) / 1e-7
        assert np.allclose(jacobian[:, joint], numeric, atol=1e-6)


def test_joint_motion_produces_the_twist():
    joints = kinematics.HOME
    jacobian = kinematics.jacobian(joints, kinematics.forward(joints)[:3, 3])
    twist = np.array([0.01, -0.02, 0.005, 0.02, 0.0, -0.05])
    assert np.allclose(jacobian @ kinematics.joint_motion(jacobian, twist, damping=0.0), twist, atol=1e-12)


def test_state_is_relative_to_the_start_in_the_base_frame():
    start = np.array([0.4, 0.0, 0.3, *rotations.from_rotvec([np.pi, 0.0, 0.0])])
    pose = np.array([0.45, -0.1, 0.3, *rotations.turned(start[3:], np.array([0.0, 0.0, 0.3]))])
    hand = np.linspace(0, 1, 6).astype(np.float32)
    state = units.state_vector(RobotReading(tcp_pose=pose, hand=hand), start)
    assert state.dtype == np.float32
    assert np.allclose(state, [0.05, -0.1, 0.0, 0.0, 0.0, 0.3, *hand], atol=1e-6)
    assert not units.state_vector(RobotReading(tcp_pose=start), start)[:6].any()


def test_an_action_joins_arm_and_hand():
    rng = np.random.default_rng(SEED)
    arm, hand = rng.uniform(-1, 1, 6).astype(np.float32), rng.uniform(0, 1, 6).astype(np.float32)
    action = units.join_action(arm, hand)
    assert np.array_equal(action[:6], arm)
    assert np.allclose((action[6:] + 1) / 2, hand, atol=1e-6)
    assert np.array_equal(units.join_action(np.zeros(6), np.array([0, 1, 0, 1, 0, 1]))[6:], [-1, 1, -1, 1, -1, 1])
