"""Pictures of the simulated hand alone, for reports."""

import mujoco
import numpy as np

from dex_rl_nodes.sim import hand
from dex_rl_nodes.sim.renderer import CameraRenderer

_CAMERA = '<camera name="portrait" pos="0.30 0.24 0.20" xyaxes="-0.62 0.78 0 -0.16 -0.13 0.98" fovy="27"/>'


class HandPainter:
    """Draws the hand at any target. Use it from one thread."""

    def __init__(self, size: int = 128):
        self._size = size
        self._model = mujoco.MjModel.from_xml_string(
            f'<mujoco><compiler angle="radian"/><visual><global offwidth="{size}" offheight="{size}"/>'
            '<headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>'
            '<asset><texture type="skybox" builtin="flat" rgb1="1 1 1" rgb2="1 1 1" width="8" height="48"/></asset>'
            f'<default>{hand.defaults()}</default><worldbody>{hand.mjcf(_CAMERA)}</worldbody></mujoco>'
        )
        self._data = mujoco.MjData(self._model)
        names = [mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, name) for name in hand.JOINT_NAMES]
        self._address = self._model.jnt_qposadr[names]
        self._renderer = CameraRenderer(self._model)

    def draw(self, target: np.ndarray) -> np.ndarray:
        """The hand at a target (6,) in normalised travel; uint8 (size, size, 3) RGB."""
        travel = np.concatenate([hand.TRAVEL, hand.DISTAL_TRAVEL[1:]])
        self._data.qpos[self._address] = travel * np.concatenate([target, target[1:]])
        mujoco.mj_forward(self._model, self._data)
        return self._renderer.render(self._data, 0, self._size, self._size)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()
