"""Figures of the device drivers as running nodes, against emulated devices.

Called by `./dexrl bench hand`, `./dexrl bench serial_noise` and `./dexrl bench replug`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dex_rl_nodes.config import load_robot
from dex_rl_nodes.descriptions import GLOVE, HAND_COMMAND, HAND_JOINTS, TOPICS, TWIST
from dex_rl_nodes.drivers.emulators.operator_devices import GloveEmulator, SpaceMouseEmulator
from dex_rl_nodes.drivers.settings import Devices, device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.bench_graph import Listener, measure, message_of, process_of
from dex_rl_nodes.records import HAND_JOINTS as JOINTS
from dex_rl_nodes.stages.bench.device_truth import TOLERANCE, WINDOW, Judge, Truth, WatchedHand, Waves
from dex_rl_nodes.stages.bench.measurement import Measurement

_BAUD = 460800
_COMMAND_PERIOD = 0.02  # s
_DEADLINE = 30.0  # s
_LOOK_PERIOD = 0.5  # s
_ROBOT = 'fr3_ruiyan'
_GAP = 0.1  # s without a message is a gap
_SILENT = 0.4  # s without a message is silence
_GLOVE_WINDOW = 0.5  # s; the glove's driver averages


class _Station:
    """Emulated devices in a folder, and a node that listens to their drivers and commands the hand."""

    def __init__(self, folder: Path):
        self.folder = folder
        # the devices answer in threads of this process and shall not wait long for their turn
        sys.setswitchinterval(0.0005)
        self.listener = Listener('bench_devices')
        self.heard: Counter = Counter()
        self.last: dict[str, float] = {}
        self.gaps: list[float] = []
        self.commands: Callable[[float], np.ndarray] | None = None
        self._started = time.monotonic()
        node = self.listener.node
        self._publisher = node.create_publisher(
            message_of(HAND_COMMAND), HAND_COMMAND, qos.profile(TOPICS[HAND_COMMAND].qos)
        )
        node.create_timer(_COMMAND_PERIOD, self._command)
        node.create_timer(_LOOK_PERIOD, self._look)

    def listen(self, topic: str, callback: Callable[[Any], None] = lambda _message: None) -> None:
        """Count the messages of a topic and the gaps between them."""

        def hear(message: Any) -> None:
            now = time.monotonic()
            if topic in self.last and now - self.last[topic] > _GAP:
                self.gaps.append(now - self.last[topic])
            self.last[topic] = now
            self.heard[topic] += 1
            callback(message)

        self.listener.node.create_subscription(message_of(topic), topic, hear, qos.profile(TOPICS[topic].qos))

    @contextmanager
    def driver(self, name: str) -> Iterator[subprocess.Popen]:
        """The driver of a device of this folder as a process."""
        words = ['--ros-args', '-p', f'robot:={_ROBOT}', '-p', f'port:={self.folder / name}']
        with process_of(f'nodes.{name}_driver', *words) as process:
            yield process

    def wait(self, condition: Callable[[], bool], seconds: float, what: str = '') -> None:
        """Work until a condition holds, see Listener.until."""
        self.listener.until(condition, seconds, what)

    def _look(self) -> None:
        """UserError when somebody else speaks: their values would be judged as those of the driver."""
        topics = [topic for topic in self.heard if self.listener.node.count_publishers(topic) > 1]
        if self.listener.node.count_publishers(HAND_COMMAND) > 1:
            topics.append(HAND_COMMAND)
        if topics:
            raise UserError(f'somebody else publishes {topics[0]} in this domain; run the bench again in another one')

    def _command(self) -> None:
        if self.commands is None:
            return
        targets = np.clip(self.commands(time.monotonic() - self._started), 0, 1)
        stamp = self.listener.node.get_clock().now().nanoseconds
        self._publisher.publish(conversions.joint_state(JOINTS, targets, stamp))


@contextmanager
def _station() -> Iterator[_Station]:
    with tempfile.TemporaryDirectory(prefix='dexrl-bench-') as folder:
        station = _Station(Path(folder))
        try:
            yield station
        finally:
            station.listener.close()


def _judge(judge: Judge) -> Callable[[Any], None]:
    def look(message: Any) -> None:
        judge.look(np.array(message.position), conversions.stamp_ns(message.header.stamp))

    return look


def _load() -> dict:
    return {'load_average': [round(value, 1) for value in os.getloadavg()], 'niceness': os.nice(0)}


def _devices() -> Devices:
    return device_settings(load_robot(_ROBOT))


def hand_loop(minutes: float, seed: int) -> Measurement:
    """The hand's node at 460800 baud: its rate, and whether every value belongs to its motor."""
    waves = Waves(apart=True)
    with ExitStack() as stack:
        station = stack.enter_context(_station())
        hand = WatchedHand(station.folder / 'hand', waves.allows, motors=waves.motors(), baud=_BAUD)
        judge = Judge(hand.truth)
        stack.enter_context(hand)
        station.listen(HAND_JOINTS, _judge(judge))
        process = stack.enter_context(station.driver('hand'))
        station.wait(lambda: station.heard[HAND_JOINTS] > 0, _DEADLINE, f'{HAND_JOINTS} of hand_driver')
        station.commands = waves.targets
        began, before, moves = time.monotonic(), station.heard[HAND_JOINTS], hand.moves
        station.wait(lambda: process.poll() is not None, 60 * minutes)
        seconds = time.monotonic() - began
        crashed = process.poll() is not None
        exchanges = (hand.moves - moves) / len(JOINTS) / seconds
        published = (station.heard[HAND_JOINTS] - before) / seconds
    values = {
        'seconds': seconds, 'exchanges_per_s': exchanges, 'published_per_s': published, 'wrong': judge.wrong,
        'misassigned': judge.misassigned, 'largest_error': judge.largest_error, 'values_judged': judge.values,
        'longest_gap_s': max(station.gaps, default=0.0), 'crashes': int(crashed), 'examples': judge.examples, **_load(),
    }  # fmt: skip
    return Measurement(
        'hand_loop', 'hand loop at 460800 baud against the emulated Ruiyan hand, bytes paced as on the bus',
        f'dexrl bench hand minutes:={minutes:g}',
        f'{exchanges:.1f} Hz ({published:.1f} Hz published), {judge.misassigned} mis-assigned, {judge.wrong} wrong, '
        f'{int(crashed)} crashes in {seconds / 60:.1f} min', '100 Hz, 0 mis-assigned motors, 0 crashes',
        exchanges >= 100 and not judge.wrong and not crashed, judge.values, seed, values,
    )  # fmt: skip


