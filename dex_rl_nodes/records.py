"""The records that travel between the parts of the system.

Each record has the fields of the message of the same name (msg/*.msg), with NumPy arrays for arrays
and `stamp` (integer nanoseconds) for the header; units and frames are documented there, once.
Arrays are float32, so that the graph and the in-process loop compute from the same numbers.
"""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cache
from typing import Literal

import numpy as np

ARM_DIM = 6
HAND_DIM = 6
ACTION_DIM = ARM_DIM + HAND_DIM
STATE_DIM = 12
HISTORY_LENGTH = 8

ARM_JOINTS = tuple(f'fr3_joint{i}' for i in range(1, 8))
HAND_JOINTS = ('thumb_rotation', 'thumb_bend', 'index', 'middle', 'ring', 'pinky')


class Phase(IntEnum):
    """EpisodeState.phase."""

    IDLE = 0
    RESETTING = 1
    RUNNING = 2
    PAUSED = 3
    ENDED = 4
    DONE = 5


class Outcome(IntEnum):
    """EpisodeState.outcome."""

    NONE = 0
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    DISCARDED = 4
    STOPPED = 5


class Mark(IntEnum):
    """TeleopCommand.mark."""

    NONE = 0
    SUCCESS = 1
    FAILURE = 2
    DISCARD = 3
    PAUSE = 4


class Source(IntEnum):
    """ExecutedAction.source: which parts the operator moved."""

    POLICY = 0
    ARM = 1
    HAND = 2
    BOTH = 3


class Origin(IntEnum):
    """Transition.source."""

    POLICY = 0
    INTERVENTION = 1  # of arm and hand
    DEMONSTRATION = 2
    RETRACTION = 3
    INTERVENTION_ARM = 4  # of the arm alone
    INTERVENTION_HAND = 5


def _zeros(*shape: int):
    return field(default_factory=lambda: np.zeros(shape, np.float32))


def _pose():
    return field(default_factory=lambda: np.zeros(7, np.float32), metadata={'kind': 'pose'})


@dataclass(frozen=True)
class MessageField:
    """How a field of a record travels in its message: what ROS messages and bags are made from, once for both.

    Attributes:
        name: of the field, in the record and in the message.
        kind: array: NumPy array, of a fixed length or a sequence; pose: x, y, z (m), quaternion x, y, z, w.
        dtype: of an array (and of a pose when it is read).
        fixed: whether the length of an array is fixed.
    """

    name: str
    kind: Literal['integer', 'number', 'truth', 'text', 'texts', 'array', 'pose']
    dtype: str = ''
    fixed: bool = False


_KINDS = {int: 'integer', float: 'number', bool: 'truth', str: 'text', list: 'texts'}


@cache
def message_fields(record: type) -> tuple[MessageField, ...]:
    """Fields of a record in the order of its message, without the stamp, which is the message's header."""
    example = record()
    found = []
    for entry in fields(record):
        value = getattr(example, entry.name)
        if isinstance(value, np.ndarray):
            kind = entry.metadata.get('kind', 'array')
            found.append(MessageField(entry.name, kind, value.dtype.name, bool(value.size)))
        elif entry.name != 'stamp':
            found.append(MessageField(entry.name, _KINDS[type(value)]))
    return tuple(found)


@dataclass
class Observation:
    """What the robot perceives at one tick, before any network."""

    stamp: int
    episode: int
    step: int
    images: dict[str, np.ndarray]  # view name -> uint8 (size, size, 3) RGB, the task crop
    state: np.ndarray  # float32 (12,), see PolicyStep.state


@dataclass
class HandPrior:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    hand_history: np.ndarray = _zeros(HISTORY_LENGTH * HAND_DIM)
    context: np.ndarray = _zeros(0)


@dataclass
class PolicyStep:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    encoder: str = ''
    features: np.ndarray = _zeros(0)
    state: np.ndarray = _zeros(STATE_DIM)
    hand_history: np.ndarray = _zeros(HISTORY_LENGTH * HAND_DIM)
    context: np.ndarray = _zeros(0)
    base_core: np.ndarray = _zeros(0)


