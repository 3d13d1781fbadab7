"""Rotations as rotation vectors and unit quaternions (x, y, z, w), one at a time.

Written with scalar arithmetic: the safety filter calls these in every tick, and NumPy costs more than it gives on four
numbers. Euler angles are not used anywhere: with the tool pointing down they flip at plus or minus pi.
"""

import math
from collections.abc import Sequence

import numpy as np


def _floats(values: Sequence[float] | np.ndarray) -> Sequence[float]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    """Unit quaternion (4,) of a rotation vector (3,) in radians."""
    x, y, z = _floats(rotvec)
    angle = math.sqrt(x * x + y * y + z * z)
    factor = 0.5 - angle * angle / 48.0 if angle < 1e-4 else math.sin(0.5 * angle) / angle
    return np.array([x * factor, y * factor, z * factor, math.cos(0.5 * angle)])


def to_rotvec(quaternion: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) of a unit quaternion, the short way round: its length is at most pi."""
    x, y, z, w = _floats(quaternion)
    if w < 0.0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.sqrt(x * x + y * y + z * z)
    factor = 2.0 / w * (1.0 - sine * sine / (3.0 * w * w)) if sine < 1e-6 else 2.0 * math.atan2(sine, w) / sine
    return np.array([x * factor, y * factor, z * factor])


def angle(quaternion: np.ndarray) -> float:
    """By how much a quaternion turns, the short way round (rad); it need not have unit length."""
    x, y, z, w = _floats(quaternion)
    return 2.0 * math.atan2(math.hypot(x, y, z), abs(w))


def multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Quaternion of `first` applied after `second`."""
    ax, ay, az, aw = _floats(first)
    bx, by, bz, bw = _floats(second)
    return np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )


def conjugate(quaternion: np.ndarray) -> np.ndarray:
    """Inverse of a unit quaternion."""
    x, y, z, w = _floats(quaternion)
    return np.array([-x, -y, -z, w])


def normalised(quaternion: np.ndarray) -> np.ndarray:
    """Unit quaternion of the same direction; ValueError when it has no length or is not finite."""
    length = math.hypot(*_floats(quaternion))
    if not math.isfinite(length) or length < 1e-9:
        raise ValueError(f'not a rotation: {list(quaternion)}')
    return np.asarray(quaternion, np.float64) / length


def continuous(quaternion: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The one of q and -q (the same rotation) that lies on the reference's side, so that a stream never flips sign."""
    return -quaternion if float(np.dot(quaternion, reference)) < 0.0 else quaternion


def difference(target: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) in the base frame that turns `origin` into `target`: log(R_target R_origin^T)."""
    return to_rotvec(multiply(target, conjugate(origin)))


def turned(quaternion: np.ndarray, rotvec: np.ndarray) -> np.ndarray:
    """R' = exp(rotvec) R as a unit quaternion on the side of the given one; unchanged for a zero rotation."""
    if not any(_floats(rotvec)):
        return quaternion
    return continuous(normalised(multiply(from_rotvec(rotvec), quaternion)), quaternion)


def to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a unit quaternion."""
    x, y, z, w = _floats(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_matrix(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion with w >= 0 of a rotation matrix (Shepperd's method: divides by the largest component)."""
    m = np.asarray(matrix, np.float64)
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    squares = np.array([m[0, 0], m[1, 1], m[2, 2], trace])
    largest = int(np.argmax(squares))
    if largest == 3:
        q = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1.0 + trace])
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q = np.empty(4)
        q[i] = 1.0 + m[i, i] - m[j, j] - m[k, k]
        q[j], q[k], q[3] = m[j, i] + m[i, j], m[k, i] + m[i, k], m[k, j] - m[j, k]
    q = normalised(q)
    return -q if q[3] < 0.0 else q