def serial_noise(minutes: float, seed: int) -> Measurement:
    """Hand and glove on cables that damage one byte in a hundred, both ways: what their nodes publish meanwhile."""
    waves, settings = Waves(apart=False), _devices().glove
    low, span = np.array(settings.open), np.array(settings.closed) - np.array(settings.open)
    with ExitStack() as stack:
        station = stack.enter_context(_station())
        hand = WatchedHand(station.folder / 'hand', motors=waves.motors(), baud=_BAUD, corruption=0.01, seed=seed)
        glove = GloveEmulator(station.folder / 'glove', settings.registers, corruption=0.01, seed=seed + 1)
        fingers = Truth()
        judges = {HAND_JOINTS: Judge(hand.truth), GLOVE: Judge(fingers, _GLOVE_WINDOW)}

        def move(seconds: float) -> np.ndarray:
            targets = waves.targets(seconds)
            counts = list(glove.counts)
            for index, (channel, count) in enumerate(zip(settings.channels, np.rint(low + targets * span).tolist())):
                counts[channel] = int(count)
                fingers.tell(index, float((count - low[index]) / span[index]))
            glove.counts = counts
            return targets

        station.commands = move  # from now on: what is smoothed must have been told
        stack.enter_context(hand), stack.enter_context(glove)
        for topic, judge in judges.items():
            station.listen(topic, _judge(judge))
        processes = [stack.enter_context(station.driver(name)) for name in ('hand', 'glove')]
        station.wait(lambda: all(station.heard[topic] for topic in judges), _DEADLINE, f'{HAND_JOINTS} and {GLOVE}')
        began, before = time.monotonic(), station.heard.copy()
        station.wait(lambda: any(process.poll() is not None for process in processes), 60 * minutes)
        ended = time.monotonic()
        seconds = ended - began
        crashes = sum(process.poll() is not None for process in processes)
        alive = all(ended - station.last[topic] < 1.0 for topic in judges)
    wrong, judged_values = (sum(getattr(judge, name) for judge in judges.values()) for name in ('wrong', 'values'))
    rates = {topic: (station.heard[topic] - before[topic]) / seconds for topic in judges}
    judged = {topic: judge.summary() for topic, judge in judges.items()}
    values = {
        'seconds': seconds, 'damaged_bytes': hand.damaged + glove.damaged, 'published_per_s': rates, 'judged': judged,
        'gaps_over_100_ms': len(station.gaps), 'longest_gap_s': max(station.gaps, default=0.0), 'crashes': crashes,
        'tolerance': TOLERANCE, 'window_s': {HAND_JOINTS: WINDOW, GLOVE: _GLOVE_WINDOW}, **_load(),
    }  # fmt: skip
    return Measurement(
        'serial_noise', 'hand and glove with 1 byte in 100 flipped, dropped or followed by another, both ways',
        f'dexrl bench serial_noise minutes:={minutes:g} seed:={seed}',
        f'{wrong} wrong of {judged_values} values published in {seconds / 60:.1f} min, '
        f'{values["damaged_bytes"]} bytes damaged, longest gap {values["longest_gap_s"]:.2f} s, {crashes} crashes',
        'resynchronised each time, 0 wrong values', not wrong and alive and not crashes,
        judged_values, seed, values,
    )  # fmt: skip


