"""Arm and hand as URDF, from the numbers of the kinematics and of the simulation, in primitive shapes.

Two robots, because a real arm is described by its own bring-up: `arm` from the frame `base` to `fr3_link8`, and `hand`
that hangs on `fr3_link8`. Names of links and joints of the arm are the manufacturer's.
"""

import math
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from dex_rl_nodes.robot import arm_model, hand_model, rotations
from dex_rl_nodes.robot.kinematics import DH, FLANGE_OFFSET
from dex_rl_nodes.robot.limits import ArmLimits

FLANGE = 'fr3_link8'
TORQUE_MAX = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # N m
_WHITE, _GREY, _ORANGE, _BLUE = '0.93 0.93 0.94 1', '0.20 0.22 0.26 1', '0.95 0.55 0.10 1', '0.10 0.45 0.95 1'
_HAND_TORQUE, _HAND_SPEED = 1.2, 3.0  # N m, rad/s
Point = Sequence[float]


def _text(values: Point) -> str:
    return ' '.join(f'{value:.9g}' for value in values)


def _roll_pitch_yaw(matrix: np.ndarray) -> tuple[float, float, float]:
    """Fixed-axis angles of a rotation matrix, as URDF writes them."""
    return (
        math.atan2(matrix[2, 1], matrix[2, 2]),
        math.atan2(-matrix[2, 0], math.hypot(matrix[2, 1], matrix[2, 2])),
        math.atan2(matrix[1, 0], matrix[0, 0]),
    )


