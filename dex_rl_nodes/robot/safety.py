"""The safety filter: owns the executed targets of arm and hand, and moves them only within the limits.

All limits on a step are intervals that contain zero, or scalings towards zero, so they can be applied one after the
other and the last one never breaks an earlier one; standing still is always permitted. Only the leash moves a target by
itself, when somebody pushes the arm away: towards the measured pose, as far as the other limits allow. A command that
violates nothing passes bit by bit.

Inside, vectors are lists of floats: on three to seven numbers a call of NumPy costs more than all its arithmetic, and
this runs in every tick.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, RobotReading
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import EventLog, SafetyEvent
from dex_rl_nodes.robot.limits import JointEnvelope, Limits, read_limits
from dex_rl_nodes.robot.units import arm_scale

Vector = list[float]
_TOLERANCE = 1e-9  # rounding of sums of floats
_REACH = 1.5  # m; the FR3 with a hand reaches 1.1 m, so a TCP further from the base is no measurement


@dataclass(frozen=True)
class Step:
    """What one tick executes."""

    arm: np.ndarray  # float32 (6,), executed arm motion, unit
    hand: np.ndarray  # float32 (6,), executed hand target, normalised travel
    limited: bool  # it is not what was asked for


class SafetyFilter:
    """Turns what is asked for into what is executed."""

    def __init__(self, robot: Robot, task: Task, log: EventLog | None = None, limits: Limits | None = None):
        """Raises UserError when the limits of the robot or the workspace of the task make no sense."""
        self.limits = limits or read_limits(robot)
        self.log = log or EventLog()
        self.period = 1.0 / robot.control_rate
        self._scale = arm_scale(robot.translation_scale, robot.rotation_scale).tolist()
        arm, hand = self.limits.arm, self.limits.hand
        self._low, self._high = list(task.workspace_low), list(task.workspace_high)
        table = arm.table_height + arm.table_clearance
        self._table_is_lower_bound = table > self._low[2]
        self._low[2] = max(self._low[2], table)
        if not all(low < high for low, high in zip(self._low, self._high, strict=True)):
            raise UserError(
                f'task {task.name}: the workspace is empty above the table; correct workspace_low and workspace_high'
            )
        per_tick = self.period**2
        self._acceleration = [arm.translation_acceleration * per_tick] * 3 + [arm.rotation_acceleration * per_tick] * 3
        self._envelope = JointEnvelope(arm, self.period)
        # Targets are sent as float32: bounds that are not representable would be exceeded by their own rounding.
        self._hand_low, self._hand_high = _single(hand.low), _single(hand.high)
        self._hand_current = _single([hand.current])[0]  # currents are reported in single precision
        self._hand_step = min(hand.step, hand.velocity * self.period)
        self._hand_acceleration = hand.acceleration * per_tick
        self.reset(RobotReading(), np.zeros(HAND_DIM))

    def reset(self, reading: RobotReading, hand_target: np.ndarray) -> bool:
        """Take the measured pose and a hand target as the executed targets, at rest.

        False, and nothing changes, when one of them is no measurement or not a number: the robot would be sent there.
        """
        problem = _impossible(reading)
        if not problem and not _numbers(hand_target, HAND_DIM):
            problem = 'hand target at the start'
        if problem:
            self.log.add(SafetyEvent.READING_INVALID, problem)
            return False
        pose = _floats(reading.tcp_pose)
        self._position, self._rotation = pose[:3], rotations.normalised(pose[3:])
        self._hand = _clip(_floats(hand_target), self._hand_low, self._hand_high)
        self._trusted = reading
        self.rest()
        return True

    def take_hand(self, reading: RobotReading) -> None:
        """The hand target becomes the measured hand: who knows what moved it while it could not be heard."""
        if not _impossible(reading):
            self._hand = _clip(_single(reading.hand), self._hand_low, self._hand_high)
            self._hand_last_step = [0.0] * HAND_DIM

    def rest(self) -> None:
        """Forget the speed of the targets: they stand still."""
        self._arm_step, self._hand_last_step = [0.0] * ARM_DIM, [0.0] * HAND_DIM

    @property
    def target_pose(self) -> np.ndarray:
        """Executed TCP target (7,) in the base frame: m, then quaternion x, y, z, w."""
        return np.array([*self._position, *self._rotation])

    @property
    def hand_target(self) -> np.ndarray:
        """Executed hand target (6,) float32, normalised travel."""
        return np.array(self._hand, np.float32)

    def doubt(self, reading: RobotReading) -> str:
        """Why a reading cannot be true: not finite, no rotation, or too far from the last one; empty when it can."""
        problem = _impossible(reading) or self._jumped(reading)
        if not problem:
            self._trusted = reading
        return problem

    def _jumped(self, reading: RobotReading) -> str:
        elapsed = max((reading.stamp - self._trusted.stamp) * 1e-9, self.period)
        travel = math.dist(_floats(reading.tcp_pose)[:3], _floats(self._trusted.tcp_pose)[:3])
        return 'arm pose jumped' if travel > self.limits.arm.reading_velocity * elapsed else ''

    def move(self, arm: np.ndarray, hand: np.ndarray, reading: RobotReading) -> Step:
        """Execute one tick as far as the limits allow.

        Args:
            arm: (6,) unit motion of the TCP target in the base frame.
            hand: (6,) absolute hand target, normalised travel.
            reading: a trusted reading of this tick.
        """
        arm, pose = np.asarray(arm, np.float32), _floats(reading.tcp_pose)
        asked = [unit * scale for unit, scale in zip(arm.tolist(), self._scale, strict=True)]
        lag = rotations.multiply(self._rotation, rotations.conjugate(pose[3:]))  # of the arm behind its target
        step = self._range(asked)
        step = self._translation(step[:3], pose[:3]) + self._rotation_step(step[3:], lag, pose[3:])
        step = self._joints(step, lag, reading)
        executed = arm.copy() if step == asked else self._unit(step)
        wanted = _single(hand)
        target = self._hand_step_to(wanted, reading)
        limited = step != asked or target != wanted
        self._move_arm(step)
        self._arm_step, self._hand_last_step, self._hand = step, _minus(target, self._hand), target
        return Step(executed, self.hand_target, limited)

    def _unit(self, step: Vector) -> np.ndarray:
        """An arm step as unit motion (6,) float32."""
        return np.array(
            _clip([s / scale for s, scale in zip(step, self._scale, strict=True)], [-1.0] * 6, [1.0] * 6), np.float32
        )

    def _move_arm(self, step: Vector) -> None:
        self._position = [place + s for place, s in zip(self._position, step[:3], strict=True)]
        self._rotation = rotations.turned(self._rotation, step[3:])

    def freeze(self) -> Step:
        """Execute one tick without motion: the targets stay."""
        self.rest()
        return Step(np.zeros(ARM_DIM, np.float32), self.hand_target, True)

    def hold(self, reading: RobotReading | None) -> Step:
        """Stop the arm where it is: its target becomes the measured pose, the hand keeps its target.

        The measured pose is taken only within the leash of the target (a reading further away is not believed) and
        clipped to the workspace. Without a reading the targets stay.
        """
        step = [0.0] * ARM_DIM
        if reading is not None:
            step = self._to_measured(_floats(reading.tcp_pose))
            self._move_arm(step)
        self.rest()
        return Step(self._unit(step), self.hand_target, True)

    def _to_measured(self, pose: Vector) -> Vector:
        arm = self.limits.arm
        translation = _minus(pose[:3], self._position)
        rotation = rotations.difference(pose[3:], self._rotation).tolist()
        too_far = max(map(abs, translation)) > arm.leash_translation + self._scale[0]
        if too_far or math.hypot(*rotation) > arm.leash_rotation + self._scale[3]:
            return [0.0] * ARM_DIM
        return _clip(translation, *self._box()) + rotation

    def _range(self, asked: Vector) -> Vector:
        """Clip to the action range, then to what the last step allows; braking to rest is always allowed."""
        step = _clip(asked, [-scale for scale in self._scale], self._scale)
        if step != asked:
            self.log.add(SafetyEvent.COMMAND_OUT_OF_RANGE)
        slow = _clip(step, *_reachable(self._arm_step, self._acceleration))
        if slow != step:
            self.log.add(SafetyEvent.ACCELERATION_LIMIT)
        return slow

    def _box(self) -> tuple[Vector, Vector]:
        """Bounds (3,) of a step that ends in the workspace box above the table, or no further outside than it began."""
        low = [min(0.0, low - place - _TOLERANCE) for low, place in zip(self._low, self._position, strict=True)]
        high = [max(0.0, high - place + _TOLERANCE) for high, place in zip(self._high, self._position, strict=True)]
        return low, high

    def _translation(self, step: Vector, measured: Vector) -> Vector:
        arm = self.limits.arm
        leash = arm.leash_translation + _TOLERANCE
        # In this order the bounds of a target that rests on the leash are exactly zero.
        ends = list(zip(measured, self._position, strict=True))
        within = _clip(
            step, [there - leash - here for there, here in ends], [there + leash - here for there, here in ends]
        )
        if within != step:
            self.log.add(SafetyEvent.LEASH)
        boxed = _clip(within, *self._box())
        if boxed != within:
            at_table = self._table_is_lower_bound and boxed[2] > within[2]
            self.log.add(SafetyEvent.TABLE_PLANE if at_table else SafetyEvent.WORKSPACE_BOX)
        if boxed != step:  # pulled by the leash: never faster than a step may be
            boxed = _clip(boxed, *self._step_interval(slice(0, 3)))
        return self._slow(boxed, arm.translation_velocity)

    def _step_interval(self, axes: slice) -> tuple[Vector, Vector]:
        scale = self._scale[axes]
        low, high = _reachable(self._arm_step[axes], self._acceleration[axes])
        return [max(-s, bound) for s, bound in zip(scale, low, strict=True)], [
            min(s, bound) for s, bound in zip(scale, high, strict=True)
        ]

    def _slow(self, step: Vector, velocity: float) -> Vector:
        length, longest = math.hypot(*step), velocity * self.period
        if length <= longest * (1.0 + _TOLERANCE):
            return step
        self.log.add(SafetyEvent.STEP_LIMIT)
        return [s * (longest / length) for s in step]

    def _rotation_step(self, step: Vector, lag: np.ndarray, measured: Vector) -> Vector:
        arm = self.limits.arm
        if _angle_after(step, lag) > arm.leash_rotation + _TOLERANCE:
            self.log.add(SafetyEvent.LEASH)
            step = self._along_leash(step, lag, measured)
            # Clipping to the step interval bends the motion off the leash a little; shorten it until it is within, or
            # nearer than before.
            allowed = max(arm.leash_rotation, rotations.angle(lag)) + _TOLERANCE
            for _ in range(20):
                if _angle_after(step, lag) <= allowed:
                    break
                step = [0.5 * s for s in step]
            else:
                step = [0.0] * 3
        return self._slow(step, arm.rotation_velocity)

    def _along_leash(self, step: Vector, lag: np.ndarray, measured: Vector) -> Vector:
        """The step to the point of the leash's sphere nearest to where the given step would end."""
        error = rotations.to_rotvec(rotations.multiply(rotations.from_rotvec(step), lag))
        error *= self.limits.arm.leash_rotation / math.hypot(*error.tolist())
        nearest = rotations.multiply(rotations.from_rotvec(error), measured)
        return _clip(rotations.difference(nearest, self._rotation).tolist(), *self._step_interval(slice(3, 6)))

    def _joints(self, step: Vector, lag: np.ndarray, reading: RobotReading) -> Vector:
        """Scale the step down until the joint motion it asks for is permitted."""
        joints = np.asarray(reading.joint_position, np.float64)
        if not any(joints.tolist()):
            self.log.add(SafetyEvent.JOINTS_UNKNOWN)
            return step
        if not any(step):
            return step
        tcp = _floats(reading.tcp_pose)[:3]
        behind = _minus(self._position, tcp) + rotations.to_rotvec(lag).tolist()
        motion = kinematics.joint_motion(kinematics.jacobian(joints, tcp), np.array([behind, step]).T)
        share, joint = self._envelope.share((joints + motion[:, 0]).tolist(), motion[:, 1].tolist())
        if share >= 1.0:
            return step
        self.log.add(SafetyEvent.JOINT_LIMIT, f'joint {joint + 1}')
        return [s * max(0.0, share) for s in step]

    def _hand_step_to(self, wanted: Vector, reading: RobotReading) -> Vector:
        """Nearest permitted hand target (6,)."""
        target = _clip(wanted, self._hand_low, self._hand_high)
        if target != wanted:
            self.log.add(SafetyEvent.HAND_RANGE)
        target = self._current(target, reading)
        low, high = _reachable(self._hand_last_step, [self._hand_acceleration] * HAND_DIM)
        slow = _clip(
            target,
            [now + max(-self._hand_step, bound) for now, bound in zip(self._hand, low, strict=True)],
            [now + min(self._hand_step, bound) for now, bound in zip(self._hand, high, strict=True)],
        )
        if slow != target:
            self.log.add(SafetyEvent.HAND_STEP)
        return _single(slow)

    def _current(self, target: Vector, reading: RobotReading) -> Vector:
        over = [abs(current) > self._hand_current for current in _floats(reading.hand_current)]
        if not any(over):
            return target
        measured = _clip(_floats(reading.hand), self._hand_low, self._hand_high)
        relieved = [
            min(max(wanted, min(now, there)), max(now, there)) if hot else wanted
            for wanted, now, there, hot in zip(target, self._hand, measured, over, strict=True)
        ]
        if relieved != target:
            self.log.add(SafetyEvent.HAND_CURRENT, f'motor {over.index(True) + 1}')
        return relieved


