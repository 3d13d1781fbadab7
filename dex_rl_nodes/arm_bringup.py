"""Starts the arm of a real robot: the launch file of its manufacturer, and the controller that follows target_pose."""

from dex_rl_nodes.config import Robot
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.paths import config_directory
from dex_rl_nodes.process import Process

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
