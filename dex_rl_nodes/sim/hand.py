"""The hand of robot/hand_model.py as MJCF."""

from dex_rl_nodes.robot.hand_model import (
    DISTAL_TRAVEL,
    FINGER_BASE,
    FINGER_RADIUS,
    FINGERS,
    FLANGE_TURN,
    JOINT_NAMES,
    MOTORS,
    PALM,
    TCP,
    THUMB_BASE,
    THUMB_LINKS,
    THUMB_RADIUS,
    THUMB_REACH,
    TRAVEL,
    WRIST,
)

__all__ = ['DISTAL_TRAVEL', 'JOINT_NAMES', 'MOTORS', 'SPEED', 'TRAVEL', 'actuators', 'couplings', 'defaults', 'mjcf']

# Speed at which the drivers run the motors (full travels per second).
SPEED = 2.0

_TORQUE = 1.2  # largest motor torque (N m)


def _joint(name: str, axis: str, travel: float) -> str:
    return f'<joint name="{name}" axis="{axis}" range="0 {travel}" class="hand"/>'


def _finger(name: str) -> str:
    y, proximal, distal = FINGERS[name]
    motor = MOTORS.index(name)
    return (
        f'<body name="{name}" pos="0 {y} {FINGER_BASE}" gravcomp="1">'
        f'{_joint(name, "0 1 0", TRAVEL[motor])}'
        f'<geom class="finger" fromto="0 0 0 0 0 {proximal}" size="{FINGER_RADIUS}" mass="0.02"/>'
        f'<body name="{name}_distal" pos="0 0 {proximal}" gravcomp="1">'
        f'{_joint(name + "_distal", "0 1 0", DISTAL_TRAVEL[motor])}'
        f'<geom name="{name}_tip" class="fingertip" fromto="0 0 0 0 0 {distal}" size="{FINGER_RADIUS}" mass="0.015"/>'
        '</body></body>'
    )


def _thumb() -> str:
    out, along = THUMB_REACH
    proximal, distal = THUMB_LINKS
    x, y, z = THUMB_BASE
    return (
        f'<body name="thumb_rotation" pos="{x} {y} {z}" gravcomp="1">'
        f'{_joint("thumb_rotation", "0 0 -1", TRAVEL[0])}'
        f'<geom class="thumb" fromto="0 0 0 0 {out} {along}" size="{THUMB_RADIUS}" mass="0.04"/>'
        f'<body name="thumb_bend" pos="0 {out} {along}" gravcomp="1">'
        f'{_joint("thumb_bend", "1 0 0", TRAVEL[1])}'
        f'<geom class="thumb" fromto="0 0 0 0 0 {proximal}" size="{THUMB_RADIUS}" mass="0.02"/>'
        f'<body name="thumb_bend_distal" pos="0 0 {proximal}" gravcomp="1">'
        f'{_joint("thumb_bend_distal", "1 0 0", DISTAL_TRAVEL[1])}'
        f'<geom name="thumb_tip" class="thumbtip" fromto="0 0 0 0 0 {distal}" size="{THUMB_RADIUS}" mass="0.015"/>'
        '</body></body></body>'
    )


def mjcf(camera: str) -> str:
    """MJCF of the hand on the flange; `camera` is written in the hand frame."""
    fingers = ''.join(_finger(name) for name in FINGERS)
    (radius, length), (height, size) = WRIST, PALM
    return (
        f'<body name="hand" euler="0 0 {FLANGE_TURN}" gravcomp="1">'
        f'<geom class="palm" type="cylinder" fromto="0 0 0 0 0 {length}" size="{radius}" mass="0.15"/>'
        f'<geom class="palm" type="box" pos="0 0 {height}" size="{size[0]} {size[1]} {size[2]}" mass="0.25"/>'
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
