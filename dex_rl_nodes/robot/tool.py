"""Between the TCP, which everything here speaks of, and the flange, which the arm's controller may move."""

import math

import numpy as np

from dex_rl_nodes.robot import hand_model, kinematics, rotations

_TOOL = hand_model.tool()
_TOOL_POSITION, _TOOL_ROTATION = _TOOL[:3, 3], rotations.from_matrix(_TOOL[:3, :3])
_APART, _TURNED = 0.01, 0.1  # m and rad, at most, between the pose that the arm reports and the one of its joints
_LENGTH = 0.01  # of a quaternion, from 1
_BACK = rotations.conjugate(_TOOL_ROTATION)


def flange_of(tcp: np.ndarray) -> np.ndarray:
    """Pose (7,) of the flange, m and x, y, z, w, for a pose of the TCP; both in the base frame."""
    rotation = rotations.multiply(np.asarray(tcp[3:]), _BACK)
    return np.concatenate([np.asarray(tcp[:3]) - rotations.to_matrix(rotation) @ _TOOL_POSITION, rotation])


def tcp_of(flange: np.ndarray) -> np.ndarray:
    """Pose (7,) of the TCP for a pose of the flange; both in the base frame."""
    rotation = np.asarray(flange[3:])
    position = np.asarray(flange[:3]) + rotations.to_matrix(rotation) @ _TOOL_POSITION
    return np.concatenate([position, rotations.multiply(rotation, _TOOL_ROTATION)])


def tcp_mismatch(pose: np.ndarray, joints: np.ndarray) -> tuple[float, float]:
    """How far a reported TCP pose (7,) is from where the joints (7,) put the TCP: m and rad.

    The arm reports the frame that is set in it; when that is not our TCP, every limit would be judged elsewhere.
    """
    frame = kinematics.forward(joints, _TOOL)
    turned = rotations.difference(np.asarray(pose[3:]), rotations.from_matrix(frame[:3, :3]))
    return float(np.linalg.norm(np.asarray(pose[:3]) - frame[:3, 3])), float(np.linalg.norm(turned))


def tcp_complaint(pose: np.ndarray, joints: np.ndarray) -> str:
    """What is wrong where pose (7,) and joints (7,) are not those of one arm with our TCP; empty when they are."""
    if not (np.isfinite(pose).all() and np.isfinite(joints).all()) or abs(np.linalg.norm(pose[3:]) - 1.0) > _LENGTH:
        return 'current_pose or the joints of the arm are no measurement'
    away, turned = tcp_mismatch(pose, joints)
    if away <= _APART and turned <= _TURNED:
        return ''
    return (
        f'current_pose is {1000 * away:.0f} mm and {math.degrees(turned):.0f} degrees from where the joints put the TCP'
    )
