"""Kinematics of the Franka FR3 from its modified (Craig) Denavit-Hartenberg parameters."""

import math
from collections.abc import Iterator

import numpy as np

_Triple = tuple[float, float, float]

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
_LINKS = tuple((a, d, math.cos(alpha), math.sin(alpha)) for a, d, alpha in DH)
FLANGE_OFFSET = 0.107  # m, along z of the last joint
HOME = np.array([0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4])


def joint_frames(joints: np.ndarray) -> np.ndarray:
    """Frames (8, 4, 4) of the seven joints and the flange in the base frame.

    Args:
        joints: (7,) joint positions, rad.
    """
    frames = np.empty((8, 4, 4))
    pose = np.eye(4)
    for index, link in enumerate(_LINKS):
        pose = pose @ _link(*link, float(joints[index]))
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
        point: (3,) the point of the tool whose velocity is meant, base frame, m. With the measured TCP position the
            result does not depend on which tool transform the robot is configured with.
    """
    x, y, z = (float(value) for value in point)
    columns = []
    for (ax, ay, az), (ox, oy, oz) in _joint_axes(joints):
        dx, dy, dz = x - ox, y - oy, z - oz
        columns.append((ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx, ax, ay, az))
    return np.array(columns).T


def _joint_axes(joints: np.ndarray) -> Iterator[tuple[_Triple, _Triple]]:
    """Direction and origin (m) of the axis of each joint, base frame.

    The z and x axes and the origin of `joint_frames`, in scalar arithmetic: the safety filter needs them in every tick,
    and a chain of products of small matrices takes four times as long.
    """
    (xx, xy, xz), (zx, zy, zz), (px, py, pz) = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
    for (a, d, ca, sa), joint in zip(_LINKS, np.asarray(joints, float).tolist(), strict=True):
        yx, yy, yz = zy * xz - zz * xy, zz * xx - zx * xz, zx * xy - zy * xx
        px, py, pz = px + a * xx, py + a * xy, pz + a * xz  # along the old x, then along the new z
        vx, vy, vz = ca * yx + sa * zx, ca * yy + sa * zy, ca * yz + sa * zz
        zx, zy, zz = ca * zx - sa * yx, ca * zy - sa * yy, ca * zz - sa * yz
        px, py, pz = px + d * zx, py + d * zy, pz + d * zz
        c, s = math.cos(joint), math.sin(joint)
        xx, xy, xz = c * xx + s * vx, c * xy + s * vy, c * xz + s * vz
        yield (zx, zy, zz), (px, py, pz)


def joint_motion(jacobian_matrix: np.ndarray, twist: np.ndarray, damping: float = 0.02) -> np.ndarray:
    """Smallest joint motion (7,) that produces a TCP motion (6,), damped near singular postures."""
    j = jacobian_matrix
    return j.T @ np.linalg.solve(j @ j.T + damping * damping * np.eye(6), twist)
