"""Between physical quantities and the normalised numbers the learning side sees."""

import numpy as np

from dex_rl_nodes.records import ACTION_DIM, ARM_DIM, STATE_DIM, RobotReading
from dex_rl_nodes.robot import rotations


def state_vector(reading: RobotReading, start_pose: np.ndarray) -> np.ndarray:
    """Proprioceptive state (12,) float32, see PolicyStep.state.

    Args:
        reading: what arm and hand report.
        start_pose: (7,) TCP pose at the start of the episode, base frame, m and x, y, z, w.

    Returns:
        TCP position relative to the start (m, base-frame axes), rotation vector of R R_start^T (rad), hand [0, 1].
    """
    pose = np.asarray(reading.tcp_pose, np.float64)
    state = np.empty(STATE_DIM, np.float32)
    state[:3] = pose[:3] - start_pose[:3]
    state[3:6] = rotations.difference(pose[3:], start_pose[3:])
    state[6:] = reading.hand
    return state


def join_action(arm: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """Executed action (12,) float32 in [-1, 1] from arm unit motion (6) and hand target (6, normalised travel)."""
    action = np.empty(ACTION_DIM, np.float32)
    action[:ARM_DIM] = arm
    action[ARM_DIM:] = 2.0 * np.asarray(hand, np.float32) - 1.0
    return np.clip(action, -1.0, 1.0)


def arm_scale(translation_scale: float, rotation_scale: float) -> np.ndarray:
    """(6,) metres and radians per tick at unit command."""
    return np.array([translation_scale] * 3 + [rotation_scale] * 3)
