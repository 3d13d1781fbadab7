"""Starts the arm of a real robot: the launch file of its manufacturer, and the controller that follows target_pose.

And what makes TF of the descriptions of arm and hand.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from dex_rl_nodes.config import Robot, is_simulated
from dex_rl_nodes.drivers.settings import ArmDevice, device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import Value
from dex_rl_nodes.paths import config_directory
from dex_rl_nodes.process import Process, is_installed
from dex_rl_nodes.robot.urdf import arm_urdf, hand_urdf

_FLANGE = ('_link8', '_flange')  # ends of its names in the manufacturer's description
_PATIENCE = '120'  # s, of the spawner with the controller manager: the arm may have to be unlocked first


def arm_bringup(robot: Robot, namespace: str) -> list[Process]:
    """What starts the arm; nothing where `devices.arm.bringup` is empty, for the arm is started elsewhere.

    Raises:
        UserError: the file of the controllers does not exist, or its controller moves another frame than the robot's
            file says.
    """
    arm = device_settings(robot).arm
    if not arm.bringup:
        return []
    controllers = config_directory() / 'controllers' / arm.controllers
    if not controllers.is_file():
        raise UserError(f'config/robots/{robot.name}.yaml: devices.arm.controllers: there is no file {controllers}')
    _check_frame(robot, arm, controllers)
    package, launch_file = arm.bringup.split('/')
    # Never the manufacturer's gripper: with a dexterous hand on the flange its mass and its TCP would be wrong.
    arguments = {
        'robot_type': arm.robot_type,
        'robot_ip': arm.robot_ip,
        'load_gripper': 'false',
        'namespace': namespace,
        'controllers_yaml': str(controllers),
        **arm.arguments,
    }
    words = tuple(f'{name}:={value}' for name, value in arguments.items() if value)
    return [
        Process('arm', launch_file, package, is_node=False, is_launch_file=True, arguments=words),
        Process(
            f'spawner_{arm.controller}',
            'spawner',
            'controller_manager',
            arguments=(arm.controller, '--controller-manager-timeout', _PATIENCE),
            namespace=namespace,
            may_end=True,
        ),
    ]


def _check_frame(robot: Robot, arm: ArmDevice, controllers: Path) -> None:
    """UserError when the controller would move the flange where the TCP shall be, or the other way round."""
    try:
        blocks = yaml.safe_load(controllers.read_text())
        own = next(block[arm.controller] for block in blocks.values() if arm.controller in block)
        frame = str(own['ros__parameters']['end_effector_frame'])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, StopIteration):
        raise UserError(
            f'{controllers} gives no end_effector_frame to {arm.controller}; what it moves to target_pose must be known'
        ) from None
    moves = 'flange' if frame.endswith(_FLANGE) else 'tcp'
    if moves != arm.controller_frame:
        raise UserError(
            f'{controllers} moves {frame} to target_pose, but config/robots/{robot.name}.yaml says '
            f'devices.arm.controller_frame: {arm.controller_frame}; the arm would go wrong by the length of the hand'
        )


def frame_publishers(values: Mapping[str, Value]) -> list[Process]:
    """TF from joint_states and the descriptions of the robot, where robot_state_publisher is installed.

    A real arm is described by its own bring-up. The wheels hold nothing that reads or writes TF.

    Args:
        values: of the arguments robot, namespace and lockstep.
    """
    if not is_installed('robot_state_publisher'):
        return []
    simulated, publisher = is_simulated(str(values['robot'])), 'robot_state_publisher'
    texts = {'hand': hand_urdf(with_camera=simulated)} | ({'robot': arm_urdf()} if simulated else {})
    return [
        Process(
            f'{publisher}_{part}',
            publisher,
            publisher,
            parameters={'robot_description': text, 'use_sim_time': bool(values['lockstep'])},
            remaps=(('robot_description', f'{publisher}/{part}_description'),),  # it says again what it was told
            namespace=str(values['namespace']),
        )
        for part, text in texts.items()
    ]
