"""A right hand with six motors and coupled distal joints, as MJCF.

Motor order, travel and coupling are those of the Ruiyan RH6: thumb rotation, thumb bend, index, middle, ring,
pinky; 0 is open, 1 is closed. Hand frame: z along the stretched fingers, x out of the palm, y towards the index.
"""

import numpy as np

MOTORS = ('thumb_rotation', 'thumb_bend', 'index', 'middle', 'ring', 'pinky')
# Full travel of each motor (rad), and the travel of the distal joint coupled to it (0: none).
TRAVEL = np.array([2.356, 0.698, 1.518, 1.571, 1.571, 1.545])
DISTAL_TRAVEL = np.array([0.0, 1.169, 1.623, 1.641, 1.658, 1.658])
JOINT_NAMES = MOTORS + tuple(f'{name}_distal' for name in MOTORS[1:])
# Speed at which the drivers run the motors (full travels per second).
SPEED = 2.0
# The tool centre point: where thumb and index meet, hand frame (m).
TCP = (0.042, 0.021, 0.195)

_TORQUE = 1.2  # largest motor torque (N m)
_FINGER_BASE = 0.130  # z of the knuckles (m)
# Fingers: y of the knuckle, length of the proximal and the distal link (m).
_FINGERS = {
    'index': (0.0315, 0.042, 0.038),
    'middle': (0.0105, 0.045, 0.040),
    'ring': (-0.0105, 0.042, 0.038),
    'pinky': (-0.0315, 0.035, 0.032),
}
_THUMB_BASE = (0.012, 0.021, 0.085)
_THUMB_REACH = (0.060, 0.025)  # of the metacarpal: outwards, along z (m)
_THUMB_LINKS = (0.050, 0.038)
_FINGER_RADIUS = 0.0080
_THUMB_RADIUS = 0.0090


def _joint(name: str, axis: str, travel: float) -> str:
    return f'<joint name="{name}" axis="{axis}" range="0 {travel}" class="hand"/>'


def _finger(name: str) -> str:
    y, proximal, distal = _FINGERS[name]
    motor = MOTORS.index(name)
    return (
        f'<body name="{name}" pos="0 {y} {_FINGER_BASE}" gravcomp="1">'
        f'{_joint(name, "0 1 0", TRAVEL[motor])}'
        f'<geom class="finger" fromto="0 0 0 0 0 {proximal}" size="{_FINGER_RADIUS}" mass="0.02"/>'
        f'<body name="{name}_distal" pos="0 0 {proximal}" gravcomp="1">'
        f'{_joint(name + "_distal", "0 1 0", DISTAL_TRAVEL[motor])}'
        f'<geom name="{name}_tip" class="fingertip" fromto="0 0 0 0 0 {distal}" size="{_FINGER_RADIUS}" mass="0.015"/>'
        '</body></body>'
    )


def _thumb() -> str:
    out, along = _THUMB_REACH
    proximal, distal = _THUMB_LINKS
    x, y, z = _THUMB_BASE
    return (
        f'<body name="thumb_rotation" pos="{x} {y} {z}" gravcomp="1">'
        f'{_joint("thumb_rotation", "0 0 -1", TRAVEL[0])}'
        f'<geom class="thumb" fromto="0 0 0 0 {out} {along}" size="{_THUMB_RADIUS}" mass="0.04"/>'
        f'<body name="thumb_bend" pos="0 {out} {along}" gravcomp="1">'
        f'{_joint("thumb_bend", "1 0 0", TRAVEL[1])}'
        f'<geom class="thumb" fromto="0 0 0 0 0 {proximal}" size="{_THUMB_RADIUS}" mass="0.02"/>'
        f'<body name="thumb_bend_distal" pos="0 0 {proximal}" gravcomp="1">'
        f'{_joint("thumb_bend_distal", "1 0 0", DISTAL_TRAVEL[1])}'
        f'<geom name="thumb_tip" class="thumbtip" fromto="0 0 0 0 0 {distal}" size="{_THUMB_RADIUS}" mass="0.015"/>'
        '</body></body></body>'
    )


def mjcf(camera: str) -> str:
    """MJCF of the hand on the flange; `camera` is written in the hand frame."""
    fingers = ''.join(_finger(name) for name in _FINGERS)
    return (
        # At joint 7 = pi/4 of the home posture the palm faces forwards.
        '<body name="hand" euler="0 0 -0.785398" gravcomp="1">'
        '<geom class="palm" type="cylinder" fromto="0 0 0 0 0 0.035" size="0.034" mass="0.15"/>'
        '<geom class="palm" type="box" pos="0 0 0.080" size="0.014 0.042 0.046" mass="0.25"/>'
        f'<site name="tcp" pos="{TCP[0]} {TCP[1]} {TCP[2]}" size="0.002" group="4"/>'
        f'{fingers}{_thumb()}{camera}</body>'
    )


def defaults() -> str:
    """Default classes of the hand. Fingers touch the scene and the thumb, but not each other."""
    contact = 'condim="4" friction="1.5 0.02 0.001" solref="0.004 1" priority="1"'
    finger = f'type="capsule" contype="1" conaffinity="6" {contact}'
    thumb = f'type="capsule" contype="4" conaffinity="2" {contact}'
    return (
        '<default class="hand"><joint damping="0.02" armature="0.001"/></default>'
        f'<default class="palm"><geom contype="1" conaffinity="2" {contact} rgba="0.16 0.17 0.20 1"/></default>'
        f'<default class="finger"><geom {finger} rgba="0.20 0.22 0.26 1"/></default>'
        f'<default class="fingertip"><geom {finger} rgba="0.95 0.55 0.10 1"/></default>'
        f'<default class="thumb"><geom {thumb} rgba="0.20 0.22 0.26 1"/></default>'
        f'<default class="thumbtip"><geom {thumb} rgba="0.10 0.45 0.95 1"/></default>'
    )


def couplings() -> str:
    """Equality constraints between motor joints and distal joints."""
    text = ''
    for motor, name in enumerate(MOTORS):
        if DISTAL_TRAVEL[motor] > 0:
            ratio = DISTAL_TRAVEL[motor] / TRAVEL[motor]
            text += f'<joint joint1="{name}_distal" joint2="{name}" polycoef="0 {ratio:.6f} 0 0 0" solref="0.006 1"/>'
    return text


def actuators() -> str:
    """Position servos of the six motors, in motor order."""
    return ''.join(
        f'<position name="{name}" joint="{name}" kp="3" kv="0.1" forcerange="-{_TORQUE} {_TORQUE}" '
        f'ctrlrange="0 {TRAVEL[motor]}"/>'
        for motor, name in enumerate(MOTORS)
    )
