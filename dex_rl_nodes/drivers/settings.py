"""Settings of the device drivers: the `devices:` block of config/robots/*.yaml."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from dex_rl_nodes.config import Model, Robot, is_simulated, load_robot
from dex_rl_nodes.drivers.glove import CHANNELS
from dex_rl_nodes.errors import UserError

Counts = Annotated[list[int], Field(min_length=6, max_length=6)]


class HandDevice(Model):
    """The hand."""

    model: Literal['ruiyan', 'inspire'] = Field(description='protocol of the hand')
    port: str = Field('/dev/dex_hand', description='serial port')
    baud: int = Field(0, ge=0, description='bits per second; 0: probe')
    speed: float = Field(2.0, gt=0, le=5, description='full travels per second')
    current: int = Field(600, gt=0, le=1000, description='Ruiyan: current limit of each motor itself (mA)')
    current_unit: float = Field(0.001, gt=0, description='one count of current feedback (A); calibrate')
    hand_id: int = Field(1, ge=1, le=254, description='Inspire: address of the hand on its bus')
    force: int = Field(500, gt=0, le=1000, description='Inspire: force at which a motor stops (g)')
    rate: float = Field(120.0, gt=0, le=200, description='exchanges per second (Hz)')
    largest_step: float = Field(
        0.05, gt=0, le=1, description='largest change of the target per exchange, normalised travel'
    )
    command_timeout: float = Field(
        0.2, gt=0, le=1, description='silence of hand/command after which the hand stops (s)'
    )


class GloveDevice(Model):
    """The glove."""

    port: str = Field('/dev/dex_glove_right', description='serial port')
    baud: int = Field(115200, gt=0, description='bits per second; USB gloves ignore it')
    registers: Literal[21, 22] = Field(21, description='21 channels, or 22 for the second generation')
    channels: Counts = Field(
        list(CHANNELS[21]), description='channels that drive the hand, in its joint order; with 22 registers others'
    )
    open: Counts = Field(description='counts of these channels with the hand open')
    closed: Counts = Field(description='counts of these channels as a fist')
    rate: float = Field(100.0, gt=0, le=200, description='polls per second (Hz)')
    window: int = Field(10, ge=1, le=100, description='samples averaged')
    largest_step: float = Field(0.1, gt=0, le=1, description='largest change per sample, normalised')

    @model_validator(mode='before')
    @classmethod
    def _channels_of_its_generation(cls, values: Any) -> Any:
        if not isinstance(values, dict) or 'channels' in values or values.get('registers') not in list(CHANNELS):
            return values
        return {**values, 'channels': list(CHANNELS[values['registers']])}


class SpaceMouseDevice(Model):
    """The SpaceMouse, read without spacenavd."""

    path: str = Field('', description='hidraw device; empty: the first SpaceMouse found')
    rate: float = Field(100.0, gt=0, le=250, description='publications per second (Hz)')


class ArmDevice(Model):
    """The arm: what its bring-up (franka_ros2) and its controller are told."""

    robot_ip: str = Field('172.16.0.3', description='address of the arm')
    robot_type: str = Field('fr3', description='robot_type of the bring-up')
    bringup: str = Field(
        'franka_bringup/franka.launch.py',
        pattern='^([^/]+/[^/]+)?$',
        description='package/launch file; empty: the arm is started elsewhere, for example on its own computer',
    )
    arguments: dict[str, str] = Field(
        default_factory=dict, description='more arguments of that launch file, or other names; an empty one is left out'
    )
    controllers: str = Field('fr3_impedance.yaml', description='file in config/controllers/: controllers and gains')
    controller: str = Field('cartesian_impedance_controller', description='the controller that follows target_pose')
    controller_frame: Literal['flange', 'tcp'] = Field(
        'flange', description='what that controller moves to target_pose: the TCP, or the flange (poses are converted)'
    )


class Devices(Model):
    """All devices with a driver of this package."""

    arm: ArmDevice = Field(ArmDevice())
    hand: HandDevice
    glove: GloveDevice
    spacemouse: SpaceMouseDevice = Field(SpaceMouseDevice())
    side: Literal['left', 'right'] = Field('right', description='which hand it is; the glove must be of the same side')

    @model_validator(mode='after')
    def _one_side(self) -> 'Devices':
        other = 'left' if self.side == 'right' else 'right'
        for name, port in (('hand', self.hand.port), ('glove', self.glove.port)):
            if re.search(f'(?<![a-z]){other}(?![a-z])', port.lower()):  # as a word: not in "bright"
                raise ValueError(f'{name}.port {port} is named after the {other} hand, but side is {self.side}')
        return self


def moves_flange(robot: str) -> bool:
    """Whether target_pose of the robot of this name is a pose of the flange, and not of the TCP."""
    return not is_simulated(robot) and device_settings(load_robot(robot)).arm.controller_frame == 'flange'


def device_settings(robot: Robot) -> Devices:
    """The devices of a robot; UserError names the field that is wrong."""
    if not robot.devices:
        raise UserError(
            f'robot "{robot.name}" has no devices in config/robots/{robot.name}.yaml; its drivers cannot start'
        )
    try:
        return Devices.model_validate(robot.devices)
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(['devices', *(str(part) for part in first['loc'])])
        raise UserError(f'config/robots/{robot.name}.yaml: {where}: {first["msg"]}') from None


def motor_current(robot: Robot) -> float:
    """What a motor of the hand of a robot draws at most (A); a Ruiyan hand is told with every command."""
    hand = device_settings(robot).hand
    return hand.current / 1000 if hand.model == 'ruiyan' else 1.0
