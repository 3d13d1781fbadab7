"""What the recorder loses under two cameras and all control topics, and when it is killed.

Called by `./dexrl bench recorder`.
"""

import os
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_JOINTS, IMAGES, MEASURED_JOINTS, TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.bench_graph import Listener, measure, process_of
from dex_rl_nodes.parameters import COMMON, DEFAULT_RUN
from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.recording.reader import BagReader
from dex_rl_nodes.recording.spool import read_transitions
from dex_rl_nodes.records import (
    ACTION_DIM,
    HAND_DIM,
    HISTORY_LENGTH,
    STATE_DIM,
    ActionCommand,
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Outcome,
    Phase,
    PolicyStep,
    Reward,
    StepResult,
    TeleopCommand,
)
from dex_rl_nodes.run_directory import RunDirectory, RunSettings
from dex_rl_nodes.stages.bench.measurement import Measurement

_START_DEADLINE = 60.0  # s
_STATES = (CURRENT_POSE, MEASURED_JOINTS, HAND_JOINTS)
_RATES = {'images': 30, 'states': 100, 'tick': 10}  # Hz
_TICKS = 50  # of an episode
_FEATURES = 1024
_CORE_DIM = 8
_TICK_TOPICS = {
    PolicyStep: 'policy_step',
    CoreAction: 'core_action',
    ActionCommand: 'action_command',
    ExecutedAction: 'executed_action',
    TeleopCommand: 'teleop_command',
    Reward: 'reward',
    StepResult: 'step_result',
    EpisodeState: 'episode',
}
_HEAD = 1.0  # s of messages that do not count: publishers know of the recorder before it knows of all of them
_TAIL = 1.0  # s of messages that a kill may cost
_STAMP, _ENCAPSULATION = struct.Struct('<iI'), 4  # every message here begins with its header, behind four bytes of CDR


def _ticks() -> Iterator[list[Any]]:
    """Records of one tick after the other, of episodes that all end at their time limit."""
    random = np.random.default_rng(0)
    history = np.full(HISTORY_LENGTH * HAND_DIM, 0.5, np.float32)
    episode = 0
    while True:
        first = (episode + 1) * 1_000_000_000_000
        begin = EpisodeState(first, episode, Phase.RUNNING, hand_target=history[:HAND_DIM], purpose='online')
        for step in range(_TICKS + 1):
            stamp, last = first + step * 100_000_000, step == _TICKS
            tick: list[Any] = [begin] if step == 0 else []
            features, core = random.random(_FEATURES, np.float32), random.random(_CORE_DIM, np.float32)
            state = random.random(STATE_DIM, np.float32)
            tick.append(PolicyStep(stamp, episode, step, 'bench', features, state, history, core, core))
            if step:
                tick.append(StepResult(stamp, episode, step, 0.0, 0.5, False, last, False))
            if last:
                ended = EpisodeState(stamp, episode, Phase.ENDED, Outcome.TIMEOUT, final_step=step, purpose='online')
                tick.append(ended)
            else:
                action = random.random(ACTION_DIM, np.float32)
                tick.append(CoreAction(stamp, episode, step, core, core))
                tick.append(ExecutedAction(stamp, episode, step, action, history[:HAND_DIM]))
            yield [*tick, TeleopCommand(stamp), ActionCommand(stamp), Reward(stamp)]
        episode += 1


class Load:
    """Publishers of everything that a robot and a graph send, at their rates."""

    def __init__(self, node: Any):
        self._node = node
        topics = (*IMAGES.values(), *_STATES, *_TICK_TOPICS.values())
        self._kinds = {topic: conversions.interface(TOPICS[topic].type) for topic in topics}
        self._senders = {
            topic: node.create_publisher(kind, topic, qos.PROFILES[TOPICS[topic].qos])
            for topic, kind in self._kinds.items()
        }
        random = np.random.default_rng(0)
        ramp = np.linspace(0, 200, 640)[None, :, None]
        noisy = [np.clip(ramp + 5 * i + random.normal(0, 2, (480, 640, 3)), 0, 255).astype(np.uint8) for i in range(4)]
        self._images = [conversions.image_message(pixels, 0, 'camera') for pixels in noisy]
        self._ticks = _ticks()
        self.sent: Counter = Counter()  # topic and stamp -> messages
        self.steps: set[tuple[int, int]] = set()  # episode and step of the transitions that are complete
        self.last: dict[str, int] = {}  # topic -> time of the newest message (ns)

    def connected(self) -> bool:
        """Whether somebody listens to every topic."""
        return all(publisher.get_subscription_count() for publisher in self._senders.values())

    def send(self, topic: str, content: Any) -> None:
        """Publish a message or a record."""
        kind = self._kinds[topic]
        message = content if isinstance(content, kind) else conversions.to_message(content, kind)
        self._senders[topic].publish(message)
        self.sent[topic, conversions.stamp_ns(message.header.stamp)] += 1
        self.last[topic] = time.time_ns()
        if isinstance(content, StepResult):
            self.steps.add((content.episode, content.step - 1))

    def run(self, seconds: float) -> None:
        """Publish all topics at their rates for so long."""
        senders = {'images': self._send_images, 'states': self._send_states, 'tick': self._send_tick}
        start, numbers = time.monotonic(), dict.fromkeys(_RATES, 0)
        while (now := time.monotonic() - start) < seconds:
            for name, rate in _RATES.items():
                if now >= numbers[name] / rate:
                    numbers[name] += 1
                    senders[name](numbers[name], self._node.get_clock().now().nanoseconds)
            due = min(numbers[name] / rate for name, rate in _RATES.items())
            time.sleep(max(0.0, due - (time.monotonic() - start)))

    def _send_images(self, number: int, stamp: int) -> None:
        image = self._images[number % len(self._images)]
        image.header.stamp = conversions.time_message(stamp)
        for topic in IMAGES.values():
            self.send(topic, image)

    def _send_states(self, _number: int, stamp: int) -> None:
        self.send(CURRENT_POSE, conversions.pose_stamped([0, 0, 0, 1, 0, 0, 0], stamp, 'base'))
        for topic in (MEASURED_JOINTS, HAND_JOINTS):
            self.send(topic, conversions.joint_state(['a'] * 6, [0.0] * 6, stamp))

    def _send_tick(self, _number: int, _stamp: int) -> None:
        for part in next(self._ticks):
            self.send(_TICK_TOPICS[type(part)], part)