@dataclass
class CoreAction:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    core: np.ndarray = _zeros(0)
    residual: np.ndarray = _zeros(0)
    weights_version: int = 0
    deterministic: bool = False
    context: np.ndarray = _zeros(0)


@dataclass
class ActionCommand:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    arm: np.ndarray = _zeros(ARM_DIM)
    hand: np.ndarray = _zeros(HAND_DIM)
    hold_hand: bool = False


@dataclass
class TeleopCommand:
    stamp: int = 0
    arm_active: bool = False
    arm: np.ndarray = _zeros(ARM_DIM)
    hand_active: bool = False
    hand_delta: np.ndarray = _zeros(HAND_DIM)
    mark: int = 0


@dataclass
class ExecutedAction:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    action: np.ndarray = _zeros(ACTION_DIM)
    hand_target: np.ndarray = _zeros(HAND_DIM)
    target_pose: np.ndarray = _pose()  # x, y, z (m), quaternion x, y, z, w
    source: int = 0
    limited: bool = False
    stopped: bool = False


@dataclass
class ArmState:
    stamp: int = 0
    mode: int = 0
    errors: list[str] = field(default_factory=list)
    last_errors: list[str] = field(default_factory=list)
    success_rate: float = 0.0


@dataclass
class Reward:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    probability: float = 0.0
    success: bool = False


@dataclass
class StepResult:
    stamp: int = 0
    episode: int = 0
    step: int = 0
    reward: float = 0.0
    probability: float = float('nan')
    terminated: bool = False
    truncated: bool = False
    success: bool = False


@dataclass
class EpisodeState:
    stamp: int = 0
    episode: int = 0
    phase: int = 0
    outcome: int = 0
    final_step: int = 0
    seed: int = 0
    hand_target: np.ndarray = _zeros(HAND_DIM)
    purpose: str = ''
    reason: str = ''


@dataclass
class Transition:
    stamp: int = 0
    sequence: int = 0
    episode: int = 0
    step: int = 0
    encoder: str = ''
    features: np.ndarray = _zeros(0)
    state: np.ndarray = _zeros(STATE_DIM)
    hand_history: np.ndarray = _zeros(HISTORY_LENGTH * HAND_DIM)
    context: np.ndarray = _zeros(0)
    base_core: np.ndarray = _zeros(0)
    residual: np.ndarray = _zeros(0)
    action: np.ndarray = _zeros(ACTION_DIM)
    reward: float = 0.0
    mask: float = 1.0
    truncated: bool = False
    success: bool = False
    source: int = 0
    next_features: np.ndarray = _zeros(0)
    next_state: np.ndarray = _zeros(STATE_DIM)
    next_hand_history: np.ndarray = _zeros(HISTORY_LENGTH * HAND_DIM)
    next_context: np.ndarray = _zeros(0)
    next_base_core: np.ndarray = _zeros(0)


@dataclass
class SimState:
    stamp: int = 0
    episode: int = 0
    names: list[str] = field(default_factory=list)
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    success: bool = False
    failure: str = ''


@dataclass
class RobotReading:
    """What arm and hand report."""

    stamp: int = 0
    # base frame: x, y, z (m), quaternion x, y, z, w
    tcp_pose: np.ndarray = field(default_factory=lambda: np.array([0, 0, 0, 0, 0, 0, 1], np.float64))
    hand: np.ndarray = _zeros(HAND_DIM)  # measured, normalised travel
    hand_current: np.ndarray = _zeros(HAND_DIM)  # motor currents, A; zeros: not measured
    joint_position: np.ndarray = field(default_factory=lambda: np.zeros(7))  # rad; zeros: not measured
    joint_velocity: np.ndarray = field(default_factory=lambda: np.zeros(7))  # rad/s


@dataclass
class OperatorInput:
    """What the operator's hands do to the devices at one moment."""

    twist: np.ndarray = _zeros(ARM_DIM)  # SpaceMouse axes in the base frame, [-1, 1]: translation, rotation
    left_button: bool = False
    right_button: bool = False  # held: the glove drives the hand
    glove: np.ndarray = _zeros(HAND_DIM)  # absolute finger positions of the operator, [0, 1]
    mark: int = 0  # TeleopCommand.MARK_*