def _floats(values: Sequence[float] | np.ndarray) -> Vector:
    return np.asarray(values, np.float64).tolist()


def _single(values: Sequence[float] | np.ndarray) -> Vector:
    """Rounded to single precision, in which targets are sent."""
    return np.asarray(values, np.float32).tolist()


def _clip(values: Vector, low: Vector, high: Vector) -> Vector:
    return [min(max(value, least), most) for value, least, most in zip(values, low, high, strict=True)]


def _minus(first: Vector, second: Vector) -> Vector:
    return [a - b for a, b in zip(first, second, strict=True)]


def _reachable(last: Vector, change: Vector) -> tuple[Vector, Vector]:
    """Bounds of a step that differs from the last one by at most `change`, or brakes towards rest."""
    pairs = list(zip(last, change, strict=True))
    return [min(0.0, s - c) for s, c in pairs], [max(0.0, s + c) for s, c in pairs]


def _angle_after(step: Vector, lag: np.ndarray) -> float:
    """Angle between target and measured rotation after a turn of the target by the rotation vector `step` (rad)."""
    return rotations.angle(rotations.multiply(rotations.from_rotvec(step), lag))


def _impossible(reading: RobotReading) -> str:
    """Which part of a reading cannot be a measurement, whatever was measured before; empty if none."""
    pose = _numbers(reading.tcp_pose, 7)
    if not pose or max(map(abs, pose)) > _REACH or abs(sum(q * q for q in pose[3:]) - 1.0) > 0.02:
        return 'arm pose'
    hand = _numbers(reading.hand, HAND_DIM)
    if not hand or min(hand) < -0.5 or max(hand) > 1.5:
        return 'hand joints'
    if not _numbers(reading.hand_current, HAND_DIM):
        return 'hand currents'
    return '' if _numbers(reading.joint_position, 7) else 'arm joints'


def _numbers(values: Sequence[float] | np.ndarray, count: int) -> Vector:
    """The values when they are as many, and finite; else nothing."""
    array = np.asarray(values, np.float64)
    found = array.tolist() if array.shape == (count,) else []
    return found if all(map(math.isfinite, found)) else []