def replug(times: int, seed: int) -> Measurement:
    """Pull the cable of hand, glove and SpaceMouse again and again while their nodes run."""
    rng, step = np.random.default_rng(seed), _devices().hand.largest_step
    topics = {'hand': HAND_JOINTS, 'glove': GLOVE, 'spacemouse': TWIST}
    with ExitStack() as stack:
        station = stack.enter_context(_station())
        devices = {
            'hand': WatchedHand(station.folder / 'hand', start=[0.5] * 6, baud=_BAUD),
            'glove': GloveEmulator(station.folder / 'glove'),
            'spacemouse': SpaceMouseEmulator(station.folder / 'spacemouse'),
        }
        for name, device in devices.items():
            device.plug_in()
            stack.callback(device.unplug)
            station.listen(topics[name])
        processes = [stack.enter_context(station.driver(name)) for name in devices]
        station.wait(lambda: all(station.heard[t] for t in topics.values()), _DEADLINE, ', '.join(topics.values()))
        station.commands = lambda seconds: np.full(6, float(int(seconds) % 2))  # always far away
        recovered, took, found = Counter(), {name: [] for name in devices}, Counter()
        for _ in range(times):
            for name, device in devices.items():
                seconds = _replug_once(station, device, topics[name], rng, found, step)
                recovered[name] += seconds is not None
                took[name] += [seconds] if seconds is not None else []
        crashes = sum(process.poll() is not None for process in processes)
    longest = max(max(values, default=np.inf) for values in took.values())
    values = {'recovered': dict(recovered), 'seconds': took, **found, 'crashes': crashes, **_load()}
    good = all(recovered[name] == times for name in devices) and not crashes and not sum(found.values())
    told = ', '.join(f'{name} {recovered[name]}' for name in devices)
    return Measurement(
        'replug', f'hand, glove and SpaceMouse unplugged and plugged in again {times} times each while their nodes run',
        f'dexrl bench replug times:={times}',
        f'recovered: {told}; longest {longest:.1f} s; {found["moved before read"]} moves before the pose was read, '
        f'{found["first move beyond one step"]} first moves beyond one step of the measured pose, '
        f'{found["spoke while unplugged"]} messages while unplugged, {crashes} crashes',
        f'{times} recoveries each, motion held meanwhile', good, times * len(devices), seed, values,
    )  # fmt: skip


def _replug_once(
    station: _Station, device: Any, topic: str, rng: np.random.Generator, found: Counter, step: float
) -> float | None:
    """Unplug a device, wait until its topic is silent, plug it in; seconds until it speaks again, None without."""
    device.unplug()
    station.wait(lambda: time.monotonic() - station.last[topic] > _SILENT, _DEADLINE)
    count = station.heard[topic]
    station.wait(lambda: False, float(rng.uniform(0.1, 0.4)))
    found['spoke while unplugged'] += station.heard[topic] - count
    pose = rng.uniform(0.3, 0.7, 6)
    if isinstance(device, WatchedHand):  # somebody moves the fingers meanwhile
        device.motors.position, device.motors.target = pose.tolist(), pose.tolist()
    device.plug_in()
    began, count = time.monotonic(), station.heard[topic]
    station.wait(lambda: station.heard[topic] > count + 2, _DEADLINE)
    if station.heard[topic] <= count + 2:
        return None
    seconds = time.monotonic() - began
    if isinstance(device, WatchedHand):
        station.wait(lambda: len(device.first_targets) == len(JOINTS), _DEADLINE, 'the hand to be moved again')
        firsts = np.array([device.first_targets[motor] for motor in range(len(JOINTS))])
        found['moved before read'] += not device.asked_first
        found['first move beyond one step'] += bool(np.abs(firsts - pose).max() > step + 0.002)
    return seconds


def _minutes(figure: Callable[[float, int], Measurement]) -> Callable[[list[str]], list[Measurement]]:
    """`KIND MINUTES SEED`."""
    return lambda arguments: [figure(float(arguments[0]), int(arguments[1]))]


if __name__ == '__main__':
    kinds = {'hand': _minutes(hand_loop), 'serial_noise': _minutes(serial_noise)}
    kinds['replug'] = lambda arguments: [replug(int(arguments[0]), int(arguments[1]))]
    sys.exit(measure(sys.argv[1:], kinds))
