"""Figures that need the running graph: control ticks on time, camera to command, camera frames delivered.

Called by `./dexrl bench ticks` and `./dexrl bench cameras`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from dex_rl_nodes.config import is_simulated
from dex_rl_nodes.descriptions import FRONT_IMAGE, IMAGES, TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import environment
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.main import make_executor
from dex_rl_nodes.nodes.scheduling import prefer
from dex_rl_nodes.records import EpisodeState, Phase
from dex_rl_nodes.run_directory import RunDirectory
from dex_rl_nodes.sole_graph import domain_of
from dex_rl_nodes.stages.bench.measurement import Measurement
from dex_rl_nodes.stages.bench.speed import loop_on_time, percentiles
from dex_rl_nodes.stages.inputs import command_line

_LATE = 0.020  # s
_START_DEADLINE = 120.0  # s until the first tick, or until all nodes are there
_STOP_DEADLINE = 10.0  # s
_PERIOD = 0.1  # s between two ticks
_PRIORITY = 10  # that of the nodes which are watched
_ALONE = 60.0  # s for which the machine alone is looked at


def message_of(topic: str):
    return conversions.interface(TOPICS[topic].type)


@contextmanager
def process_of(module: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A process of this package, stopped with SIGINT at the end."""
    process = subprocess.Popen([sys.executable, '-m', f'dex_rl_nodes.{module}', *arguments], start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Listener:
    """A node that notes messages, and an executor for it."""

    def __init__(self, name: str):
        os.environ.update(environment(os.environ))
        domain_of(os.environ)
        rclpy.init()
        self.node = rclpy.create_node(name)
        self._executor = make_executor()
        self._executor.add_node(self.node)

    def until(self, condition: Callable[[], bool], seconds: float, what: str = '') -> None:
        """Work until a condition holds; UserError when it does not in time and `what` says what was waited for."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                if what:
                    raise UserError(f'waited {seconds:g} s for {what} in vain; see the messages above')
                return
            try:
                self._executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                raise KeyboardInterrupt from None

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def control_ticks(run: str, minutes: float) -> list[Measurement]:
    """Start online learning in real time on a prepared run of simulation, and watch the commands that come out of it.

    Raises:
        UserError: there is no such run, it is one of a robot, or its graph ends too early.
    """
    directory = RunDirectory(run)
    settings = directory.settings()
    if not is_simulated(settings.robot):
        raise UserError(f'run "{run}" is one of robot {settings.robot}, and nothing here may move a robot')
    words = (*command_line('launch online_rl.launch.py', directory, settings).split()[2:], 'prepare:=false')
    listener = Listener('bench_ticks')
    ticks: list[tuple[int, int, float, float]] = []  # episode, step, camera stamp (s), arrival (s)
    executed = message_of('executed_action')

    def hear(message) -> None:
        stamp = conversions.stamp_ns(message.header.stamp)
        now = listener.node.get_clock().now().nanoseconds
        ticks.append((message.episode, message.step, stamp * 1e-9, now * 1e-9))

    listener.node.create_subscription(executed, 'executed_action', hear, qos.PROFILES['TICK'])
    states: list = []
    learner_state = message_of('learner_state')
    listener.node.create_subscription(learner_state, 'learner_state', states.append, qos.PROFILES['STATE'])
    try:
        with process_of('launch_command', *words) as graph:
            prefer(_PRIORITY)  # the clock must not wait for the processor itself
            listener.until(lambda: ticks or graph.poll() is not None, _START_DEADLINE, 'the first control tick')
            listener.until(lambda: graph.poll() is not None, 60 * minutes)
            if graph.poll() is not None:
                raise UserError(f'the graph ended too early, with exit code {graph.returncode}; see the messages above')
    finally:
        listener.close()
    command = f'dexrl bench ticks run:={run} minutes:={minutes:g}'
    updates = int(states[-1].updates) if states else 0
    delay = percentiles([arrival - stamp for _, _, stamp, arrival in ticks])
    # nothing else runs any more; this process still has the priority of the nodes
    alone = loop_on_time(delay['p50_ms'] / 1e3, _ALONE, _PERIOD, _LATE)
    return [
        _on_time(ticks, command, updates, alone),
        Measurement(
            'camera_to_command', 'camera stamp to command, two 128x128 views through the frozen encoder', command,
            f'{delay["p50_ms"]:.0f} / {delay["p99_ms"]:.0f} ms (p50 / p99)', '30 / 60 ms or less',
            delay['p50_ms'] <= 30 and delay['p99_ms'] <= 60, len(ticks), 0, delay,
        ),
    ]  # fmt: skip


def _on_time(ticks: list[tuple[int, int, float, float]], command: str, updates: int, alone: float) -> Measurement:
    """Control ticks on time, beside the share that a loop without a graph has on this machine."""
    intervals = np.array([
        after[3] - before[3]
        for before, after in zip(ticks[:-1], ticks[1:])
        if after[0] == before[0] and after[1] == before[1] + 1
    ])  # fmt: skip
    on_time = float((np.abs(intervals - _PERIOD) <= _LATE).mean())
    values = {
        'on_time': on_time, 'alone': alone, 'median_interval_s': float(np.median(intervals)),
        'longest_interval_s': float(intervals.max()), 'updates': updates,
    }  # fmt: skip
    return Measurement(
        'control_ticks', 'control ticks on time (within 20 ms) at 10 Hz, cameras on, learner training', command,
        f'{on_time:.2%} of {len(intervals)} ({updates} learner iterations meanwhile); '
        f'a loop as long as a tick, alone on the machine: {alone:.2%}',
        '99.9 % or more', on_time >= 0.999, len(intervals), 0, values,
    )  # fmt: skip


def camera_frames(seconds: float, run: str) -> Measurement:
    """Publish two 640 x 480 x 30 Hz cameras to `policy` and `replay_recorder`, and ask both how many frames came."""
    listener = Listener('bench_cameras')
    node, heard = listener.node, Counter()

    def on_diagnostics(array: DiagnosticArray) -> None:
        for status in array.status:
            values = {pair.key: pair.value for pair in status.values}
            node_name, _, part = status.name.partition(': ')
            if node_name == 'policy' and part.endswith(' camera'):
                heard['policy', part.removesuffix(' camera')] = int(float(values['frames']))
            elif node_name == 'replay_recorder' and part in IMAGES.values():
                view = next(view for view, topic in IMAGES.items() if topic == part)
                heard['replay_recorder', view] = int(float(values['written']))

    node.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, qos.PROFILES['DIAGNOSTICS'])
    publishers = {view: node.create_publisher(Image, topic, qos.PROFILES['SENSOR']) for view, topic in IMAGES.items()}
    episode = node.create_publisher(message_of('episode'), 'episode', qos.PROFILES['STATE'])
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (4, 480, 640, 3)).astype(np.uint8)
    images = [conversions.image_message(frame, 0, 'camera') for frame in pixels]
    parameters = ['--ros-args', '-p', f'run:={run}', '-p']
    try:
        with (
            process_of('nodes.policy', *parameters, 'source:=zero'),
            process_of('nodes.replay_recorder', *parameters, 'purpose:=evaluation'),
        ):
            listener.until(
                lambda: all(publisher.get_subscription_count() >= 2 for publisher in publishers.values()),
                _START_DEADLINE, f'policy and replay_recorder to listen to {FRONT_IMAGE}',
            )  # fmt: skip
            episode.publish(conversions.to_message(EpisodeState(phase=Phase.RESETTING), message_of('episode')))
            listener.until(lambda: False, 1.0)
            sent = _send(listener, publishers, images, seconds)
            listener.until(lambda: False, 3.0)  # the last diagnostics
    finally:
        listener.close()
    shares = {f'{name} {view}': heard[name, view] / sent for name in ('policy', 'replay_recorder') for view in IMAGES}
    worst = min(shares, key=shares.get)
    return Measurement(
        'camera_frames', 'camera frames delivered, 2 x 640x480 x 30 Hz from test publishers to policy and recorder',
        f'dexrl bench cameras seconds:={seconds:g}', f'{shares[worst]:.2%} (least: {worst})', '99.9 % or more',
        shares[worst] >= 0.999, sent * len(shares), 0, {'sent_per_camera': sent, 'delivered': shares},
    )  # fmt: skip


def _send(listener: Listener, publishers: dict, images: list, seconds: float) -> int:
    """Publish at 30 Hz; returns how many frames each camera sent."""
    start, number = time.monotonic(), 0
    while (due := number / 30) < seconds:
        listener.until(lambda: time.monotonic() - start >= due, seconds)  # noqa: B023  (used at once)
        image = images[number % len(images)]
        image.header.stamp = listener.node.get_clock().now().to_msg()
        for publisher in publishers.values():
            publisher.publish(image)
        number += 1
    return number


def ticks(arguments: list[str]) -> list[Measurement]:
    """`ticks RUN MINUTES`."""
    run, minutes = arguments
    return control_ticks(run, float(minutes))


def cameras(arguments: list[str]) -> list[Measurement]:
    """`cameras SECONDS RUN`."""
    seconds, run = arguments
    return [camera_frames(float(seconds), run)]


def measure(arguments: list[str], kinds: Mapping[str, Callable[[list[str]], list[Measurement]]]) -> int:
    """Entry point of a process that measures: `KIND ... FOLDER`, as bench/command.py calls it; the exit code."""
    kind, *rest, folder = arguments
    try:
        for measurement in kinds[kind](rest):
            measurement.tell()
            measurement.save(Path(folder))
    except UserError as error:
        print(f'dexrl: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(measure(sys.argv[1:], {'ticks': ticks, 'cameras': cameras}))
