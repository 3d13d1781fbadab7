"""command_mux over DDS: what stops the robot for good, and how it is reset."""

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from mux_bench import FORWARD, HAND, Bench, Live, position, ros  # noqa: E402, F401

from dex_rl_nodes.descriptions import HAND_COMMAND  # noqa: E402
from dex_rl_nodes.nodes import qos  # noqa: E402
from dex_rl_nodes.nodes.publishers import other_publisher  # noqa: E402
from dex_rl_nodes.records import ActionCommand  # noqa: E402


def test_a_second_publisher_latches_a_stop_that_is_reset_when_it_is_gone(ros):  # noqa: F811
    bench = ros(Live)
    bench.moving()
    intruder = rclpy.create_node('joystick')
    intruder.create_publisher(PoseStamped, 'target_pose', 1)
    bench.until(lambda: bench.executed()[-1].stopped)
    bench.until(lambda: bench.safety() and bench.safety()[0] == DiagnosticStatus.ERROR)
    assert bench.safety()[1].startswith('safety event 501: somebody else commands the robot (joystick on target_pose)')
    assert np.allclose(position(bench.received['target_pose'][-1]), bench.pose, atol=1e-6)
    refused = bench.call('command_mux/reset_stop')
    assert not refused.success and 'joystick' in refused.message
    intruder.destroy_node()
    bench.until(lambda: not other_publisher(bench.node, ('target_pose', HAND_COMMAND)))
    assert bench.call('command_mux/reset_stop').success
    bench.until(lambda: not bench.executed()[-1].stopped and bench.executed()[-1].action[0] == 0.5)


def test_nothing_moves_before_a_second_publisher_is_gone(ros):  # noqa: F811
    intruder = rclpy.create_node('command_mux')
    intruder.create_publisher(PoseStamped, 'target_pose', 1)
    bench = ros(Bench, True, teleop_required=False)
    bench.until(lambda: bench.node._intruder)
    bench.run_episode(10**9)
    bench.states(10**9)
    bench.send('action_command', ActionCommand(10**9, 0, 0, FORWARD))
    bench.until(lambda: bench.safety() and bench.safety()[1].startswith('safety event 501'))
    assert 'another command_mux on target_pose' in bench.safety()[1]
    assert bench.executed() == [] and bench.received['target_pose'] == []
    intruder.destroy_node()
    bench.until(lambda: bench.executed())
    assert bench.executed()[0].action[0] == 0.5 and not bench.executed()[0].stopped


def test_a_person_stops_the_robot_with_a_service(ros):  # noqa: F811
    bench = ros(Live)
    bench.moving()
    assert '503' in bench.call('command_mux/stop').message
    bench.until(lambda: bench.executed()[-1].stopped)
    assert bench.call('command_mux/reset_stop').success
    bench.until(lambda: not bench.executed()[-1].stopped)


def test_a_fault_a_driver_cannot_clear_latches_a_stop(ros):  # noqa: F811
    bench = ros(Live)
    publisher = bench.peer.create_publisher(DiagnosticArray, '/diagnostics', qos.PROFILES['DIAGNOSTICS'])
    fault = [KeyValue(key='fault', value='index: over-temperature')]
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR, name='hand_driver: hand', values=fault)
    bench.until(lambda: publisher.get_subscription_count() >= 2)
    for report in range(3):
        assert not bench.node._mux.stopped
        publisher.publish(DiagnosticArray(status=[status]))
        bench.until(lambda n=report: bench.node._faults._counts.get('hand_driver: hand') == n + 1)
    bench.until(lambda: bench.node._mux.stopped)
    assert '502' in bench.node._mux.stop_reason and 'over-temperature' in bench.node._mux.stop_reason


def test_a_motor_with_too_much_current_is_not_pushed_further(ros):  # noqa: F811
    bench = ros(Live)
    bench.effort = [0.0, 0.0, 1.5, 0.0, 0.0, 0.0]
    bench.command_hand = HAND + np.float32(0.1)
    bench.until(lambda: bench.executed() and bench.executed()[-1].limited)
    assert np.allclose(bench.executed()[-1].hand_target, HAND + np.array([0.1, 0.1, 0, 0.1, 0.1, 0.1]), atol=1e-6)
