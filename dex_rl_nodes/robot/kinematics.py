"""Kinematics of the Franka FR3 from its modified (Craig) Denavit-Hartenberg parameters."""

import math

import numpy as np

# Per joint: a (m), d (m), alpha (rad) of the frame before the joint's rotation; then the flange.
# Source: robot specification published by the manufacturer.
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)
FLANGE_OFFSET = 0.107  # m, along z of the last joint
HOME = np.array([0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4])


def joint_frames(joints: np.ndarray) -> np.ndarray:
    """Frames (8, 4, 4) of the seven joints and the flange in the base frame.

    Args:
        joints: (7,) joint positions, rad.
    """
    frames = np.empty((8, 4, 4))
    pose = np.eye(4)
    for index, (a, d, alpha) in enumerate(DH):
        pose = pose @ _link(a, d, math.cos(alpha), math.sin(alpha), float(joints[index]))
        frames[index] = pose
    frames[7] = pose
    frames[7, :3, 3] += FLANGE_OFFSET * pose[:3, 2]
    return frames


def _link(a: float, d: float, ca: float, sa: float, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array(
        [
            [c, -s, 0.0, a],
            [s * ca, c * ca, -sa, -d * sa],
            [s * sa, c * sa, ca, d * ca],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def forward(joints: np.ndarray, tool: np.ndarray | None = None) -> np.ndarray:
    """Pose (4, 4) of the TCP in the base frame.

    Args:
        joints: (7,) rad.
        tool: (4, 4) pose of the TCP in the flange frame; the flange itself without it.
    """
    flange = joint_frames(joints)[7]
    return flange if tool is None else flange @ tool


def jacobian(joints: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Geometric Jacobian (6, 7) in the base frame: linear (m/s) then angular (rad/s) velocity per joint velocity.

    Args:
        joints: (7,) rad.
        point: (3,) the point of the tool whose velocity is meant, base frame, m. Passing the measured TCP position
        makes the
            result independent of which tool transform the robot is configured with.
    """
    frames = joint_frames(joints)[:7]
    axes, lever = frames[:, :3, 2], np.asarray(point, np.float64) - frames[:, :3, 3]
    result = np.empty((6, 7))
    result[0] = axes[:, 1] * lever[:, 2] - axes[:, 2] * lever[:, 1]
    result[1] = axes[:, 2] * lever[:, 0] - axes[:, 0] * lever[:, 2]
    result[2] = axes[:, 0] * lever[:, 1] - axes[:, 1] * lever[:, 0]
    result[3:] = axes.T
    return result


def joint_motion(jacobian_matrix: np.ndarray, twist: np.ndarray, damping: float = 0.02) -> np.ndarray:
    """Smallest joint motion (7,) that produces a TCP motion (6,), damped near singular postures."""
    j = jacobian_matrix
    return j.T @ np.linalg.solve(j @ j.T + damping * damping * np.eye(6), twist)
