"""The graph of the robot on emulated devices: teleop and recording through the bytes of hand, glove and SpaceMouse."""

import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('mujoco')
pytest.importorskip('torch')

from rclpy.executors import SingleThreadedExecutor
from tiny_run import DOMAIN, SETTINGS, make_run, start

from dex_rl_nodes.config import EMULATED
from dex_rl_nodes.descriptions import GLOVE, HAND_COMMAND, HAND_JOINTS, JOY, TOPICS, TWIST
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.recording.messages import deserialise
from dex_rl_nodes.recording.reader import BagReader, bag_folders, next_folder
from dex_rl_nodes.recording.spool import SUFFIX, read_transitions
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import HAND_JOINTS as JOINTS
from dex_rl_nodes.records import Origin, Phase, Source
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.hand import TRAVEL
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sole_graph import device_folder
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop

DEADLINE = 150  # s


class Watcher:
    """Listens to the graph until the operator has moved the hand."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node('watcher', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.latest = {}
        for topic in (HAND_JOINTS, HAND_COMMAND, GLOVE, 'joint_states'):
            message = conversions.interface(TOPICS[topic].type)
            profile = qos.profile(TOPICS[topic].qos)
            self.node.create_subscription(message, topic, lambda got, topic=topic: self._hear(topic, got), profile)
        self.heard = Counter()  # messages by topic
        self.moved = 0.0  # normalised travel since the glove was first heard; a reset moves the hand without it
        self.apart = np.inf  # least difference between what the driver says and the simulated joints

    def _hear(self, topic, message):
        self.latest[topic] = message
        self.heard[topic] += 1
        if topic == HAND_JOINTS and 'joint_states' in self.latest:
            simulated = conversions.joint_positions(self.latest['joint_states'], JOINTS) / TRAVEL
            self.apart = min(self.apart, float(np.abs(simulated - np.array(message.position)).max()))
            if self.heard[GLOVE]:
                start = self.latest.setdefault('start', np.array(message.position))
                self.moved = max(self.moved, float(np.abs(np.array(message.position) - start).max()))

    def has_seen_enough(self):
        return self.moved > 0.2 and self.apart < 0.02 and min(self.heard[GLOVE], self.heard[HAND_COMMAND]) > 20

    def until(self, condition, graph):
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end and graph.poll() is None, f'not within {DEADLINE} s: {vars(self)}'
            self.executor.spin_once(timeout_sec=0.1)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def _recorded(folder: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for message in BagReader(folder):
        found.setdefault(message.topic.strip('/'), []).append(message)
    return found


@pytest.fixture
def watcher(monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    monkeypatch.setenv('ROS_DOMAIN_ID', str(DOMAIN))
    watcher = Watcher()
    yield watcher
    watcher.close()


def test_the_operator_moves_the_simulated_hand_through_real_protocols(tmp_path, watcher):
    folder = Path(device_folder({}))
    words = ('robot:=fr3_ruiyan', 'devices:=emulated', 'run:=emulated', 'episodes:=1')
    log = tmp_path / 'log.txt'
    with log.open('w') as file, start(tmp_path, 'collect_demos', *words, stdout=file, lockstep=False) as graph:
        try:
            watcher.until(watcher.has_seen_enough, graph)
            assert {path.name for path in folder.iterdir()} == {'hand', 'glove', 'spacemouse'}
            graph.send_signal(signal.SIGINT)
            graph.wait(DEADLINE)
        finally:
            graph.terminate()
    said = log.read_text()
    assert graph.returncode == 0, said
    assert not folder.exists()
    assert watcher.apart < 0.02
    (bag,) = bag_folders(tmp_path / 'emulated' / 'bags' / 'demos')
    recorded = _recorded(bag)
    counts = {topic: len(recorded.get(topic, ())) for topic in (HAND_JOINTS, HAND_COMMAND, GLOVE, JOY, TWIST)}
    assert min(counts.values()) > 5, counts
    actions = [deserialise(message.data, message.type_name) for message in recorded['executed_action']]
    assert {Source.HAND, Source.BOTH} & {action.source for action in actions}, 'the operator took the hand over'
    states = [deserialise(message.data, message.type_name) for message in recorded['episode']]
    assert Phase.RUNNING in {state.phase for state in states}
    assert 'safety event 5' not in said, said  # those latch a stop


def test_online_learning_runs_through_real_protocols(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    settings, steps = replace(SETTINGS, robot=f'fr3_ruiyan{EMULATED}'), 30
    job = Job(make_run('online', settings), settings)
    loop = Loop(job.task, job.robot, operator=ScriptedOperator(job.task, job.robot, 'demonstrate'))
    with BagWriter(next_folder(job.run.bags('demos'))) as bag:
        loop.episode(0, start_seed(job.task, 'demos', settings.seed, 0), 'demos', bag)
    loop.close()
    words = ('robot:=fr3_ruiyan', 'devices:=emulated', 'run:=online', 'prepare:=false', f'steps:={steps}')
    log = tmp_path / 'log.txt'
    with log.open('w') as file, start(tmp_path, 'online_rl', *words, stdout=file, lockstep=False) as graph:
        try:
            graph.wait(DEADLINE)
        finally:
            graph.terminate()
    said = log.read_text()
    assert graph.returncode == 0, said
    assert f'{steps} of {steps} steps' in said and 'safety event 5' not in said, said
    transitions = list(read_transitions(job.run))
    assert [transition.sequence for transition in transitions] == list(range(1, len(transitions) + 1))
    assert sum(transition.source != Origin.RETRACTION for transition in transitions) == steps
    (bag,) = (folder for folder in bag_folders(job.run.bags('online')) if not folder.name.endswith(SUFFIX))
    recorded = _recorded(bag)
    counts = {topic: len(recorded.get(topic, ())) for topic in (HAND_JOINTS, HAND_COMMAND, GLOVE, JOY, TWIST)}
    assert min(counts.values()) > 5, counts
