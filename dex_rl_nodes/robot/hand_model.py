"""A right hand with six motors and coupled distal joints: the numbers that simulation, RViz and the TCP share.

Motor order, travel and coupling are those of the Ruiyan RH6: thumb rotation, thumb bend, index, middle, ring,
pinky; 0 is open, 1 is closed. Hand frame: z along the stretched fingers, x out of the palm, y towards the index.
"""

import math

import numpy as np

from dex_rl_nodes.records import HAND_JOINTS as MOTORS

# Full travel of each motor (rad), and the travel of the distal joint coupled to it (0: none).
TRAVEL = np.array([2.356, 0.698, 1.518, 1.571, 1.571, 1.545])
DISTAL_TRAVEL = np.array([0.0, 1.169, 1.623, 1.641, 1.658, 1.658])
JOINT_NAMES = MOTORS + tuple(f'{name}_distal' for name in MOTORS[1:])
# The hand on the flange, turned about its z axis (rad): at joint 7 = pi/4 of the home posture the palm faces forwards.
FLANGE_TURN = -0.785398
# The tool centre point: where thumb and index meet, hand frame (m).
TCP = (0.042, 0.021, 0.195)

WRIST = (0.034, 0.035)  # cylinder from the flange: radius, length (m)
PALM = (0.080, (0.014, 0.042, 0.046))  # box: height of its middle, half sizes (m)
FINGER_BASE = 0.130  # z of the knuckles (m)
# Fingers: y of the knuckle, length of the proximal and the distal link (m).
FINGERS = {
    'index': (0.0315, 0.042, 0.038),
    'middle': (0.0105, 0.045, 0.040),
    'ring': (-0.0105, 0.042, 0.038),
    'pinky': (-0.0315, 0.035, 0.032),
}
THUMB_BASE = (0.012, 0.021, 0.085)
THUMB_REACH = (0.060, 0.025)  # of the metacarpal: outwards, along z (m)
THUMB_LINKS = (0.050, 0.038)
FINGER_RADIUS = 0.0080
THUMB_RADIUS = 0.0090
# The camera of the simulation beside the wrist: where it is, what it looks at, upper edge of its image; hand frame (m).
WRIST_CAMERA = ((0.085, 0.110, 0.085), (0.050, 0.012, 0.250), (1, 0, 0))


def tool() -> np.ndarray:
    """Pose (4, 4) of the TCP in the flange frame of the arm."""
    c, s = math.cos(FLANGE_TURN), math.sin(FLANGE_TURN)
    pose = np.eye(4)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = pose[:3, :3] @ TCP
    return pose


def joint_angles(travel: np.ndarray) -> np.ndarray:
    """Angles (11,) of all joints (rad), in the order of JOINT_NAMES, from the normalised travel (6,) of the motors."""
    travel = np.asarray(travel, np.float64)
    return np.concatenate([travel * TRAVEL, travel[1:] * DISTAL_TRAVEL[1:]])
