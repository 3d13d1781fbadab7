"""State and recovery of the arm with the message types of franka_ros2, where they are installed."""

import threading
import time

import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('franka_msgs')
pytest.importorskip('controller_manager_msgs')

from arm_lab import Lab
from harness import bench, ros  # noqa: F401
from rclpy.action import ActionServer
from rclpy.executors import SingleThreadedExecutor

from dex_rl_nodes.nodes import conversions, franka_arm
from dex_rl_nodes.robot.arm_state import ArmMode

ErrorRecovery = conversions.interface('franka_msgs/action/ErrorRecovery')
FrankaRobotState = conversions.interface('franka_msgs/msg/FrankaRobotState')
SetHardwareComponentState = conversions.interface('controller_manager_msgs/srv/SetHardwareComponentState')
SwitchController = conversions.interface('controller_manager_msgs/srv/SwitchController')


class Arm:
    """What franka_ros2 offers, with one error in it."""

    def __init__(self, mode, *errors, recovers=True):
        self.mode, self.errors, self.recovers = mode, errors, recovers
        self.asked = []
        self.node = rclpy.create_node('arm')
        self.publisher = self.node.create_publisher(FrankaRobotState, franka_arm.ROBOT_STATE, 10)
        self.node.create_timer(0.005, self.report)
        self.server = ActionServer(self.node, ErrorRecovery, 'action_server/error_recovery', self.recover)
        self.node.create_service(SwitchController, 'controller_manager/switch_controller', self.switch)
        self.node.create_service(
            SetHardwareComponentState, 'controller_manager/set_hardware_component_state', self.activate
        )
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def report(self):
        state = FrankaRobotState(robot_mode=int(self.mode), control_command_success_rate=1.0, time=time.monotonic())
        for name in self.errors:
            setattr(state.current_errors, name, True)
            setattr(state.last_motion_errors, name, True)
        self.publisher.publish(state)

    def recover(self, goal):
        self.asked.append('recover')
        if self.recovers:
            goal.succeed()
            self.mode, self.errors = ArmMode.IDLE, ()
        else:
            goal.abort()
        return ErrorRecovery.Result()

    def switch(self, request, response):
        self.asked.append(f'activate {request.activate_controllers}' if request.activate_controllers else 'deactivate')
        if request.activate_controllers and self.mode == ArmMode.IDLE:
            self.mode = ArmMode.MOVE
        response.ok = bool(request.activate_controllers)  # there is nothing active to deactivate
        return response

    def activate(self, request, response):
        self.asked.append(f'{request.name} {request.target_state.label}')
        response.ok = True
        return response

    def close(self):
        self.executor.shutdown()
        self.thread.join(5.0)
        self.node.destroy_node()


@pytest.fixture
def prepared(bench):
    made = []

    def make(*arm, **options):
        made.append(Arm(*arm, **options))
        made.append(Lab(bench, recovery_deadline=2.0))
        lab = made[-1]
        lab.table.until(lambda: lab.table.node._state is not None, 'the state of the arm')
        return made[0], lab

    yield make
    for each in reversed(made):
        each.close()


def test_a_reflex_is_recovered_before_the_arm_moves(prepared):
    arm, lab = prepared(ArmMode.REFLEX, 'cartesian_reflex')
    heard = lab.table.listen('arm_state')
    lab.table.until(lambda: heard, 'arm_state')
    assert (heard[0].mode, list(heard[0].errors)) == (ArmMode.REFLEX, ['cartesian_reflex'])
    answer = lab.answer(lab.reset())
    assert answer.success, answer.message
    controllers = ['cartesian_impedance_controller', 'joint_state_broadcaster', 'franka_robot_state_broadcaster']
    assert arm.asked == ['deactivate', 'recover', 'FrankaHardwareInterface active', f'activate {controllers}']
    assert lab.targets and not lab.mux._mux.stopped


def test_a_recovery_that_fails_is_tried_once_and_told(prepared):
    arm, lab = prepared(ArmMode.REFLEX, 'joint_reflex', recovers=False)
    answer = lab.answer(lab.reset())
    assert not answer.success
    assert (
        'the arm was not recovered within 2 s: safety event 511: the arm stopped itself (joint_reflex)'
        in answer.message
    )
    assert arm.asked.count('recover') == 1 and not lab.targets


def test_a_user_stop_waits_for_a_person(prepared):
    arm, lab = prepared(ArmMode.USER_STOPPED)
    answer = lab.answer(lab.reset())
    assert not answer.success and 'safety event 512: the user stop of the arm is pressed' in answer.message
    assert not arm.asked and not lab.targets


def test_a_reflex_on_the_way_latches_a_stop(prepared):
    arm, lab = prepared(ArmMode.MOVE)
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    arm.mode, arm.errors = ArmMode.REFLEX, ('cartesian_reflex',)
    answer = lab.answer(future)
    assert not answer.success and 'safety event 511' in answer.message
    assert lab.mux._mux.stopped and not arm.asked, 'nobody recovers an arm that has just hit something'
