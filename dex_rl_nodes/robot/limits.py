"""Limits of arm and hand: the `limits:` block of config/robots/<robot>.yaml.

Defaults are those of an FR3 with a Ruiyan hand. Where the manufacturer's documents differ, the tighter number is used.
"""

import math
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from dex_rl_nodes.config import Model, Robot, Vector6
from dex_rl_nodes.errors import UserError

# What no FR3 can do: the widest joint ranges (rad) of any system image, and the velocities (rad/s).
FR3_LOW = (-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508)
FR3_HIGH = (2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508)
FR3_VELOCITY = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)

Vector7 = Annotated[list[float], Field(min_length=7, max_length=7)]


class ArmLimits(Model):
    """What the TCP target and, as predicted from it, the joints may do."""

    translation_velocity: float = Field(0.35, gt=0, le=3.0, description='speed of the TCP target (m/s)')
    translation_acceleration: float = Field(
        4.0, gt=0, le=9.0, description='per axis; braking to rest is always allowed (m/s^2)'
    )
    rotation_velocity: float = Field(1.75, gt=0, le=2.5, description='turning speed of the TCP target (rad/s)')
    rotation_acceleration: float = Field(
        17.0, gt=0, le=17.0, description='per axis; braking is always allowed (rad/s^2)'
    )
    leash_translation: float = Field(0.06, gt=0, le=0.2, description='target from measured TCP position, per axis (m)')
    leash_rotation: float = Field(0.30, gt=0, le=1.0, description='target from measured TCP rotation, angle (rad)')
    table_height: float = Field(0.0, ge=-1, le=1, description='height of the table plane in the base frame (m)')
    table_clearance: float = Field(0.01, ge=0, le=1, description='lowest TCP target above the table (m)')
    reading_velocity: float = Field(
        3.0, gt=0, le=20, description='a measured TCP that moved faster than this is not believed (m/s)'
    )
    joint_low: Vector7 = Field([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159], description='rad')
    joint_high: Vector7 = Field([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159], description='rad')
    joint_margin: float = Field(0.02, ge=0, le=0.5, description='kept from both ends of every joint (rad)')
    joint_velocity: Vector7 = Field([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26], description='rad/s, far from the ends')
    joint_velocity_offset: Vector7 = Field([0.6599, 0.2517, 0.2, 0.3533, 0.5757, 0.4878, 0.4628], description='rad/s')
    joint_deceleration: Vector7 = Field([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0], description='rad/s^2, before the ends')

    @model_validator(mode='after')
    def _ordered(self) -> 'ArmLimits':
        _check_order('joint', self.joint_low, self.joint_high)
        for index in range(7):
            low, high, velocity = self.joint_low[index], self.joint_high[index], self.joint_velocity[index]
            if low < FR3_LOW[index] or high > FR3_HIGH[index] or not 0 < velocity <= FR3_VELOCITY[index]:
                raise ValueError(
                    f'joint {index + 1} may go from {low} to {high} rad with {velocity} rad/s, that of an FR3 only '
                    f'from {FR3_LOW[index]} to {FR3_HIGH[index]} with {FR3_VELOCITY[index]}: is it the file of '
                    'another robot?'
                )
            offset, deceleration = self.joint_velocity_offset[index], self.joint_deceleration[index]
            if offset < 0 or deceleration <= 0:
                raise ValueError(
                    f'joint {index + 1} has the velocity offset {offset} rad/s and the deceleration {deceleration} '
                    'rad/s^2; the first must be 0 or more, the second more than 0'
                )
        return self


class HandLimits(Model):
    """What the hand target may do; order thumb rotation, thumb bend, index, middle, ring, pinky."""

    low: Vector6 = Field([0.0] * 6, description='lowest target, normalised travel')
    high: Vector6 = Field([1.0] * 6, description='highest target, normalised travel')
    step: float = Field(0.25, gt=0, le=1.0, description='change of a target in one control tick (travel)')
    velocity: float = Field(2.5, gt=0, le=10, description='speed of a target (travel/s)')
    acceleration: float = Field(50.0, gt=0, le=500, description='braking to rest is always allowed (travel/s^2)')
    current: float = Field(0.5, gt=0, le=5, description='motor current above which a target may only move back (A)')

    @model_validator(mode='after')
    def _ordered(self) -> 'HandLimits':
        if min(self.low) < 0.0 or max(self.high) > 1.0:
            raise ValueError('hand low and high are normalised travel and must lie in [0, 1]')
        _check_order('hand motor', self.low, self.high)
        return self


