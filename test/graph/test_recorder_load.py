"""replay_recorder as a process of its own, under two 640 x 480 x 30 Hz cameras and all control topics, then killed.

A measurement in real time, so it runs only when asked for:
`DEXRL_LOAD_SECONDS=20 ./dexrl test test/graph/test_recorder_load.py -s` prints what was lost.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')

from transition_parts import episode_parts

from dex_rl_nodes.descriptions import (
    CURRENT_POSE,
    FRONT_IMAGE,
    HAND_JOINTS,
    MEASURED_JOINTS,
    TOPICS,
    WRIST_IMAGE,
)
from dex_rl_nodes.graph import environment
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.recording.reader import BagReader
from dex_rl_nodes.recording.spool import read_transitions
from dex_rl_nodes.records import ActionCommand, EpisodeState, ExecutedAction, Phase, Reward, TeleopCommand
from dex_rl_nodes.run_directory import RunDirectory

SECONDS = float(os.environ.get('DEXRL_LOAD_SECONDS', '0'))
pytestmark = pytest.mark.skipif(not SECONDS, reason='measures in real time; set DEXRL_LOAD_SECONDS')
DOMAIN = int(os.environ['ROS_DOMAIN_ID'])
IMAGES = (FRONT_IMAGE, WRIST_IMAGE)
STATES = (CURRENT_POSE, MEASURED_JOINTS, HAND_JOINTS)
NAMES = {
    'PolicyStep': 'policy_step', 'CoreAction': 'core_action', 'ExecutedAction': 'executed_action',
    'StepResult': 'step_result', 'EpisodeState': 'episode', 'TeleopCommand': 'teleop_command',
    'ActionCommand': 'action_command', 'Reward': 'reward',
}  # fmt: skip


class Load:
    """Publishers of everything that a robot and a graph send, at their rates."""

    def __init__(self, node):
        self._node = node
        topics = (*IMAGES, *STATES, *NAMES.values())
        self._kinds = {topic: conversions.interface(TOPICS[topic].type) for topic in topics}
        self._publishers = {
            topic: node.create_publisher(kind, topic, qos.PROFILES[TOPICS[topic].qos])
            for topic, kind in self._kinds.items()
        }
        random = np.random.default_rng(0)
        ramp = np.linspace(0, 200, 640)[None, :, None]
        noisy = [np.clip(ramp + 5 * i + random.normal(0, 2, (480, 640, 3)), 0, 255).astype(np.uint8) for i in range(4)]
        self._images = [conversions.image_message(pixels, 0, 'camera') for pixels in noisy]
        self._parts = self._ticks()
        self._next = dict.fromkeys((30, 100, 10), 0)  # rate (Hz) -> number of the next sending
        self.sent: Counter = Counter()
        self.last: dict[str, int] = {}  # topic -> time of the newest message (ns)

    @staticmethod
    def _ticks():
        """Records of one tick after the other."""
        episode, tick = 0, []
        while True:
            for part in episode_parts(episode, 50):
                tick.append(part)
                if isinstance(part, ExecutedAction):
                    yield tick
                    tick = []
            episode += 1

    def connected(self) -> bool:
        return all(publisher.get_subscription_count() for publisher in self._publishers.values())

    def send(self, topic, content):
        kind = self._kinds[topic]
        self._publishers[topic].publish(content if isinstance(content, kind) else conversions.to_message(content, kind))
        self.sent[topic] += 1
        self.last[topic] = time.time_ns()

    def run(self, seconds):
        start = time.monotonic()
        self._next = dict.fromkeys(self._next, 0)
        while (now := time.monotonic() - start) < seconds:
            for rate, send in ((30, self._send_images), (100, self._send_states), (10, self._send_tick)):
                if now >= self._next[rate] / rate:
                    self._next[rate] += 1
                    send(self._next[rate], self._node.get_clock().now().nanoseconds)
            time.sleep(max(0.0, min(n / rate for rate, n in self._next.items()) - (time.monotonic() - start)))

    def _send_images(self, number, stamp):
        image = self._images[number % len(self._images)]
        image.header.stamp = conversions.time_message(stamp)
        for topic in IMAGES:
            self.send(topic, image)

    def _send_states(self, _number, stamp):
        self.send(CURRENT_POSE, conversions.pose_stamped([0, 0, 0, 1, 0, 0, 0], stamp, 'base'))
        for topic in (MEASURED_JOINTS, HAND_JOINTS):
            self.send(topic, conversions.joint_state(['a'] * 6, [0.0] * 6, stamp))

    def _send_tick(self, _number, stamp):
        for part in (*next(self._parts), TeleopCommand(stamp), ActionCommand(stamp), Reward(stamp)):
            self.send(NAMES[type(part).__name__], part)


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    variables = {'ROS_DOMAIN_ID': str(DOMAIN), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    for name, value in {**variables, **environment({**os.environ, **variables})}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, '-m', 'dex_rl_nodes.nodes.replay_recorder']
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    yield process
    process.kill()
    process.wait()


def written(run) -> tuple[Counter, dict[str, int]]:
    """Messages per topic, and the time of the newest (ns)."""
    counts, last = Counter(), {}
    for message in BagReader(episode_bags(run, 'online')[0]):
        topic = message.topic.lstrip('/')
        counts[topic] += 1
        last[topic] = message.log_time
    return counts, last


def test_nothing_is_lost_until_it_is_killed(recorder):
    rclpy.init(domain_id=DOMAIN)
    try:
        load = Load(rclpy.create_node('load'))
        end = time.monotonic() + 30
        while not load.connected():
            assert time.monotonic() < end and recorder.poll() is None, 'replay_recorder does not come up'
            time.sleep(0.05)
        load.send('episode', EpisodeState(phase=Phase.RESETTING))
        load.run(SECONDS)
        sent = Counter(load.sent)
        load.run(1.0)  # the messages of this second may be lost
        recorder.send_signal(signal.SIGKILL)
        recorder.wait(10)
    finally:
        rclpy.try_shutdown()
    run = RunDirectory('default')
    counts, last = written(run)
    lost = {topic: max(0, number - counts[topic]) for topic, number in sent.items()}
    behind = {topic: (load.last[topic] - last[topic]) / 1e9 for topic in load.last if topic in last}
    frames = sum(sent[topic] for topic in IMAGES)
    total = f'{sum(sent.values())} messages in {SECONDS:g} s, {frames} of them frames'
    print(f'\n{total}; lost: {sum(lost.values())}; kill -9 cost {max(behind.values()):.2f} s')
    load_per_core = os.getloadavg()[0] / os.cpu_count()
    if max(behind.values()) > 1.0 and load_per_core > 3:
        pytest.skip(f'other processes keep this machine too busy to tell: {load_per_core:.1f} waiting per core')
    assert {topic: number for topic, number in lost.items() if number} == {}
    assert behind.keys() == load.last.keys() and max(behind.values()) <= 1.0
    transitions = list(read_transitions(run))
    assert [transition.sequence for transition in transitions] == list(range(1, len(transitions) + 1))
    assert len(transitions) >= 10 * SECONDS - 2
