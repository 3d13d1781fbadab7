"""arm_adapter with the real command_mux: what it waits for, a person or a recovery, and what that must not hide."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from arm_lab import GOAL, FakeArm, impatient, lab, no_franka_msgs  # noqa: F401
from harness import bench, ros  # noqa: F401

from dex_rl_nodes.descriptions import CURRENT_POSE, MEASURED_JOINTS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.arm_adapter import ArmAdapter
from dex_rl_nodes.records import (
    Mark,
    Phase,
    TeleopCommand,
)
from dex_rl_nodes.robot.arm_state import ArmMode
from dex_rl_nodes.robot.events import SafetyEvent


def test_a_person_puts_the_scene_back(lab, monkeypatch):
    marks, handle = [], ArmAdapter._on_teleop
    monkeypatch.setattr(ArmAdapter, '_on_teleop', lambda *given: (handle(*given), marks.append(given[1].mark)))
    lab = lab(scene='person', start=(0, 0, 0))
    future = lab.reset()
    adapter = lab.table.node
    lab.table.until(lambda: adapter._stage == adapter._wait_for_scene, 'the wait for the person')
    lab.table.send('teleop_command', TeleopCommand(time.time_ns(), mark=Mark.DISCARD))
    lab.table.until(lambda: marks, 'the mark')
    assert not adapter._ready and not future.done()
    lab.table.send('teleop_command', TeleopCommand(time.time_ns(), mark=Mark.SUCCESS))
    assert lab.answer(future).success
    assert not lab.table.call('arm_adapter/scene_ready').success, 'nobody waits any more'
    future = lab.reset(episode=1)
    lab.table.until(lambda: adapter._stage == adapter._wait_for_scene, 'the wait for the person')
    assert lab.table.call('arm_adapter/scene_ready').success
    assert lab.answer(future).success


def test_a_reflex_on_the_way_latches_a_stop_with_its_number(lab, impatient):
    lab = lab(clearance=0.2)
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    lab.arm_state = 4, ['cartesian_reflex']
    lab.table.until(lambda: lab.mux._mux.stopped, 'the stop')
    assert 'safety event 511: the arm stopped itself (cartesian_reflex)' in lab.mux._mux.stop_reason
    halted = lab.mux._mux.target_pose
    assert 'command_mux does not follow' in lab.answer(future).message
    assert np.allclose(lab.mux._mux.target_pose, halted, atol=1e-9), 'nothing moves until somebody releases the stop'


def test_nothing_begins_to_move_while_the_arm_is_in_its_user_stop(lab):
    lab = lab()
    lab.arm_state = 5, []
    lab.table.until(lambda: lab.mux._mux.holding, 'the user stop')
    assert 'command_mux does not follow' in lab.answer(lab.reset()).message
    assert not lab.targets and not lab.mux._mux.stopped, 'what did not move need not be stopped'
    lab.arm_state = 2, []
    lab.table.until(lambda: not lab.mux._mux.holding, 'the arm to be ready')
    assert lab.answer(lab.reset(episode=1)).success


def test_a_stop_while_a_person_is_waited_for_is_no_start(lab, impatient):
    lab = lab(scene='person', start=(0, 0, 0))
    future = lab.reset()
    lab.until_stage('_wait_for_scene')
    lab.mux._stop(SafetyEvent.OPERATOR_STOP)
    answered = lab.table.node._answered_at
    lab.table.until(lambda: time.monotonic() - answered > 0.5, 'an answer that is too old')
    lab.table.call('arm_adapter/scene_ready')
    answer = lab.answer(future)
    assert not answer.success and 'command_mux does not follow' in answer.message


def test_reports_that_end_while_a_person_is_waited_for_are_no_start(lab, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    lab = lab(scene='person', start=(0, 0, 0))
    future = lab.reset()
    lab.until_stage('_wait_for_scene')
    lab.silent = True
    lab.table.until(lab.table.node._silent, 'silence')
    lab.table.call('arm_adapter/scene_ready')
    answer = lab.answer(future)
    assert not answer.success and f'{CURRENT_POSE} and {MEASURED_JOINTS} and {HAND_TOPIC} does not' in answer.message


def test_an_arm_that_was_pushed_away_is_brought_back(lab):
    lab = lab(scene='person', start=(0, 0, 0))
    future = lab.reset()
    lab.until_stage('_wait_for_scene')
    until = lab.table.node._until
    lab.held, lab.pose = True, lab.pose + np.array([0.03, 0, 0, 0, 0, 0, 0])
    lab.table.until(lab.table.node._lacking, 'the push')
    lab.table.call('arm_adapter/scene_ready')
    lab.until_stage('_wait_for_motion')
    lab.held = False
    answer = lab.answer(future)
    assert answer.success, answer.message
    assert np.linalg.norm(conversions.pose_array(answer.start_pose)[:3] - GOAL[:3]) < 0.005
    assert lab.table.node._until == until, 'the person has no more time than before'


def test_a_user_stop_while_a_person_is_waited_for_is_told(lab):
    arm = FakeArm(ArmMode.MOVE)
    lab = lab(arm=arm, scene='person', start=(0, 0, 0))
    future = lab.reset()
    lab.until_stage('_wait_for_scene')
    arm.mode = ArmMode.USER_STOPPED
    assert 'safety event 512: the user stop of the arm is pressed' in lab.answer(future).message
    arm.mode = ArmMode.MOVE
    assert not lab.table.call('arm_adapter/scene_ready').success


# What ends a reset


def test_a_reflex_is_recovered_before_the_arm_moves(lab):
    arm = FakeArm(ArmMode.REFLEX, 'cartesian_reflex')
    lab = lab(arm=arm)
    future = lab.reset()
    lab.table.until(lambda: arm.recoveries, 'the recovery')
    assert not lab.targets
    arm.recovered()
    answer = lab.answer(future)
    assert answer.success, answer.message
    assert len(arm.recoveries) == 1 and lab.targets and not lab.mux._mux.stopped


def test_a_recovery_that_fails_is_told(lab):
    arm = FakeArm(ArmMode.REFLEX, 'joint_reflex')
    lab = lab(arm=arm)
    future = lab.reset()
    lab.table.until(lambda: arm.recoveries, 'the recovery')
    arm.recovered('error_recovery failed')
    said = 'could not be recovered: error_recovery failed; safety event 511: the arm stopped itself (joint_reflex)'
    assert said in lab.answer(future).message
    assert len(arm.recoveries) == 1 and not lab.targets


def test_a_recovery_that_takes_too_long_is_called_off(lab):
    arm = FakeArm(ArmMode.REFLEX, 'joint_reflex')
    lab = lab(arm=arm, recovery_deadline=1.0)
    assert 'the arm was not recovered within 1 s: safety event 511' in lab.answer(lab.reset()).message
    assert arm.cancelled == 1 and not arm.working


def test_a_user_stop_waits_for_a_person(lab):
    arm = FakeArm(ArmMode.USER_STOPPED)
    answer = (lab := lab(arm=arm)).answer(lab.reset())
    assert not answer.success and 'safety event 512' in answer.message
    assert not arm.recoveries and not lab.targets


def test_a_silent_arm_is_recovered_once_a_person_has_ended_the_pause(lab, monkeypatch):
    """An error while the arm is controlled is silence, and so is the user stop, at which somebody stands."""
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    arm = FakeArm(ArmMode.MOVE)
    arm.silent = True
    lab = lab(arm=arm)
    lab.announce(Phase.PAUSED)
    lab.table.until(lambda: lab.table.node._paused_at, 'a pause')
    paused, at = lab.table.node.episode, lab.table.node._paused_at
    lab.table.node._on_episode(paused)  # told again, because the episode before was discarded in it
    assert lab.table.node._paused_at == at
    arm.silent = False  # it spoke after that pause
    lab.table.until(lambda: not lab.table.node._silent(), 'reports')
    arm.silent = True
    lab.table.until(lab.table.node._silent, 'silence')
    message = lab.answer(lab.reset()).message
    assert message.startswith('robot_state of the arm does not report: the arm stopped itself, its user stop')
    assert not arm.recoveries
    lab.announce(Phase.PAUSED)
    future = lab.reset(episode=1)
    lab.table.until(lambda: arm.recoveries, 'the recovery')
    assert not lab.targets
    arm.recovered()
    lab.table.node._cycle()
    assert lab.table.node._stage == lab.table.node._wait_for_recovery, 'it says nothing yet'
    arm.silent = False
    assert lab.answer(future).success and len(arm.recoveries) == 1


def test_a_silent_arm_is_recovered_once_in_a_reset(lab, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    arm = FakeArm(ArmMode.MOVE)
    arm.silent = True
    lab = lab(arm=arm, recovery_deadline=1.0)
    lab.announce(Phase.PAUSED)
    future = lab.reset()
    lab.table.until(lambda: arm.recoveries, 'the recovery')
    arm.recovered('controller_manager/switch_controller refused')
    said = (
        'could not be recovered: controller_manager/switch_controller refused; robot_state of the arm does not report'
    )
    assert said in lab.answer(future).message and len(arm.recoveries) == 1 and not lab.targets


def test_an_arm_that_falls_silent_on_the_way_latches_a_stop(lab, impatient):
    arm = FakeArm(ArmMode.MOVE)
    lab = lab(arm=arm, clearance=0.2)
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    arm.silent = True
    lab.table.until(lambda: lab.mux._mux.stopped, 'the stop')
    assert lab.mux._mux.stop_reason.startswith('safety event 514: the arm says nothing about itself')
    assert not lab.answer(future).success and not arm.recoveries


# Dry run
