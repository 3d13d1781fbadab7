"""The limits written a second time, as plain inequalities, to judge the safety filter with code it does not share."""

import math
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.records import RobotReading
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.limits import Limits

_EPSILON = 1e-6  # m, rad, travel: rounding of float32 actions


@dataclass
class Motion:
    """A motion of the targets, from where they were."""

    pose: np.ndarray  # (7,) new
    hand: np.ndarray  # (6,) new
    arm_step: np.ndarray  # (6,) m and rad
    hand_step: np.ndarray  # (6,)


class Oracle:
    """Limits written a second time, as plain inequalities."""

    def __init__(self, robot: Robot, task: Task, limits: Limits):
        self._limits = limits
        self._period = 1.0 / robot.control_rate
        self.unit = np.array([robot.translation_scale] * 3 + [robot.rotation_scale] * 3)
        self._low, self._high = np.array(task.workspace_low), np.array(task.workspace_high)
        self._low[2] = max(self._low[2], limits.arm.table_height + limits.arm.table_clearance)
        self.rest()

    def rest(self) -> None:
        """The targets stand still."""
        self.arm_step, self.hand_step = np.zeros(6), np.zeros(6)

    def motion(self, before: np.ndarray, hand_before: np.ndarray, pose: np.ndarray, hand: np.ndarray) -> Motion:
        """The motion between two targets."""
        turn = rotations.difference(pose[3:], before[3:])
        return Motion(pose, hand, np.concatenate([pose[:3] - before[:3], turn]), hand - hand_before)

    def share(self, motion: Motion) -> float:
        """The step of a motion as a share of the largest one that a tick may make; above 1 it violates a limit."""
        arm, hand, t = self._limits.arm, self._limits.hand, self._period
        return max(
            float((np.abs(motion.arm_step) / self.unit).max()),
            float(np.linalg.norm(motion.arm_step[:3])) / (arm.translation_velocity * t),
            float(np.linalg.norm(motion.arm_step[3:])) / (arm.rotation_velocity * t),
            float(np.abs(motion.hand_step).max()) / min(hand.step, hand.velocity * t),
        )

    def violations(
        self, motion: Motion, before: np.ndarray, reading: RobotReading, joints: bool, strict: bool = False
    ) -> list[str]:
        """Names of the limits a motion violates.

        Args:
            joints: check joint limits too, which is slow.
            strict: judge what was asked for: clearly within every limit. Otherwise rounding is forgiven, and what was
                beyond a limit
                before (somebody pushed the arm) may stay there but not get worse.
        """
        if not np.isfinite(motion.pose).all() or abs(np.linalg.norm(motion.pose[3:]) - 1.0) > 1e-6:
            return ['pose']
        slack = -_EPSILON if strict else _EPSILON
        return [
            *self._speeds(motion.arm_step, slack),
            *self._places(motion.pose, before, np.asarray(reading.tcp_pose, np.float64), slack, strict),
            *(['joint'] if joints and self._joints_exceeded(motion.arm_step, before, reading, slack) else []),
            *self._hand(motion, reading, slack, strict),
        ]

    def _speeds(self, step: np.ndarray, slack: float) -> list[str]:
        arm, t, last = self._limits.arm, self._period, self.arm_step
        acceleration = np.array([arm.translation_acceleration] * 3 + [arm.rotation_acceleration] * 3)
        checks = {
            'step': (np.abs(step) > self.unit + max(slack, 0.0)).any(),
            'translation velocity': np.linalg.norm(step[:3]) > arm.translation_velocity * t + slack,
            'rotation velocity': np.linalg.norm(step[3:]) > arm.rotation_velocity * t + slack,
            'acceleration': _too_fast(step, last, acceleration * t * t, slack),
        }
        return [name for name, violated in checks.items() if violated]

    def _places(
        self, pose: np.ndarray, before: np.ndarray, measured: np.ndarray, slack: float, strict: bool
    ) -> list[str]:
        arm = self._limits.arm
        outside, outside_before = self._outside(pose[:3]), 0.0 if strict else max(0.0, self._outside(before[:3]))
        apart, apart_before = np.abs(pose[:3] - measured[:3]), np.abs(before[:3] - measured[:3])
        leash = arm.leash_translation if strict else np.maximum(arm.leash_translation, apart_before)
        angle = np.linalg.norm(rotations.difference(pose[3:], measured[3:]))
        angle_before = np.linalg.norm(rotations.difference(before[3:], measured[3:]))
        turn_leash = arm.leash_rotation if strict else max(arm.leash_rotation, angle_before)
        checks = {
            'workspace': outside > outside_before + slack,
            'leash': (apart > leash + slack).any(),
            'rotation leash': angle > turn_leash + slack,
        }
        return [name for name, violated in checks.items() if violated]

    def _outside(self, position: np.ndarray) -> float:
        """How far a position is outside of the box; negative inside."""
        return float(np.maximum(self._low - position, position - self._high).max())

    def _hand(self, motion: Motion, reading: RobotReading, slack: float, strict: bool) -> list[str]:
        hand, t, rounding = self._limits.hand, self._period, max(slack, 0.0)
        over = np.abs(reading.hand_current) > hand.current
        measured = np.clip(reading.hand, hand.low, hand.high)
        apart, apart_before = np.abs(motion.hand - measured), np.abs(motion.hand - motion.hand_step - measured)
        pushes = motion.hand_step != 0.0 if strict else apart > apart_before + slack
        checks = {
            'hand range': (motion.hand < np.array(hand.low) - rounding).any()
            or (motion.hand > np.array(hand.high) + rounding).any(),
            'hand step': (np.abs(motion.hand_step) > min(hand.step, hand.velocity * t) + slack).any(),
            'hand acceleration': _too_fast(motion.hand_step, self.hand_step, hand.acceleration * t * t, slack),
            'hand current': (over & pushes).any(),
        }
        return [name for name, violated in checks.items() if violated]

    def _joints_exceeded(self, step: np.ndarray, before: np.ndarray, reading: RobotReading, slack: float) -> bool:
        """Joint motion predicted with a Jacobian taken by differences, against the limits of one control period."""
        arm, q, measured = self._limits.arm, np.asarray(reading.joint_position), reading.tcp_pose
        matrix = _numeric_jacobian(q, measured[:3])
        inverse = matrix.T @ np.linalg.inv(matrix @ matrix.T + 0.02**2 * np.eye(6))
        lag = np.concatenate([before[:3] - measured[:3], rotations.difference(before[3:], measured[3:])])
        motion = inverse @ step
        for joint, position in enumerate(q + inverse @ lag):
            moved = motion[joint]
            end = arm.joint_high[joint] - arm.joint_margin if moved > 0 else arm.joint_low[joint] + arm.joint_margin
            room = max(0.0, (end - position) * math.copysign(1.0, moved))
            speed = math.sqrt(2 * arm.joint_deceleration[joint] * room) - arm.joint_velocity_offset[joint]
            speed = min(arm.joint_velocity[joint], max(0.0, speed))
            if abs(moved) > min(speed * self._period, room) + slack:
                return True
        return False


def _too_fast(step: np.ndarray, last: np.ndarray, largest: np.ndarray | float, slack: float) -> bool:
    """Whether a step differs too much from the last one, and not because it brakes."""
    braking = (step * last >= 0.0) & (np.abs(step) <= np.abs(last) + max(slack, 0.0))
    return bool(((np.abs(step - last) > largest + slack) & ~braking & (np.abs(step) > 1e-12)).any())


def _numeric_jacobian(joints: np.ndarray, point: np.ndarray, width: float = 1e-6) -> np.ndarray:
    flange = kinematics.forward(joints)
    tool = np.eye(4)
    tool[:3, 3] = flange[:3, :3].T @ (point - flange[:3, 3])
    matrix = np.empty((6, 7))
    for joint in range(7):
        shift = width * np.eye(7)[joint]
        ahead, behind = kinematics.forward(joints + shift, tool), kinematics.forward(joints - shift, tool)
        turn = ahead[:3, :3] @ behind[:3, :3].T
        matrix[:3, joint] = (ahead[:3, 3] - behind[:3, 3]) / (2 * width)
        matrix[3:, joint] = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / (
            4 * width
        )
    return matrix
