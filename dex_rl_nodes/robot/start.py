"""Where an episode starts: the one draw that the simulation and the arm adapter of a real robot share."""

import numpy as np

from dex_rl_nodes.config import StartPose
from dex_rl_nodes.robot import rotations


def draw_start(start: StartPose, rng: np.random.Generator) -> np.ndarray:
    """TCP pose (7,) at the start of an episode: x, y, z (m), quaternion x, y, z, w, base frame.

    Args:
        start: nominal pose and its uniform randomisation.
        rng: `numpy.random.default_rng(seed)` of the episode; six numbers are drawn. The simulation draws its scene from
            the numbers that follow.
    """
    position = np.asarray(start.position) + rng.uniform(-1, 1, 3) * start.position_range
    turn = rng.uniform(-1, 1, 3) * start.rotation_range
    return np.concatenate([position, rotations.turned(rotations.from_rotvec(start.rotation), turn)])
