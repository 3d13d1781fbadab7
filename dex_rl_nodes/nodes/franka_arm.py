"""The parts of franka_ros2 that need its own message types: the state of the arm, and recovery from its errors.

Names are those of franka_ros2 2.5 (Humble) and 3.4 (Jazzy). An error that comes while the arm is controlled is never
told: libfranka throws instead of handing the state out, and the hardware is read no more. From then on the controllers,
still active, repeat the last state (Humble), or all topics of the arm are silent (Jazzy). So a state whose robot clock
stands still is none, and the controller is deactivated first.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Duration
from lifecycle_msgs.msg import State
from rclpy.action import ActionClient
from rclpy.serialization import deserialize_message

from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.records import ArmState
from dex_rl_nodes.robot.arm_state import read_arm_state

ROBOT_STATE = 'franka_robot_state_broadcaster/robot_state'
_RECOVERY = 'action_server/error_recovery'
_SERVICES = {
    'set_hardware_component_state': 'SetHardwareComponentState',
    'switch_controller': 'SwitchController',
}
_HARDWARE = 'FrankaHardwareInterface'
_BROADCASTERS = ('joint_state_broadcaster', 'franka_robot_state_broadcaster')
_BEST_EFFORT = 1  # SwitchController: one controller that is already there does not spoil the others
_SWITCHED = 5  # s, longest switch; its own default of 1 s is short for a start of torque control


def _importable(*packages: str) -> str:
    """The first package that is not installed; empty when all are."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            return package
    return ''


class FrankaArm:
    """Reads the state of the arm and recovers it.

    The state comes a thousand times a second and is large, so its bytes are kept and only read when somebody asks.

    Args:
        node: whose namespace the arm is in.
        controller: the controller that follows target_pose.
    """

    def __init__(self, node: Node, controller: str):
        self.missing = _importable('franka_msgs.msg', 'franka_msgs.action', 'controller_manager_msgs.srv')
        self.working = False  # on a recovery
        self._round = 0  # number of the recovery
        self._node, self._controller = node, controller
        self._bytes = b''
        self._robot_time = math.nan  # s, its clock in the newest state
        if self.missing:
            return
        self._kind = conversions.interface('franka_msgs/msg/FrankaRobotState')
        node.create_subscription(self._kind, ROBOT_STATE, self._keep, qos.PROFILES['SENSOR'], raw=True)
        recovery = conversions.interface('franka_msgs/action/ErrorRecovery')
        self._recovery, self._goal = ActionClient(node, recovery, _RECOVERY), recovery.Goal
        self._managing = {
            service: node.create_client(
                conversions.interface(f'controller_manager_msgs/srv/{kind}'), f'controller_manager/{service}'
            )
            for service, kind in _SERVICES.items()
        }

    def _keep(self, data: bytes) -> None:
        self._bytes = data

    def take(self, stamp: int) -> ArmState | None:
        """The newest state, dated `stamp` (ns); None when no other one came. ValueError: as read_arm_state."""
        data, self._bytes = self._bytes, b''
        if not data:
            return None
        message = deserialize_message(data, self._kind)
        state = read_arm_state(message, stamp)
        before, self._robot_time = self._robot_time, float(getattr(message, 'time', math.nan))
        return None if self._robot_time == before else state

    def recover(self, done: Callable[[str], None]) -> None:
        """Clear the error and activate hardware and controllers again; calls `done` with what failed, '' if nothing.

        Another one that is still under way is called off.
        """
        self.cancel()
        mine, self.working = self._round, True
        first = ''  # what was wrong with the recovery itself

        def step(function: Callable[..., None]) -> Callable[..., None]:
            """Nothing when the recovery was called off while the step before was waited for."""
            return lambda *said: function(*said) if self._round == mine else None

        @step
        def clear(_ignored: str = '') -> None:  # a controller that was not active any more is no failure
            self._clear(activate_hardware)

        @step
        def activate_hardware(problem: str = '') -> None:
            # the action fails where there is no error any more, and the start of torque control recovers by itself
            nonlocal first
            first = problem
            target = {'name': _HARDWARE, 'target_state': State(id=State.PRIMARY_STATE_ACTIVE, label='active')}
            self._ask('set_hardware_component_state', activate, finish, **target)

        @step
        def activate() -> None:
            self._switch(finish, finish, activate_controllers=[self._controller, *_BROADCASTERS])

        @step
        def finish(problem: str = '') -> None:
            self.working = False
            done(', '.join(part for part in (first, problem) if part) if problem else '')

        self._switch(clear, clear, deactivate_controllers=[self._controller])

    def cancel(self) -> None:
        """Begin no further step of a recovery, and do not call back: a person may be at the arm by now."""
        self._round += 1
        self.working = False

    def _clear(self, then: Callable[[str], None]) -> None:
        if not self._recovery.server_is_ready():
            then(f'{_RECOVERY} does not answer')
            return

        def accepted(goal: Any) -> None:
            if not goal.accepted:
                then(f'{_RECOVERY} refused')
                return
            self._node.when_done(goal.get_result_async(), ended)

        def ended(result: Any) -> None:
            succeeded = result.status == 4  # action_msgs/GoalStatus STATUS_SUCCEEDED
            then('' if succeeded else f'{_RECOVERY} failed')

        self._node.when_done(self._recovery.send_goal_async(self._goal()), accepted)

    def _switch(self, then: Callable[[], None], fail: Callable[[str], None], **controllers: list[str]) -> None:
        timeout = Duration(sec=_SWITCHED)
        self._ask('switch_controller', then, fail, strictness=_BEST_EFFORT, timeout=timeout, **controllers)

    def _ask(self, service: str, then: Callable[[], None], fail: Callable[[str], None], /, **fields: Any) -> None:
        client = self._managing[service]
        if not client.service_is_ready():
            fail(f'controller_manager/{service} does not answer')
            return

        def answered(answer: Any) -> None:
            then() if answer.ok else fail(f'controller_manager/{service} refused')

        self._node.ask(client, client.srv_type.Request(**fields), answered)