class _Robot:
    def __init__(self, name: str, root: str):
        self.element = ElementTree.Element('robot', name=name)
        self.link = ElementTree.SubElement(self.element, 'link', name=root)

    def joint(self, name: str, parent: str, child: str, xyz: Point, rpy: Point = (0, 0, 0), **options) -> None:
        """A joint and its child link; `axis`, `limit` and `mimic` make it move."""
        kind = 'revolute' if 'axis' in options else 'fixed'
        joint = ElementTree.SubElement(self.element, 'joint', name=name, type=kind)
        ElementTree.SubElement(joint, 'origin', xyz=_text(xyz), rpy=_text(rpy))
        ElementTree.SubElement(joint, 'parent', link=parent)
        ElementTree.SubElement(joint, 'child', link=child)
        if kind == 'revolute':
            ElementTree.SubElement(joint, 'axis', xyz=_text(options['axis']))
            keys = ('lower', 'upper', 'velocity', 'effort')
            limits = {key: f'{value:.9g}' for key, value in zip(keys, options['limit'])}
            ElementTree.SubElement(joint, 'limit', **limits)
        if 'mimic' in options:
            leader, ratio = options['mimic']
            ElementTree.SubElement(joint, 'mimic', joint=leader, multiplier=f'{ratio:.9g}')
        self.link = ElementTree.SubElement(self.element, 'link', name=child)

    def cylinder(self, start: Point, end: Point, radius: float, colour: str) -> None:
        """A cylinder with round ends on the newest link."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        length = float(np.linalg.norm(end - start))
        axis = (end - start) / length
        turn = np.array([-axis[1], axis[0], 0.0])  # z x axis
        sine, cosine = float(np.linalg.norm(turn)), float(axis[2])
        turn = turn / sine if sine > 1e-9 else np.array([1.0, 0.0, 0.0])
        rotation = rotations.to_matrix(rotations.from_rotvec(turn * math.atan2(sine, cosine)))
        self._shape((start + end) / 2, _roll_pitch_yaw(rotation), colour, 'cylinder', radius=radius, length=length)
        for point in (start, end):
            self._shape(point, (0, 0, 0), colour, 'sphere', radius=radius)

    def box(self, middle: Point, half: Point, colour: str) -> None:
        """A box on the newest link."""
        self._shape(middle, (0, 0, 0), colour, 'box', size=[2 * value for value in half])

    def _shape(self, xyz: Point, rpy: Point, colour: str, kind: str, **sizes) -> None:
        visual = ElementTree.SubElement(self.link, 'visual')
        ElementTree.SubElement(visual, 'origin', xyz=_text(xyz), rpy=_text(rpy))
        geometry = ElementTree.SubElement(visual, 'geometry')
        ElementTree.SubElement(geometry, kind, {key: _text(np.atleast_1d(value)) for key, value in sizes.items()})
        material = ElementTree.SubElement(visual, 'material', name=colour.replace(' ', '_'))
        ElementTree.SubElement(material, 'color', rgba=colour)

    def text(self) -> str:
        ElementTree.indent(self.element)
        return ElementTree.tostring(self.element, encoding='unicode')


def arm_urdf() -> str:
    """URDF of the FR3, from the frame `base` to the flange."""
    robot, limits = _Robot('fr3', 'base'), ArmLimits()
    robot.joint('fr3_base_joint', 'base', 'fr3_link0', (0, 0, 0))
    radius, height = arm_model.BASE
    robot.cylinder((0, 0, 0), (0, 0, height), radius, _WHITE)
    for index, (a, d, alpha) in enumerate(DH):
        robot.joint(
            arm_model.JOINT_NAMES[index],
            f'fr3_link{index}',
            f'fr3_link{index + 1}',
            (a, -math.sin(alpha) * d, math.cos(alpha) * d),
            (alpha, 0, 0),
            axis=(0, 0, 1),
            limit=(
                limits.joint_low[index],
                limits.joint_high[index],
                limits.joint_velocity[index],
                TORQUE_MAX[index],
            ),
        )
        for start, end, thickness in arm_model.CAPSULES[index]:
            robot.cylinder(start, end, thickness, _GREY if index == 6 else _WHITE)
    robot.joint('fr3_joint8', 'fr3_link7', FLANGE, (0, 0, FLANGE_OFFSET))
    return robot.text()


def _optical(position: Point, look_at: Point, up: Point) -> tuple[float, float, float]:
    """Fixed-axis angles of an optical frame: z to what is seen, x to the right of the image, y down."""
    forward = np.subtract(look_at, position) / np.linalg.norm(np.subtract(look_at, position))
    right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
    return _roll_pitch_yaw(np.stack([right, np.cross(forward, right), forward], axis=1))


def hand_urdf(with_camera: bool = False) -> str:
    """URDF of the hand, from the flange of the arm, with the frame `tcp`.

    Args:
        with_camera: with the frame of the simulated wrist camera; a real camera has its own, and where it is mounted
            must be measured.
    """
    robot = _Robot('hand', FLANGE)
    robot.joint('hand_joint', FLANGE, 'hand', (0, 0, 0), (0, 0, hand_model.FLANGE_TURN))
    radius, length = hand_model.WRIST
    robot.cylinder((0, 0, 0), (0, 0, length), radius, _GREY)
    height, half = hand_model.PALM
    robot.box((0, 0, height), half, _GREY)
    robot.joint('tcp_joint', 'hand', 'tcp', hand_model.TCP)
    if with_camera:
        place, seen, up = hand_model.WRIST_CAMERA
        robot.joint('wrist_camera_joint', 'hand', 'wrist_color_optical_frame', place, _optical(place, seen, up))
    for name, (y, proximal, distal) in hand_model.FINGERS.items():
        _motor(robot, name, 'hand', name, (0, y, hand_model.FINGER_BASE), (0, 1, 0))
        robot.cylinder((0, 0, 0), (0, 0, proximal), hand_model.FINGER_RADIUS, _GREY)
        _distal(robot, name, (0, 0, proximal), (0, 1, 0))
        robot.cylinder((0, 0, 0), (0, 0, distal), hand_model.FINGER_RADIUS, _ORANGE)
    out, along = hand_model.THUMB_REACH
    proximal, distal = hand_model.THUMB_LINKS
    _motor(robot, 'thumb_rotation', 'hand', 'thumb_rotation', hand_model.THUMB_BASE, (0, 0, -1))
    robot.cylinder((0, 0, 0), (0, out, along), hand_model.THUMB_RADIUS, _GREY)
    _motor(robot, 'thumb_bend', 'thumb_rotation', 'thumb_bend', (0, out, along), (1, 0, 0))
    robot.cylinder((0, 0, 0), (0, 0, proximal), hand_model.THUMB_RADIUS, _GREY)
    _distal(robot, 'thumb_bend', (0, 0, proximal), (1, 0, 0))
    robot.cylinder((0, 0, 0), (0, 0, distal), hand_model.THUMB_RADIUS, _BLUE)
    return robot.text()


def _motor(robot: _Robot, name: str, parent: str, child: str, xyz: Point, axis: Point) -> None:
    travel = float(hand_model.TRAVEL[hand_model.MOTORS.index(name)])
    robot.joint(name, parent, child, xyz, axis=axis, limit=(0, travel, _HAND_SPEED, _HAND_TORQUE))


def _distal(robot: _Robot, name: str, xyz: Point, axis: Point) -> None:
    """The joint that the motor of a finger bends along, by its coupling."""
    motor = hand_model.MOTORS.index(name)
    travel = float(hand_model.DISTAL_TRAVEL[motor])
    robot.joint(
        f'{name}_distal',
        name,
        f'{name}_distal',
        xyz,
        axis=axis,
        limit=(0, travel, _HAND_SPEED, _HAND_TORQUE),
        mimic=(name, travel / float(hand_model.TRAVEL[motor])),
    )
