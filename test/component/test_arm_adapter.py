"""arm_adapter with the real command_mux, between peers that stand in for arm, hand and episode_manager."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from dex_rl_nodes.srv import ResetScene  # noqa: E402
from harness import DEADLINE, bench, ros  # noqa: E402, F401
from rclpy.parameter import Parameter  # noqa: E402

from dex_rl_nodes.config import load_robot, load_task  # noqa: E402
from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, MEASURED_JOINTS  # noqa: E402
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC  # noqa: E402
from dex_rl_nodes.nodes import conversions, franka_arm  # noqa: E402
from dex_rl_nodes.nodes.arm_adapter import ArmAdapter  # noqa: E402
from dex_rl_nodes.nodes.command_mux import CommandMuxNode  # noqa: E402
from dex_rl_nodes.records import (  # noqa: E402
    ARM_JOINTS,
    HAND_JOINTS,
    ActionCommand,
    ArmState,
    EpisodeState,
    Mark,
    Phase,
    TeleopCommand,
)
from dex_rl_nodes.robot import hand_model, kinematics, rotations  # noqa: E402
from dex_rl_nodes.robot.arm_state import ArmMode  # noqa: E402
from dex_rl_nodes.robot.events import SafetyEvent  # noqa: E402
from dex_rl_nodes.robot.start import draw_start  # noqa: E402
from dex_rl_nodes.robot.tool import flange_of, tcp_of  # noqa: E402

ROBOT, TASK = load_robot('fr3_ruiyan'), load_task('pull_tissue')
SEED = 42
GOAL = draw_start(TASK.start, np.random.default_rng(SEED))
QUICK = {'robot': 'fr3_ruiyan', 'scene': 'as_is', 'speed': 0.3}


class Lab:
    """Arm and hand that go where they are told, command_mux, and whoever prepares episodes."""

    def __init__(self, bench, arm=None, with_mux=True, start=(0.02, 0.03, -0.06), **parameters):  # noqa: F811
        self.table = bench(ArmAdapter, arm, lockstep=False, **{**QUICK, **parameters})
        self.pose = GOAL.copy()
        self.pose[:3] += start
        self.hand = np.full(6, 0.3)
        self.posture = kinematics.HOME.copy()
        self.silent = self.held = False  # nothing reports; a person holds the arm
        self.arm_state = None  # mode and errors that the arm reports
        self.mux = None
        if with_mux:
            overrides = [Parameter(name, value=self.table.node.setting(name)) for name in ('robot', 'dry_run')]
            self.mux = CommandMuxNode(parameter_overrides=overrides)
            self.table.executor.add_node(self.mux)
        self.targets = self.table.listen('target_pose')
        self.hand_targets = self.table.listen(HAND_COMMAND)
        self.client = self.table.peer.create_client(ResetScene, 'reset_scene')
        self.table.peer.create_timer(0.01, self.report)

    def report(self):
        """The robot is where it was told to be."""
        if self.silent:
            return
        if self.targets and not self.held:
            self.pose = tcp_of(conversions.pose_array(self.targets[-1].pose))  # the controller moves the flange
        if self.hand_targets:
            self.hand = np.array(self.hand_targets[-1].position)
        now = self.table.peer.get_clock().now().nanoseconds
        if self.arm_state:
            self.table.send('arm_state', ArmState(now, *self.arm_state))
        self.table.send(CURRENT_POSE, conversions.pose_stamped(self.pose, now, 'base'))
        self.table.send(MEASURED_JOINTS, conversions.joint_state(ARM_JOINTS, self.joints(), now))
        self.table.send(HAND_TOPIC, conversions.joint_state(HAND_JOINTS, self.hand, now))

    def joints(self):
        """Joint positions that put the TCP where it is."""
        for _ in range(50):
            frame = kinematics.forward(self.posture, hand_model.tool())
            turn = rotations.difference(self.pose[3:], rotations.from_matrix(frame[:3, :3]))
            error = np.concatenate([self.pose[:3] - frame[:3, 3], turn])
            if np.abs(error).max() < 1e-4:
                break
            self.posture += kinematics.joint_motion(kinematics.jacobian(self.posture, frame[:3, 3]), error)
        return self.posture

    def reset(self, episode=0):
        """Announce a reset and ask for it; the future of its answer."""
        self.announce(Phase.RESETTING, episode)
        return self.ask(episode)

    def announce(self, phase, episode=0):
        self.table.send('episode', EpisodeState(time.time_ns(), episode, phase, seed=SEED))

    def ask(self, episode=0):
        self.table.until(self.client.service_is_ready, 'reset_scene')
        return self.client.call_async(ResetScene.Request(episode=episode, seed=SEED, purpose='demos'))

    def answer(self, future):
        self.table.until(future.done, 'an answer of reset_scene')
        return future.result()

    def until_stage(self, name):
        adapter = self.table.node
        self.table.until(lambda: adapter._stage == getattr(adapter, name), name)

    def close(self):
        if self.mux:
            self.table.executor.remove_node(self.mux)
            self.mux.destroy_node()


class FakeArm:
    """State and recovery of an arm, as a test wants them."""

    missing = ''

    def __init__(self, mode, *errors):
        self.mode, self.errors = mode, list(errors)
        self.working = self.silent = False
        self.recoveries, self.cancelled = [], 0

    def take(self, stamp):
        return None if self.silent else ArmState(stamp, self.mode, self.errors)

    def recover(self, done):
        self.working = True
        self.recoveries.append(done)

    def recovered(self, problem=''):
        self.working = False
        if not problem:
            self.mode, self.errors = ArmMode.MOVE, []
        self.recoveries[-1](problem)

    def cancel(self):
        self.cancelled += self.working
        self.working = False


@pytest.fixture(autouse=True)
def no_franka_msgs(monkeypatch):
    """These tests run alike where franka_msgs is installed; test_franka_arm.py is about that."""
    monkeypatch.setattr(franka_arm, '_importable', lambda *packages: packages[0])


@pytest.fixture
def impatient(monkeypatch):
    """For what command_mux does not follow."""
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._FOLLOWED', 1.0)


@pytest.fixture
def lab(bench):  # noqa: F811
    labs = []

    def make(**options):
        labs.append(Lab(bench, **options))
        return labs[-1]

    yield make
    for made in labs:
        made.close()


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


def test_a_reset_that_is_called_off_moves_nothing_any_more(lab):
    lab = lab()
    future = lab.reset()
    lab.table.until(lambda: len(lab.targets) > 2, 'motion')
    lab.table.send('episode', EpisodeState(time.time_ns(), 0, Phase.PAUSED))
    assert 'called off' in lab.answer(future).message
    lab.table.until(lambda: lab.mux._fresh, 'the hold of the mux')
    lab.table.send('reset_command', ActionCommand(time.time_ns(), 0, 99, np.ones(6, np.float32), np.zeros(6)))
    before = lab.mux._mux.target_pose
    future = lab.reset(episode=1)
    lab.table.until(lambda: lab.table.node._target is not None, 'the next reset')
    assert np.linalg.norm(lab.mux._mux.target_pose[:3] - before[:3]) < 0.04
    lab.table.send('episode', EpisodeState(time.time_ns(), 1, Phase.PAUSED))
    lab.answer(future)


def test_a_latched_stop_is_not_overruled(lab, impatient):
    lab = lab()
    lab.table.until(lambda: not lab.mux._reports.missing(), 'reports of the robot')
    lab.mux._stop(SafetyEvent.OPERATOR_STOP)
    answer = lab.answer(lab.reset())
    assert not answer.success and 'command_mux does not follow' in answer.message
    assert not lab.targets, 'nothing moved'


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


def test_a_silent_arm_is_named(lab, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.nodes.arm_adapter._REPORTED', 0.5)
    arm = FakeArm(ArmMode.MOVE)
    arm.silent = True
    lab = lab(arm=arm)
    assert 'robot_state of the arm does not report' in lab.answer(lab.reset()).message


# Dry run


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
