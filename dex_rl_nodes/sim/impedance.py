"""Cartesian impedance control with error clipping, as serl_franka_controllers and crisp_controllers do it."""

from dataclasses import dataclass

import mujoco
import numpy as np

from dex_rl_nodes.robot.kinematics import HOME
from dex_rl_nodes.sim import arm


@dataclass(frozen=True)
class Gains:
    """Settings of the controller; defaults are SERL's."""

    stiffness: float = 2000.0  # N/m
    damping: float = 89.0  # N s/m
    rotational_stiffness: float = 150.0  # N m/rad
    rotational_damping: float = 7.0  # N m s/rad
    position_clip: float = 0.02  # largest position error that pulls, per axis (m): force stays below 40 N
    rotation_clip: float = 0.10  # the same for rotation (rad)
    null_stiffness: float = 10.0  # N m/rad towards the start posture
    null_damping: float = 3.0  # N m s/rad
    filter_time: float = 0.05  # time constant of the low-pass on the target (s)


class CartesianImpedance:
    """Joint torques that pull the TCP to a target pose. Gravity is compensated by the model (gravcomp)."""

    def __init__(self, model, data, site: int, gains: Gains | None = None):
        self._model, self._data, self._site = model, data, site
        self.gains = gains or Gains()
        self._jacobian = np.zeros((6, model.nv))
        self._alpha = 1.0 - np.exp(-model.opt.timestep / self.gains.filter_time)
        self._position, self._quaternion = np.zeros(3), np.array([1.0, 0, 0, 0])
        self._target_position, self._target_quaternion = np.zeros(3), np.array([1.0, 0, 0, 0])
        self._posture = HOME.copy()
        self._error = np.zeros(6)
        self._stiffness = np.repeat([self.gains.stiffness, self.gains.rotational_stiffness], 3)
        self._damping = np.repeat([self.gains.damping, self.gains.rotational_damping], 3)
        self._clip = np.repeat([self.gains.position_clip, self.gains.rotation_clip], 3)
        self._work = [np.zeros(4), np.zeros(4), np.zeros(4)]
        self._turn = np.zeros(3)
        self._regular = 1e-3 * np.eye(6)

    def reset(self, position: np.ndarray, quaternion: np.ndarray, posture: np.ndarray) -> None:
        """Start at a pose (m; w, x, y, z), holding an arm posture (7,) in the null space."""
        self._position[:], self._quaternion[:] = position, quaternion
        self.set_target(position, quaternion)
        self._posture = posture.copy()

    def set_target(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        """New target pose (m; w, x, y, z) in the base frame."""
        self._target_position[:], self._target_quaternion[:] = position, quaternion

    def torque(self) -> np.ndarray:
        """Torques (7,) in N m for the present state; advances the target filter by one time step."""
        data, jacobian, error = self._data, self._jacobian, self._error
        current, inverse, difference = self._work
        self._position += self._alpha * (self._target_position - self._position)
        mujoco.mju_negQuat(inverse, self._quaternion)
        mujoco.mju_mulQuat(difference, self._target_quaternion, inverse)
        mujoco.mju_quat2Vel(self._turn, difference, 1.0)
        # The filter turns about a base-frame axis: q' = exp(alpha * turn) q.
        angle = np.sqrt(self._turn @ self._turn)
        if angle > 1e-9:
            mujoco.mju_axisAngle2Quat(difference, self._turn / angle, self._alpha * angle)
            mujoco.mju_mulQuat(self._work[1], difference, self._quaternion)
            self._quaternion[:] = self._work[1]
        mujoco.mju_normalize4(self._quaternion)

        error[:3] = self._position - data.site_xpos[self._site]
        mujoco.mju_mat2Quat(current, data.site_xmat[self._site])
        mujoco.mju_negQuat(inverse, current)
        mujoco.mju_mulQuat(difference, self._quaternion, inverse)
        mujoco.mju_quat2Vel(error[3:], difference, 1.0)

        mujoco.mj_jacSite(self._model, data, jacobian[:3], jacobian[3:], self._site)
        arm_jacobian = jacobian[:, :7]
        q, dq = data.qpos[:7], data.qvel[:7]
        pull = np.minimum(np.maximum(error, -self._clip), self._clip)
        wrench = self._stiffness * pull - self._damping * (arm_jacobian @ dq)
        null = self.gains.null_stiffness * (self._posture - q) - self.gains.null_damping * dq
        # (I - J^T (J J^T)^-1 J) keeps what does not move the TCP.
        seen = np.linalg.solve(arm_jacobian @ arm_jacobian.T + self._regular, arm_jacobian @ null)
        torque = arm_jacobian.T @ (wrench - seen) + null
        return np.minimum(np.maximum(torque, -arm.TORQUE_MAX), arm.TORQUE_MAX)
