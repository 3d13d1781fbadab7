"""The FR3 as MJCF, and the inverse kinematics that places it.

Kinematics, limits and masses are Franka's published ones; shapes are capsules, which render in no time.
"""

import mujoco
import numpy as np

from dex_rl_nodes.robot.arm_model import BASE, CAPSULES, JOINT_NAMES
from dex_rl_nodes.robot.kinematics import DH, FLANGE_OFFSET, HOME
from dex_rl_nodes.robot.limits import ArmLimits

POSITION_MIN, POSITION_MAX = np.array(ArmLimits().joint_low), np.array(ArmLimits().joint_high)
TORQUE_MAX = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
MASSES = (2.9275, 2.9355, 2.2449, 2.6156, 2.3271, 1.8170, 0.6271)
# Reflected inertia of motor and gear (kg m^2) and joint friction as viscous damping (N m s/rad).
ARMATURE = 0.1
DAMPING = 1.0


def mjcf(tool: str) -> str:
    """MJCF bodies of the arm; `tool` is what hangs on the flange, written in the flange frame."""
    text = f'<body name="flange" pos="0 0 {FLANGE_OFFSET}" gravcomp="1">{tool}</body>'
    for i in reversed(range(7)):
        a, d, alpha = DH[i]
        position = (a, -np.sin(alpha) * d, np.cos(alpha) * d)
        rotation = (np.cos(alpha / 2), np.sin(alpha / 2), 0, 0)
        text = (
            f'<body name="fr3_link{i + 1}" pos="{_numbers(position)}" quat="{_numbers(rotation)}" gravcomp="1">'
            f'<joint name="{JOINT_NAMES[i]}" axis="0 0 1" range="{POSITION_MIN[i]} {POSITION_MAX[i]}" '
            f'damping="{DAMPING}" armature="{ARMATURE}"/>{_geoms(i)}{text}</body>'
        )
    return (
        '<body name="fr3_link0">'
        f'<geom class="arm" type="cylinder" fromto="0 0 0 0 0 {BASE[1]}" size="{BASE[0]}" mass="2.3966"/>'
        f'{text}</body>'
    )


def _geoms(i: int) -> str:
    text = ''
    for k, (start, end, radius) in enumerate(CAPSULES[i]):
        mass = MASSES[i] if k == 0 else 0.0
        tint = 'rgba="0.25 0.27 0.30 1"' if i == 6 else ''
        text += f'<geom class="arm" fromto="{_numbers(start + end)}" size="{radius}" mass="{mass}" {tint}/>'
    return text


def _numbers(values) -> str:
    return ' '.join(f'{value:.6g}' for value in values)


def inverse_kinematics(model, data, site: int, position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Joint positions (7,) that put `site` at a pose, in the posture nearest to HOME.

    Args:
        data: used as scratch.
        position: metres, base frame.
        quaternion: w, x, y, z.

    Raises:
        ValueError: the pose is out of reach (worse than 1 mm or 0.01 rad).
    """
    # Elbow up and wrist straight is HOME; a hand that is turned over needs the other side of joint 7.
    homes = [HOME + [0, 0, 0, 0, 0, 0, turn] for turn in (0.0, -np.pi)]
    found = [(home, *_descend(model, data, site, position, quaternion, home)) for home in homes]
    postures = [(np.linalg.norm(q - home), tuple(q)) for home, q, error in found if error < 1e-3]
    if not postures:
        raise ValueError(f'no arm posture reaches {np.round(position, 3)}')
    return np.array(min(postures)[1])


def _descend(model, data, site: int, position, quaternion, home) -> tuple[np.ndarray, float]:
    """Damped least squares from `home`, with a pull back to it in the null space; returns joints and error."""
    q = home.copy()
    jacobian, error = np.zeros((6, model.nv)), np.zeros(6)
    current, inverse, difference = np.zeros(4), np.zeros(4), np.zeros(4)
    for _ in range(100):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        error[:3] = position - data.site_xpos[site]
        mujoco.mju_mat2Quat(current, data.site_xmat[site])
        mujoco.mju_negQuat(inverse, current)
        mujoco.mju_mulQuat(difference, quaternion, inverse)
        mujoco.mju_quat2Vel(error[3:], difference, 1.0)
        if np.linalg.norm(error) < 1e-6:
            break
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
        arm = jacobian[:, :7]
        pseudo_inverse = arm.T @ np.linalg.inv(arm @ arm.T + 1e-4 * np.eye(6))
        pull = (np.eye(7) - pseudo_inverse @ arm) @ (0.1 * (home - q))
        q = np.clip(q + pseudo_inverse @ error + pull, POSITION_MIN, POSITION_MAX)
    return q, float(np.linalg.norm(error))
