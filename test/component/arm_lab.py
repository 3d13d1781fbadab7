"""Arm, hand, command_mux and episode_manager around arm_adapter; fixtures of its tests."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from dex_rl_nodes.srv import ResetScene
from harness import bench  # noqa: F401
from rclpy.parameter import Parameter

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, MEASURED_JOINTS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions, franka_arm
from dex_rl_nodes.nodes.arm_adapter import ArmAdapter
from dex_rl_nodes.nodes.command_mux import CommandMuxNode
from dex_rl_nodes.records import (
    ARM_JOINTS,
    HAND_JOINTS,
    ArmState,
    EpisodeState,
    Phase,
)
from dex_rl_nodes.robot import hand_model, kinematics, rotations
from dex_rl_nodes.robot.arm_state import ArmMode
from dex_rl_nodes.robot.start import draw_start
from dex_rl_nodes.robot.tool import tcp_of

ROBOT, TASK = load_robot('fr3_ruiyan'), load_task('pull_tissue')
SEED = 42
GOAL = draw_start(TASK.start, np.random.default_rng(SEED))
QUICK = {'robot': 'fr3_ruiyan', 'scene': 'as_is', 'speed': 0.3}


class Lab:
    """Arm and hand that go where they are told, command_mux, and whoever prepares episodes."""

    def __init__(self, bench, arm=None, with_mux=True, start=(0.02, 0.03, -0.06), **parameters):
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
def lab(bench):
    labs = []

    def make(**options):
        labs.append(Lab(bench, **options))
        return labs[-1]

    yield make
    for made in labs:
        made.close()
