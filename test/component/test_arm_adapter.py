"""arm_adapter with the real command_mux: the way to the start pose, and what ends it."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from arm_lab import GOAL, TASK, FakeArm, impatient, lab, no_franka_msgs  # noqa: F401
from harness import DEADLINE, bench, ros  # noqa: F401

from dex_rl_nodes.descriptions import CURRENT_POSE, MEASURED_JOINTS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.node import WARN
from dex_rl_nodes.records import (
    ActionCommand,
    EpisodeState,
    Phase,
)
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.robot.arm_state import ArmMode
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.tool import flange_of, tcp_of


def test_the_robot_is_brought_to_the_start_of_the_seed(lab):
    lab = lab()
    answer = lab.answer(lab.reset())
    assert answer.success, answer.message
    assert np.linalg.norm(lab.pose[:3] - GOAL[:3]) < 0.003
    assert np.linalg.norm(rotations.difference(lab.pose[3:], GOAL[3:])) < 0.02
    assert np.allclose(answer.hand_target, TASK.start.hand) and np.allclose(lab.hand, TASK.start.hand, atol=1e-6)
    assert np.allclose(conversions.pose_array(answer.start_pose)[:3], GOAL[:3], atol=0.003)
    heights = [tcp_of(conversions.pose_array(message.pose))[2] for message in lab.targets]
    assert max(heights) > GOAL[2] + 0.045, 'it came from above'
    heard = len(lab.targets)
    lab.table.until(lambda: len(lab.targets) > heard + 2, 'the targets are repeated until the episode runs')
    lab.table.run_episode(stamp=time.time_ns())
    lab.table.until(lambda: lab.table.node._motion is None, 'the adapter lets go')
    lab.table.until(lambda: lab.mux._fresh, 'the mux waits for the policy')
    assert not lab.mux._mux.stopped


def test_a_reset_that_is_called_off_moves_nothing_any_more(lab):
    lab = lab()
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    lab.table.send('episode', EpisodeState(time.time_ns(), 0, Phase.PAUSED))
    assert 'called off' in lab.answer(future).message
    lab.table.until(lambda: lab.mux._fresh, 'the hold of the mux')
    before = lab.mux._mux.target_pose
    lab.mux._on_reset_command(ActionCommand(time.time_ns(), 0, 99, np.ones(6, np.float32), np.zeros(6, np.float32)))
    assert np.array_equal(lab.mux._mux.target_pose, before)
    future = lab.reset(episode=1)
    lab.table.until(lambda: lab.table.node._target is not None, 'the next reset')
    lab.table.send('episode', EpisodeState(time.time_ns(), 1, Phase.PAUSED))
    lab.answer(future)


def test_a_latched_stop_is_not_overruled(lab, impatient):
    lab = lab()
    lab.table.until(lambda: not lab.mux._reports.missing(), 'reports of the robot')
    lab.mux._stop(SafetyEvent.OPERATOR_STOP)
    answer = lab.answer(lab.reset())
    assert not answer.success and 'command_mux does not follow' in answer.message
    assert not lab.targets, 'nothing moved'
    told = []
    adapter = lab.table.node
    adapter.report = lambda name, level, message, **values: told.append((name, level, message))
    adapter.diagnose()
    assert told[0] == ('reset', WARN, answer.message), 'a person who comes later sees why it stands'


def test_without_reports_the_answer_names_what_is_silent(lab, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    lab = lab(with_mux=False)
    lab.silent = True
    answer = lab.answer(lab.reset())
    assert not answer.success
    assert f'{CURRENT_POSE} and {MEASURED_JOINTS} and {HAND_TOPIC} does not report' in answer.message


def test_an_arm_that_reports_another_point_than_the_tcp_is_not_moved(lab):
    lab = lab()
    lab.joints()
    tcp, lab.joints = lab.pose, lambda: lab.posture
    lab.pose = flange_of(tcp)
    answer = lab.answer(lab.reset())
    assert not answer.success and 'from where the joints put the TCP; set the end effector' in answer.message
    assert not lab.targets


def test_a_second_request_replaces_the_first(lab):
    lab = lab(scene='person', start=(0, 0, 0))
    first = lab.reset()
    adapter = lab.table.node
    lab.table.until(lambda: adapter._stage is not None, 'the first request')
    second = lab.reset()
    assert lab.answer(first).message == 'another reset was asked for'
    lab.table.until(lambda: adapter._stage == adapter._wait_for_scene, 'the wait for the person')
    assert lab.table.call('arm_adapter/scene_ready').success
    assert lab.answer(second).success


def test_a_start_outside_of_the_workspace_is_refused_at_once(lab, monkeypatch):
    lab = lab(with_mux=False)
    monkeypatch.setitem(lab.table.node.__dict__, 'task', TASK.model_copy(update={'workspace_high': [0.4, 0.3, 0.5]}))
    answer = lab.answer(lab.reset())
    assert not answer.success and 'outside the workspace' in answer.message


def test_the_missing_package_is_named_on_diagnostics(lab):
    lab = lab(with_mux=False)
    heard = lab.table.listen('/diagnostics')

    def said():
        return [s.message for array in heard for s in array.status if s.name == 'arm_adapter: arm']

    lab.table.until(said, 'diagnostics of the arm', DEADLINE)
    assert 'franka_msgs.msg is not installed' in said()[0]


# While a person puts the scene back


@pytest.mark.parametrize('stage', ['_wait_for_reports', '_wait_for_recovery', '_wait_for_motion', '_wait_for_scene'])
def test_a_pause_ends_every_stage(lab, stage):
    arm = FakeArm(ArmMode.REFLEX if stage == '_wait_for_recovery' else ArmMode.MOVE)
    far = (0.02, 0.03, -0.06) if stage == '_wait_for_motion' else (0, 0, 0)
    lab = lab(arm=arm, scene='person', start=far)
    lab.silent = stage == '_wait_for_reports'
    future = lab.reset()
    lab.until_stage(stage)
    lab.table.until(lambda: lab.table.node._begun, 'the announcement')
    lab.announce(Phase.PAUSED)
    assert 'called off' in lab.answer(future).message
    lab.silent, arm.mode = False, ArmMode.MOVE
    assert lab.table.node._motion is None and lab.table.node._stage is None
    assert arm.cancelled == (stage == '_wait_for_recovery')
    assert not lab.table.call('arm_adapter/scene_ready').success


def test_a_request_waits_for_its_announcement(lab, monkeypatch):
    lab = lab(start=(0, 0, 0))
    lab.announce(Phase.PAUSED)
    lab.table.until(lambda: lab.table.node.episode.phase == Phase.PAUSED, 'the pause')
    future = lab.ask()
    lab.until_stage('_wait_for_reports')
    lab.table.until(lambda: not lab.table.node._silent(), 'reports')
    lab.table.node._cycle()
    assert lab.table.node._stage == lab.table.node._wait_for_reports and not lab.targets
    lab.announce(Phase.RESETTING)
    assert lab.answer(future).success
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    assert 'episode 7 is not announced; see episode_manager' in lab.answer(lab.ask(7)).message


def test_reports_that_end_on_the_way_are_named(lab, impatient):
    lab = lab(clearance=0.2)
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    lab.silent = True
    assert 'does not report any more' in lab.answer(future).message


def test_a_motion_that_command_mux_holds_is_told(lab, impatient):
    lab = lab(clearance=0.2)
    future = lab.reset()
    lab.table.until(lambda: lab.table.node._asked, 'motion')
    lab.mux._mux.watch.fault('the door', (SafetyEvent.HARDWARE_ERROR, 'open'))
    assert 'command_mux holds the arm' in lab.answer(future).message


# Mode and errors of the arm


def test_a_dry_run_starts_where_the_robot_is(lab):
    lab = lab(dry_run=True)
    pose, hand = lab.pose.copy(), lab.hand.copy()
    answer = lab.answer(lab.reset())
    assert answer.success, answer.message
    assert np.allclose(conversions.pose_array(answer.start_pose), pose) and np.allclose(answer.hand_target, hand)
    assert not lab.targets and not lab.hand_targets and lab.table.node._motion is None


def test_a_dry_run_recovers_nothing(lab):
    arm = FakeArm(ArmMode.REFLEX, 'joint_reflex')
    lab = lab(arm=arm, dry_run=True)
    assert 'safety event 511' in lab.answer(lab.reset()).message and not arm.recoveries