class TimingLimits(Model):
    """How old things may be. Motion stops within `stop_periods` of the last command, camera frame or reply."""

    stop_periods: float = Field(2.0, gt=1, le=10, description='motion stops after this silence (control periods)')
    early_fraction: float = Field(
        0.5, ge=0, le=1, description='a command may come this much before it is due (control periods)'
    )
    future: float = Field(0.05, ge=0, le=1, description='a stamp may be this far ahead of now (s)')
    clock_jump: float = Field(
        0.5, gt=0, le=10, description='the clock jumped when it departs from elapsed time by more (s)'
    )
    frozen_time: float = Field(
        0.0, ge=0, le=60, description='identical frames for this long: frozen; 0: judge only while moving (s)'
    )
    frozen_motion: float = Field(
        0.02, gt=0, le=1, description='identical frames while the TCP moved this far: frozen (m)'
    )
    teleop_age: float = Field(0.2, gt=0, le=1, description='an older teleop command does not count (s)')
    learner_age: float = Field(30.0, gt=0, le=3600, description='warn when the learner says nothing so long (s)')


class Limits(Model):
    """All limits of a robot."""

    arm: ArmLimits = Field(default_factory=ArmLimits)
    hand: HandLimits = Field(default_factory=HandLimits)
    timing: TimingLimits = Field(default_factory=TimingLimits)


def _check_order(what: str, low: list[float], high: list[float]) -> None:
    for index, (lowest, highest) in enumerate(zip(low, high)):
        if lowest >= highest:
            raise ValueError(f'{what} {index + 1} has the range {lowest} to {highest}; low must be below high')


def read_limits(robot: Robot) -> Limits:
    """Limits of a robot.

    Raises:
        UserError: a limit is unknown, has the wrong size or makes no sense; names it.
    """
    try:
        return Limits.model_validate(robot.limits)
    except ValidationError as error:
        first = error.errors()[0]
        name = '.'.join(['limits', *(str(part) for part in first['loc'])])
        value = first.get('input')
        problem = first['msg']
        if first['type'] in ('too_long', 'too_short'):
            expected = first['ctx'].get('max_length', first['ctx'].get('min_length'))
            problem = f'has {len(value)} numbers, but the robot has {expected} of them'
        elif first['type'] == 'extra_forbidden':
            problem = 'is not a known limit'
        raise UserError(
            f'config/robots/{robot.name}.yaml: {name}: {problem}; correct it, nothing moves until then'
        ) from None


class JointEnvelope:
    """How far each joint may move in one control period from where it is.

    The allowed velocity shrinks near the ends of the travel as the manufacturer prescribes, v = sqrt(2 a distance) -
    offset, and no joint may come nearer to an end than the margin. A joint beyond an end may only move back.
    """

    def __init__(self, arm: ArmLimits, period: float):
        self._low = [low + arm.joint_margin for low in arm.joint_low]
        self._high = [high - arm.joint_margin for high in arm.joint_high]
        self._speed = list(zip(arm.joint_velocity, arm.joint_velocity_offset, arm.joint_deceleration, strict=True))
        self._period = period

    def share(self, joints: list[float], motion: list[float]) -> tuple[float, int]:
        """How much of a joint motion is permitted.

        Args:
            joints: (7,) positions, rad.
            motion: (7,) wanted in one control period, rad.

        Returns:
            Factor from 0 (nothing) on, above 1 where more would be permitted, and the joint that decides it.
        """
        shares = []
        for joint, (now, wanted) in enumerate(zip(joints, motion, strict=True)):
            room = self._high[joint] - now if wanted > 0.0 else now - self._low[joint]
            shares.append(self._reach(joint, room) / max(abs(wanted), 1e-12))
            if math.isnan(shares[-1]):  # nothing is known of this joint: nothing moves
                return 0.0, joint
        least = min(shares)
        return least, shares.index(least)

    def _reach(self, joint: int, room: float) -> float:
        """Longest motion (rad) of a joint in one period towards an end that is `room` away."""
        highest, offset, deceleration = self._speed[joint]
        room = max(0.0, room)
        velocity = math.sqrt(2.0 * deceleration * room) - offset
        return min(min(max(0.0, velocity), highest) * self._period, room)
