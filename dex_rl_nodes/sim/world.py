"""The whole scene as MJCF: options, table, arm, hand, cameras, and what the task adds."""

from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Camera
from dex_rl_nodes.robot.hand_model import WRIST_CAMERA
from dex_rl_nodes.sim import arm, hand

TIMESTEP = 0.004  # s

# Vertical fields of view of a 640x480 image (deg): D435 (fx 616, 55 deg across), D405 (75 deg across).
FIELD_OF_VIEW = {'front': 42.7, 'wrist': 60.0}

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Fragment:
    """What a task adds to the scene, as MJCF text of each section."""

    bodies: str = ''
    assets: str = ''
    equality: str = ''
    contact: str = ''
    front_camera: tuple[Point, Point] = ((0.80, -0.44, 0.34), (0.48, 0.0, 0.145))  # where it is, what it looks at (m)


def _camera(name: str, position: np.ndarray, look_at: np.ndarray, up: np.ndarray) -> str:
    """A fixed camera that looks at a point; `up` is roughly the upper edge of its image."""
    back = np.asarray(position, float) - np.asarray(look_at, float)
    back /= np.linalg.norm(back)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    above = np.cross(back, right)
    axes = ' '.join(f'{value:.6f}' for value in (*right, *above))
    place = ' '.join(f'{value:.4f}' for value in position)
    return f'<camera name="{name}" pos="{place}" xyaxes="{axes}" fovy="{FIELD_OF_VIEW[name]}"/>'


def panel(name: str, position, half_size, colour: str) -> str:
    """A box-shaped geom of the scene: place and half sizes in m, colour as `r g b a`."""
    place, size = (' '.join(f'{value:.5f}' for value in values) for values in (position, half_size))
    return f'<geom name="{name}" class="scene" type="box" pos="{place}" size="{size}" rgba="{colour}"/>'


def frustum(name: str, lower: float, upper: float, height: float) -> str:
    """A mesh for a geom: a square that widens from half width `lower` at z = 0 to `upper` at `height` (m)."""
    corners = [(x * half, y * half, z) for half, z in ((lower, 0), (upper, height)) for x in (-1, 1) for y in (-1, 1)]
    return f'<mesh name="{name}" vertex="{" ".join(f"{value:.5f}" for corner in corners for value in corner)}"/>'


def mjcf(fragment: Fragment, cameras: dict[str, Camera]) -> str:
    """The scene of a task.

    Args:
        fragment: bodies and constraints of the task.
        cameras: views to render; the off-screen buffer gets the size of the largest image.
    """
    width = max(camera.width for camera in cameras.values())
    height = max(camera.height for camera in cameras.values())
    front = _camera('front', *fragment.front_camera, (0, 0, 1))
    wrist = _camera('wrist', *WRIST_CAMERA)
    return f"""
<mujoco model="dex_rl">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="discrete" cone="elliptic" impratio="5" solver="Newton" iterations="50"
          ls_iterations="15" tolerance="1e-7"/>
  <size memory="32M"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="0" offsamples="0" numslices="16" numstacks="8"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
    <map znear="0.02" zfar="10"/>
  </visual>
  <default>
    <geom solref="0.005 1"/>
    <default class="arm"><geom type="capsule" contype="0" conaffinity="0" rgba="0.93 0.93 0.94 1"/></default>
    <default class="scene"><geom contype="10" conaffinity="7" friction="0.8 0.01 0.001"/></default>
    {hand.defaults()}
  </default>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="0.62 0.66 0.70" rgb2="0.62 0.66 0.70" width="8" height="48"/>
    {fragment.assets}
  </asset>
  <worldbody>
    <light directional="true" pos="0 0 2" dir="0.3 0.4 -1" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
    <geom name="table" class="scene" type="box" pos="0.45 0 -0.02" size="0.55 0.70 0.02" rgba="0.42 0.50 0.46 1"/>
    <geom name="floor" type="plane" pos="0 0 -0.5" size="4 4 0.1" contype="0" conaffinity="8" rgba="0.25 0.26 0.30 1"/>
    {front}
    {arm.mjcf(hand.mjcf(wrist))}
    {fragment.bodies}
  </worldbody>
  <equality>{hand.couplings()}{fragment.equality}</equality>
  <contact>{fragment.contact}</contact>
  <actuator>{hand.actuators()}</actuator>
</mujoco>"""
