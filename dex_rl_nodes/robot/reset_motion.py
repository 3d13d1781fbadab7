"""The way from wherever an episode ended to the start pose of the next one, one control tick after the other.

The hand goes to its start pose first, so that it lets go, the fingers before the rotation of the thumb; then straight
up, over to the start pose at that height with the turn on the way, and down. What it asks for is an ordinary arm and
hand command and passes the safety filter.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import HAND_JOINTS
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.robot.limits import read_limits
from dex_rl_nodes.robot.units import arm_scale

_REACHED = 0.001  # m, and rad below: the target is where it shall be
_TURNED = 0.005
_STARTING = 3  # ticks to full speed
_HAND_SHARE = 0.5  # of the hand's largest speed
_THUMB = HAND_JOINTS.index('thumb_rotation')
_FINGERS = [motor for motor in range(len(HAND_JOINTS)) if motor != _THUMB]


class Leg(IntEnum):
    """What the robot does on its way."""

    RELEASE = 0
    LIFT = 1
    TRAVEL = 2
    LOWER = 3
    SETTLE = 4


@dataclass(frozen=True)
class ResetStep:
    """What one tick of the way asks for."""

    arm: np.ndarray  # float32 (6,), arm motion in the base frame, unit
    hand: np.ndarray  # float32 (6,), hand target, normalised travel
    leg: Leg


class ResetMotion:
    """One way to one start pose.

    Args:
        goal: TCP pose (7,) of the start, base frame, m and x, y, z, w.
        hand: measured hand (6,) now, normalised travel.
        speed: of the TCP (m/s); never more than the limits of the robot allow.
        clearance: how far above the start pose the TCP travels at least (m).

    Raises:
        UserError: the start pose lies outside the workspace of the task.
    """

    def __init__(
        self, robot: Robot, task: Task, goal: np.ndarray, hand: np.ndarray, speed: float = 0.1, clearance: float = 0.05
    ):
        limits = read_limits(robot)
        period = 1.0 / robot.control_rate
        self._scale = arm_scale(robot.translation_scale, robot.rotation_scale)
        self._goal = np.array(goal, np.float64)
        self._goal_hand = np.clip(np.asarray(task.start.hand, np.float32), limits.hand.low, limits.hand.high)
        self._hand = np.array(hand, np.float64)
        low, high = np.array(task.workspace_low), np.array(task.workspace_high)
        low[2] = max(low[2], limits.arm.table_height + limits.arm.table_clearance)
        if (self._goal[:3] < low).any() or (self._goal[:3] > high).any():
            where = ', '.join(f'{value:.3f}' for value in self._goal[:3])
            raise UserError(
                f'config/tasks/{task.name}.yaml: the start pose ({where}) m is outside the workspace; '
                'narrow position_range or widen the workspace'
            )
        self._height = min(self._goal[2] + clearance, high[2])
        self._longest = min(speed, limits.arm.translation_velocity) * period
        self._widest = min(5.0 * speed, limits.arm.rotation_velocity) * period  # rad; 5 rad for every metre
        self._hand_step = _HAND_SHARE * min(limits.hand.step, limits.hand.velocity * period)
        self._gain = [
            min(self._longest / _STARTING, limits.arm.translation_acceleration * period**2 / 2),
            min(self._widest / _STARTING, limits.arm.rotation_acceleration * period**2 / 2),
        ]
        self._last = [0.0, 0.0]  # length of the last translation (m) and turn (rad)
        self.leg = Leg.RELEASE

    def step(self, target: np.ndarray) -> ResetStep:
        """The next tick.

        Args:
            target: executed TCP target (7,) of the tick before; at first the measured pose.
        """
        apart = self._hand_apart()
        if self.leg == Leg.RELEASE and not apart.any():
            self.leg = Leg.LIFT
            if self._near(target):  # it is there already
                self.leg = Leg.LOWER
        if self.leg == Leg.RELEASE:
            if apart[_FINGERS].any():
                apart[_THUMB] = 0.0  # it would jam against fingers that are still closed
            self._hand = self._hand + np.clip(apart, -self._hand_step, self._hand_step)
            return self._ask(np.zeros(3), np.zeros(3))
        while self.leg < Leg.SETTLE:
            translation, turn = self._rest(target)
            if np.linalg.norm(translation) > _REACHED or np.linalg.norm(turn) > _TURNED:
                return self._ask(self._limited(translation, 0, self._longest), self._limited(turn, 1, self._widest))
            self.leg, self._last = Leg(self.leg + 1), [0.0, 0.0]
        return self._ask(np.zeros(3), np.zeros(3))

    def lacking(self, pose: np.ndarray, hand: np.ndarray, distance: float, angle: float, travel: float) -> str:
        """What the measured pose (7,) and hand (6,) still lack to be at the start; empty when they are there.

        Args:
            distance: of the TCP from the start pose that is near enough (m).
            angle: likewise (rad).
            travel: likewise of every motor of the hand (normalised travel).
        """
        if self.leg != Leg.SETTLE:
            return f'it is still on its way ({self.leg.name.lower()})'
        away = float(np.linalg.norm(np.asarray(pose[:3]) - self._goal[:3]))
        turned = float(np.linalg.norm(rotations.difference(self._goal[3:], np.asarray(pose[3:]))))
        if away > distance or turned > angle:
            return f'the TCP is {1000 * away:.0f} mm and {math.degrees(turned):.0f} degrees from the start pose'
        closed = np.abs(np.asarray(hand) - self._goal_hand)
        if closed.max() > travel:
            motor = HAND_JOINTS[int(closed.argmax())]
            return f'{motor} of the hand is {100 * closed.max():.0f} % of its travel from its start'
        return ''

    def _ask(self, translation: np.ndarray, turn: np.ndarray) -> ResetStep:
        arm = np.clip(np.concatenate([translation, turn]) / self._scale, -1.0, 1.0)
        return ResetStep(arm.astype(np.float32), self._hand.astype(np.float32), self.leg)

    def _hand_apart(self) -> np.ndarray:
        return self._goal_hand - self._hand

    def _near(self, target: np.ndarray) -> bool:
        turn = rotations.difference(self._goal[3:], target[3:])
        return bool(np.linalg.norm(self._goal[:3] - target[:3]) < 0.01 and np.linalg.norm(turn) < 0.05)

    def _rest(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left of this leg: translation (m) and turn (rad)."""
        if self.leg == Leg.LIFT:
            return np.array([0.0, 0.0, max(0.0, self._height - target[2])]), np.zeros(3)
        turn = rotations.difference(self._goal[3:], target[3:])
        over = self._goal[:3] - target[:3]
        if self.leg == Leg.TRAVEL:
            over[2] = 0.0
        return over, turn

    def _limited(self, rest: np.ndarray, part: int, fastest: float) -> np.ndarray:
        """What is left, as far as one tick goes: at most a little faster than before, and slower near the end."""
        length = float(np.linalg.norm(rest))
        brake = math.sqrt(2.0 * self._gain[part] * length)
        self._last[part] = min(length, fastest, self._last[part] + self._gain[part], max(brake, _REACHED))
        return rest * (self._last[part] / length) if length > 0.0 else rest