def _written(run: RunDirectory) -> tuple[Counter, dict[str, int]]:
    """How often a message of every topic and stamp was written, and the time of the newest (ns)."""
    counts: Counter = Counter()
    last = {}
    for message in BagReader(episode_bags(run, 'online')[0]):
        topic = message.topic.lstrip('/')
        seconds, nanoseconds = _STAMP.unpack_from(message.data, _ENCAPSULATION)
        counts[topic, seconds * 1_000_000_000 + nanoseconds] += 1
        last[topic] = message.log_time
    return counts, last


def lost(sent: Counter, steps: set[tuple[int, int]], written: Counter, kept: set[tuple[int, int]]) -> Counter:
    """How many messages of every topic, and how many transitions, were sent and not written.

    Args:
        sent, written: topic and stamp -> messages.
        steps, kept: episode and step of the transitions that were sent complete, and of those in the spool.
    """
    missing = Counter(transitions=len(steps - kept))
    for (topic, _), number in (sent - written).items():
        missing[topic] += number
    return +missing


def recorder_loss(seconds: float, folder: Path) -> Measurement:
    """Send to `replay_recorder` for a while, then kill it; compare what it wrote with what was sent.

    Args:
        seconds: how long, between a first second, which does not count, and a last one, of which a kill may cost all.
        folder: of the run that is recorded.
    """
    os.environ['DEXRL_RUNS'] = str(folder)
    usual = {parameter.name: parameter.default for parameter in COMMON}
    RunDirectory(DEFAULT_RUN).create(RunSettings(**{name: usual[name] for name in RunSettings.__dataclass_fields__}))
    listener = Listener('bench_recorder')
    try:
        load = Load(listener.node)
        with process_of('nodes.replay_recorder') as process:
            listener.until(
                lambda: load.connected() or process.poll() is not None, _START_DEADLINE, 'replay_recorder to listen'
            )
            load.send('episode', EpisodeState(phase=Phase.RESETTING))
            load.run(_HEAD)
            sent, steps = Counter(load.sent), set(load.steps)
            load.run(seconds)
            sent, steps = load.sent - sent, load.steps - steps
            load.run(_TAIL)
            if process.poll() is not None:
                raise UserError(f'replay_recorder ended with exit code {process.returncode}; see the messages above')
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        listener.close()
    run = RunDirectory('default')
    written, last = _written(run)
    kept = {(transition.episode, transition.step) for transition in read_transitions(run)}
    missing = lost(sent, steps, written, kept)
    behind = max((load.last[topic] - last.get(topic, 0)) / 1e9 for topic in load.last)
    frames = sum(number for (topic, _), number in sent.items() if topic in IMAGES.values())
    return Measurement(
        'recorder_loss', 'recorder, two 640x480x30 Hz cameras and all control topics: lost; lost to a kill -9',
        f'dexrl bench recorder seconds:={seconds:g}',
        f'{missing.total()} of {sent.total()} messages in {seconds:g} s ({frames} frames, {len(steps)} transitions); '
        f'{behind:.2f} s', 'no message; 1 s or less', not missing and behind <= _TAIL, sent.total(), 0,
        {'lost': missing.total(), 'behind_s': behind, 'frames': frames, 'transitions': len(steps),
         'load': os.getloadavg()[0], **{f'lost of {topic}': number for topic, number in sorted(missing.items())}},
    )  # fmt: skip


def recorder(arguments: list[str]) -> list[Measurement]:
    """`recorder SECONDS`."""
    with tempfile.TemporaryDirectory(prefix='dexrl-bench-') as folder:
        return [recorder_loss(float(arguments[0]), Path(folder))]


if __name__ == '__main__':
    sys.exit(measure(sys.argv[1:], {'recorder': recorder}))
