"""Starts the arm of a real robot: the launch file of its manufacturer, and the controller that follows target_pose.

And what makes TF of the descriptions of arm and hand.
"""

from collections.abc import Mapping

from dex_rl_nodes.config import Robot, is_simulated
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import Value
from dex_rl_nodes.paths import config_directory
from dex_rl_nodes.process import Process, is_installed
from dex_rl_nodes.robot.urdf import arm_urdf, hand_urdf

_PATIENCE = '120'  # s, of the spawner with the controller manager: the arm may have to be unlocked first


def arm_bringup(robot: Robot, namespace: str) -> list[Process]:
    """What starts the arm; nothing where `devices.arm.bringup` is empty, for the arm is started elsewhere.

    Raises:
        UserError: the file of the controllers does not exist.
    """
    arm = device_settings(robot).arm
    if not arm.bringup:
        return []
    controllers = config_directory() / 'controllers' / arm.controllers
    if not controllers.is_file():
        raise UserError(f'config/robots/{robot.name}.yaml: devices.arm.controllers: there is no file {controllers}')
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
