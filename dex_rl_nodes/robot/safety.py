"""The safety filter: owns the executed targets of arm and hand, and moves them only within the limits.

All limits on a step are intervals that contain zero, or scalings towards zero, so they can be applied one after the
other and the last one never breaks an earlier one; standing still is always permitted. Only the leash moves a target by
itself, when somebody pushes the arm away: towards the measured pose, as far as the other limits allow. A command that
violates nothing passes bit by bit.
"""

from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, RobotReading
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import EventLog, SafetyEvent
from dex_rl_nodes.robot.limits import JointEnvelope, Limits, read_limits
from dex_rl_nodes.robot.units import arm_scale

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
        self.scale = arm_scale(robot.translation_scale, robot.rotation_scale)
        arm, hand = self.limits.arm, self.limits.hand
        self._low, self._high = np.array(task.workspace_low), np.array(task.workspace_high)
        table = arm.table_height + arm.table_clearance
        self._table_is_lower_bound = table > self._low[2]
        self._low[2] = max(self._low[2], table)
        if not (self._low < self._high).all():
            raise UserError(
                f'task {task.name}: the workspace is empty above the table; correct workspace_low and workspace_high'
            )
        self._acceleration = (
            np.array([arm.translation_acceleration] * 3 + [arm.rotation_acceleration] * 3) * self.period**2
        )
        self._envelope = JointEnvelope(arm, self.period)
        # Targets are sent as float32: bounds that are not representable would be exceeded by their own rounding.
        self._hand_low = np.array(hand.low, np.float32).astype(np.float64)
        self._hand_high = np.array(hand.high, np.float32).astype(np.float64)
        self._hand_step = min(hand.step, hand.velocity * self.period)
        self._hand_acceleration = hand.acceleration * self.period**2
        self.reset(RobotReading(), np.zeros(HAND_DIM))

    def reset(self, reading: RobotReading, hand_target: np.ndarray) -> bool:
        """Take the measured pose and a hand target as the executed targets, at rest.

        False, and nothing changes, when one of them is no measurement or not a number: the robot would be sent there.
        """
        hand = np.asarray(hand_target, np.float64)
        problem = _impossible(reading)
        if not problem and (hand.shape != (HAND_DIM,) or not np.isfinite(hand).all()):
            problem = 'hand target at the start'
        if problem:
            self.log.add(SafetyEvent.READING_INVALID, problem)
            return False
        self._position = np.array(reading.tcp_pose[:3], np.float64)
        self._rotation = rotations.normalised(reading.tcp_pose[3:])
        self._hand = np.clip(hand, self._hand_low, self._hand_high)
        self._trusted = reading
        self.rest()
        return True

    def rest(self) -> None:
        """Forget the speed of the targets: they stand still."""
        self._arm_step = np.zeros(ARM_DIM)
        self._hand_last_step = np.zeros(HAND_DIM)

    @property
    def target_pose(self) -> np.ndarray:
        """Executed TCP target (7,) in the base frame: m, then quaternion x, y, z, w."""
        return np.concatenate([self._position, self._rotation])

    @property
    def hand_target(self) -> np.ndarray:
        """Executed hand target (6,) float32, normalised travel."""
        return self._hand.astype(np.float32)

    def trust(self, reading: RobotReading) -> bool:
        """Whether a reading can be true: finite, a rotation, and reached with a possible speed since the last one."""
        problem = _impossible(reading) or self._jumped(reading)
        if problem:
            self.log.add(SafetyEvent.READING_INVALID, problem)
            return False
        self._trusted = reading
        return True

    def _jumped(self, reading: RobotReading) -> str:
        elapsed = max((reading.stamp - self._trusted.stamp) * 1e-9, self.period)
        travel = np.linalg.norm(np.asarray(reading.tcp_pose[:3], np.float64) - self._trusted.tcp_pose[:3])
        return 'arm pose jumped' if travel > self.limits.arm.reading_velocity * elapsed else ''

    def move(self, arm: np.ndarray, hand: np.ndarray, reading: RobotReading) -> Step:
        """Execute one tick as far as the limits allow.

        Args:
            arm: (6,) unit motion of the TCP target in the base frame.
            hand: (6,) absolute hand target, normalised travel.
            reading: a trusted reading of this tick.
        """
        arm = np.asarray(arm, np.float32)
        asked = arm.astype(np.float64) * self.scale
        step = self._range(asked)
        translation = self._translation(step[:3], np.asarray(reading.tcp_pose[:3], np.float64))
        rotation = self._rotation_step(step[3:], np.asarray(reading.tcp_pose[3:], np.float64))
        step = self._joints(np.concatenate([translation, rotation]), reading)
        if np.array_equal(step, asked):
            executed = arm.copy()
        else:
            executed = np.clip(step / self.scale, -1.0, 1.0).astype(np.float32)
        wanted = np.asarray(hand, np.float32).astype(np.float64)
        target = self._hand_step_to(wanted, reading)
        limited = not (np.array_equal(step, asked) and np.array_equal(target, wanted))
        self._position = self._position + step[:3]
        self._rotation = rotations.turned(self._rotation, step[3:])
        self._arm_step, self._hand_last_step, self._hand = step, target - self._hand, target
        return Step(executed, self.hand_target, limited)

    def freeze(self) -> Step:
        """Execute one tick without motion: the targets stay."""
        self.rest()
        return Step(np.zeros(ARM_DIM, np.float32), self.hand_target, True)

    def hold(self, reading: RobotReading | None) -> Step:
        """Stop the arm where it is: its target becomes the measured pose, the hand keeps its target.

        The measured pose is taken only within the leash of the target (a reading further away is not believed) and
        clipped to the workspace. Without a reading the targets stay.
        """
        step = np.zeros(ARM_DIM)
        if reading is not None:
            step = self._to_measured(reading)
            self._position = self._position + step[:3]
            self._rotation = rotations.turned(self._rotation, step[3:])
        self.rest()
        return Step(np.clip(step / self.scale, -1.0, 1.0).astype(np.float32), self.hand_target, True)

    def _to_measured(self, reading: RobotReading) -> np.ndarray:
        arm = self.limits.arm
        translation = np.asarray(reading.tcp_pose[:3], np.float64) - self._position
        rotation = rotations.difference(reading.tcp_pose[3:], self._rotation)
        if np.abs(translation).max() > arm.leash_translation + self.scale[0]:
            return np.zeros(ARM_DIM)
        if np.linalg.norm(rotation) > arm.leash_rotation + self.scale[3]:
            return np.zeros(ARM_DIM)
        low, high = self._box()
        return np.concatenate([np.clip(translation, low, high), rotation])

    def _range(self, asked: np.ndarray) -> np.ndarray:
        """Clip to the action range, then to what the last step allows; braking to rest is always allowed."""
        step = np.clip(asked, -self.scale, self.scale)
        if not np.array_equal(step, asked):
            self.log.add(SafetyEvent.COMMAND_OUT_OF_RANGE)
        low = np.minimum(0.0, self._arm_step - self._acceleration)
        high = np.maximum(0.0, self._arm_step + self._acceleration)
        slow = np.clip(step, low, high)
        if not np.array_equal(slow, step):
            self.log.add(SafetyEvent.ACCELERATION_LIMIT)
        return slow

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (3,) of a step that ends in the workspace box above the table, or no further outside than it began."""
        low = np.minimum(0.0, self._low - self._position - _TOLERANCE)
        high = np.maximum(0.0, self._high - self._position + _TOLERANCE)
        return low, high

    def _translation(self, step: np.ndarray, measured: np.ndarray) -> np.ndarray:
        arm = self.limits.arm
        leash = arm.leash_translation + _TOLERANCE
        within = np.clip(step, measured - leash - self._position, measured + leash - self._position)
        if not np.array_equal(within, step):
            self.log.add(SafetyEvent.LEASH)
        low, high = self._box()
        boxed = np.clip(within, low, high)
        if not np.array_equal(boxed, within):
            at_table = self._table_is_lower_bound and boxed[2] > within[2]
            self.log.add(SafetyEvent.TABLE_PLANE if at_table else SafetyEvent.WORKSPACE_BOX)
        if not np.array_equal(boxed, step):  # pulled by the leash: never faster than a step may be
            boxed = np.clip(boxed, *self._step_interval(slice(0, 3)))
        return self._slow(boxed, arm.translation_velocity)

    def _step_interval(self, axes: slice) -> tuple[np.ndarray, np.ndarray]:
        low = np.maximum(-self.scale[axes], np.minimum(0.0, (self._arm_step - self._acceleration)[axes]))
        high = np.minimum(self.scale[axes], np.maximum(0.0, (self._arm_step + self._acceleration)[axes]))
        return low, high

    def _slow(self, step: np.ndarray, velocity: float) -> np.ndarray:
        length, longest = float(np.sqrt(step @ step)), velocity * self.period
        if length <= longest * (1.0 + _TOLERANCE):
            return step
        self.log.add(SafetyEvent.STEP_LIMIT)
        return step * (longest / length)

    def _rotation_step(self, step: np.ndarray, measured: np.ndarray) -> np.ndarray:
        arm = self.limits.arm
        before = rotations.difference(self._rotation, measured)
        now = self._error_angle(step, measured)
        if now > arm.leash_rotation + _TOLERANCE:
            self.log.add(SafetyEvent.LEASH)
            step = self._along_leash(step, measured)
            # Clipping to the step interval bends the motion off the leash a little; shorten it until it is within, or
            # nearer than before.
            allowed = max(arm.leash_rotation, float(np.linalg.norm(before))) + _TOLERANCE
            for _ in range(20):
                if self._error_angle(step, measured) <= allowed:
                    break
                step = 0.5 * step
            else:
                step = np.zeros(3)
        return self._slow(step, arm.rotation_velocity)

    def _error_angle(self, step: np.ndarray, measured: np.ndarray) -> float:
        error = rotations.difference(rotations.turned(self._rotation, step), measured)
        return float(np.linalg.norm(error))

    def _along_leash(self, step: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """The step to the point of the leash's sphere nearest to where the given step would end."""
        error = rotations.difference(rotations.turned(self._rotation, step), measured)
        error *= self.limits.arm.leash_rotation / np.linalg.norm(error)
        nearest = rotations.multiply(rotations.from_rotvec(error), measured)
        return np.clip(rotations.difference(nearest, self._rotation), *self._step_interval(slice(3, 6)))

    def _joints(self, step: np.ndarray, reading: RobotReading) -> np.ndarray:
        """Scale the step down until the joint motion it asks for is permitted."""
        joints = np.asarray(reading.joint_position, np.float64)
        if not np.any(joints):
            self.log.add(SafetyEvent.JOINTS_UNKNOWN)
            return step
        if not np.any(step):
            return step
        matrix = kinematics.jacobian(joints, reading.tcp_pose[:3])
        lag = np.concatenate(
            [
                self._position - reading.tcp_pose[:3],
                rotations.difference(self._rotation, np.asarray(reading.tcp_pose[3:])),
            ]
        )
        motion = kinematics.joint_motion(matrix, np.stack([lag, step], axis=1))
        low, high = self._envelope.step_bounds(joints + motion[:, 0])
        wanted = motion[:, 1]
        room = np.where(wanted > 0.0, high, -low)
        share = float(np.min(room / np.maximum(np.abs(wanted), 1e-12)))
        if share >= 1.0:
            return step
        self.log.add(SafetyEvent.JOINT_LIMIT, f'joint {int(np.argmin(room / np.maximum(np.abs(wanted), 1e-12))) + 1}')
        return step * max(0.0, share)

    def _hand_step_to(self, wanted: np.ndarray, reading: RobotReading) -> np.ndarray:
        """Nearest permitted hand target (6,)."""
        target = np.clip(wanted, self._hand_low, self._hand_high)
        if not np.array_equal(target, wanted):
            self.log.add(SafetyEvent.HAND_RANGE)
        target = self._current(target, reading)
        low = np.maximum(-self._hand_step, np.minimum(0.0, self._hand_last_step - self._hand_acceleration))
        high = np.minimum(self._hand_step, np.maximum(0.0, self._hand_last_step + self._hand_acceleration))
        slow = np.clip(target, self._hand + low, self._hand + high)
        if not np.array_equal(slow, target):
            self.log.add(SafetyEvent.HAND_STEP)
        return slow.astype(np.float32).astype(np.float64)

    def _current(self, target: np.ndarray, reading: RobotReading) -> np.ndarray:
        over = np.abs(np.asarray(reading.hand_current)) > self.limits.hand.current
        if not over.any():
            return target
        measured = np.clip(np.asarray(reading.hand, np.float64), self._hand_low, self._hand_high)
        low, high = np.minimum(self._hand, measured), np.maximum(self._hand, measured)
        relieved = np.where(over, np.clip(target, low, high), target)
        if not np.array_equal(relieved, target):
            self.log.add(SafetyEvent.HAND_CURRENT, f'motor {int(np.argmax(over)) + 1}')
        return relieved


def _impossible(reading: RobotReading) -> str:
    """Which part of a reading cannot be a measurement, whatever was measured before; empty if none."""
    pose, hand = np.asarray(reading.tcp_pose, np.float64), np.asarray(reading.hand, np.float64)
    if pose.shape != (7,) or not np.isfinite(pose).all() or np.abs(pose).max() > _REACH:
        return 'arm pose'
    if abs(float(pose[3:] @ pose[3:]) - 1.0) > 0.02:
        return 'arm pose'
    if hand.shape != (HAND_DIM,) or not np.isfinite(hand).all() or np.abs(hand - 0.5).max() > 1.0:
        return 'hand joints'
    current = np.asarray(reading.hand_current, np.float64)
    if current.shape != (HAND_DIM,) or not np.isfinite(current).all():
        return 'hand currents'
    joints = np.asarray(reading.joint_position, np.float64)
    return '' if joints.shape == (7,) and np.isfinite(joints).all() else 'arm joints'
