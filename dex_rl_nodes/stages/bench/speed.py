"""Speed figures that are measured in one process."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.records import Origin
from dex_rl_nodes.stages.bench.measurement import Measurement
from dex_rl_nodes.stages.progress import ProgressBoard


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in ms."""
    p50, p99, longest = np.percentile(np.array(seconds) * 1e3, [50, 99, 100])
    return {'p50_ms': float(p50), 'p99_ms': float(p99), 'max_ms': float(longest)}


def _timed(function: Callable[[], object], repeats: int, warmup: int = 5) -> list[float]:
    for _ in range(warmup):
        function()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        durations.append(time.perf_counter() - started)
    return durations


def loop_on_time(work: float, seconds: float, period: float, tolerance: float) -> float:
    """What the machine makes of ticks that nothing else delays: a loop in this process that counts for `work` s.

    A virtual machine whose host takes the processor away is late with nothing else running; what a graph of nodes does
    there has to be read beside this.

    Returns:
        Share of the intervals between two ends of the loop that are within `tolerance` (s) of `period` (s).
    """

    def count(times: int) -> None:
        for _ in range(times):
            pass

    chunk = 20_000
    times = max(1, round(chunk * work / min(_timed(lambda: count(chunk), 50))))
    begin = time.monotonic()
    ends = []
    for tick in range(max(2, round(seconds / period))):
        time.sleep(max(0.0, begin + tick * period - time.monotonic()))
        count(times)
        ends.append(time.monotonic())
    return float((np.abs(np.diff(ends) - period) <= tolerance).mean())


def simulation(task: str = 'pull_tissue', seed: int = 0, steps: int = 600) -> Measurement:
    """Lockstep steps per second of the simulated robot while the scripted operator acts, both views rendered."""
    from dex_rl_nodes.sim.operator import ScriptedOperator
    from dex_rl_nodes.stages.loop import Loop

    loop = Loop(load_task(task), load_robot('sim'), operator=ScriptedOperator(load_task(task), load_robot('sim')))
    loop.episode(0, seed, 'demos')  # the first image makes the OpenGL context
    done, episodes, started = 0, 0, time.perf_counter()
    while done < steps:
        done += loop.episode(episodes, seed + episodes, 'demos').steps
        episodes += 1
    rate = done / (time.perf_counter() - started)
    figure = 'sim_speed' if task == 'pull_tissue' else f'sim_speed_{task}'
    title = f'in-process lockstep simulation of {task}, 10 Hz control, both views rendered in software'
    return Measurement(
        figure, title, f'dexrl bench sim task:={task}', f'{rate:.0f} steps/s', '50 steps/s or more', rate >= 50,
        done, seed, {'steps_per_second': rate, 'task': task, 'episodes': episodes},
    )  # fmt: skip


def _some_interface(seed: int):
    """A latent prior that was fitted to a few synthetic hand motions: speed does not depend on what it learned."""
    from dex_rl_nodes.learning.interfaces import PriorSettings
    from dex_rl_nodes.learning.prior import train_prior

    phase = np.linspace(0, 1, 60)[:, None] * np.linspace(0.5, 1.0, 6)
    sequences = [np.clip(phase + 0.05 * np.random.default_rng([seed, i]).random(6), 0, 1) for i in range(4)]
    return train_prior(sequences, 'latent_prior', PriorSettings(steps=50), seed)[0]


def sac(seed: int = 0) -> Measurement:
    """Iteration of Table B.2 against its matrix products alone, in float32 and in the precision the learner takes.

    The bar is for the latter. On a machine with a card also there, where small products wait for their instructions
    and the bound says nothing.
    """
    from dex_rl_nodes.learning.device import CPU, training_device
    from dex_rl_nodes.learning.networks import native_bfloat16
    from dex_rl_nodes.learning.sac import ResidualSettings
    from dex_rl_nodes.learning.speed import sac_speed

    interface = _some_interface(seed)
    found = {}
    precisions = ('float32', 'bfloat16') if native_bfloat16() else ('float32',)  # the last is the learner's
    for threads in sorted({1, min(torch.get_num_threads(), 8)}):
        torch.set_num_threads(threads)
        for precision in precisions:
            settings = ResidualSettings(precision=precision)
            result = sac_speed(interface, interface.context_dim, settings=settings, repeats=60)
            found[f'{precision}, {threads} thread{"s" * (threads > 1)}'] = result
    share = max(result['share_of_bound'] for result in found.values() if result['precision'] == precisions[-1])
    if (device := training_device()) != CPU:
        found[f'{device.type}, float32'] = sac_speed(
            interface.to(device), interface.context_dim, repeats=60, device=device
        )
    told = [
        f'{name}: {result["iterations_per_second"]:.0f} iterations/s, {result["share_of_bound"]:.0%} of the bound'
        for name, result in found.items()
    ]
    return Measurement(
        'sac_speed', 'SAC iteration of Table B.2 (critic; critic, actor and temperature; batch 256, cached features)',
        'dexrl bench sac', '; '.join(told), '60 % or more', share >= 0.6, 60, seed, found,
    )  # fmt: skip


def replay(seed: int = 0, count: int = 20_000) -> Measurement:
    """Adding, memory and sampling of the replay buffer with two ResNet-18 feature vectors."""
    from dex_rl_nodes.learning.replay import Dimensions, MixedSampler, ReplayBuffer
    from dex_rl_nodes.learning.sac import ResidualSettings
    from dex_rl_nodes.learning.speed import random_transitions

    transitions = random_transitions(count, 1024, 4, 8, seed)
    online = ReplayBuffer(Dimensions.of(transitions[0]), ResidualSettings().capacity)
    started = time.perf_counter()
    online.extend(transitions)
    rate = count / (time.perf_counter() - started)
    demonstrations = ReplayBuffer(Dimensions.of(transitions[0]), 5000)
    demonstrations.extend(replace(transition, source=Origin.DEMONSTRATION) for transition in transitions[:2000])
    sampler, random = MixedSampler(online, demonstrations), np.random.default_rng(seed)
    sample = percentiles(_timed(lambda: sampler.sample(256, random), 300))
    kib = online.bytes_per_transition / 1024
    return Measurement(
        'replay', 'replay with cached features: add, memory per transition, sample of 256',
        'dexrl bench replay', f'{rate / 1000:.0f} k/s, {kib:.1f} KiB, {sample["p50_ms"]:.2f} ms',
        '15 k/s, 4 KiB, 10 ms', rate >= 15_000 and kib <= 4 and sample['p50_ms'] <= 10, count, seed,
        {'adds_per_second': rate, 'kib_per_transition': kib, 'sample': sample},
    )  # fmt: skip


def latency(seed: int = 0, ticks: int = 300) -> Measurement:
    """Computing time of one tick, from two camera images to the executed command, with untrained ResNet-18 encoders.

    Untrained weights take as long as trained ones, and ResNet-18 is the largest encoder there is.
    """
    from dex_rl_nodes.learning.encoder import ResNetEncoder
    from dex_rl_nodes.learning.policy import BCPolicy, PolicyRunner, PolicySettings
    from dex_rl_nodes.learning.prior_runner import PriorRunner
    from dex_rl_nodes.learning.residual import ResidualRunner
    from dex_rl_nodes.learning.reward import RewardModel, RewardRunner, RewardSettings
    from dex_rl_nodes.stages.loop import Brain, Loop

    class TimedLoop(Loop):
        """Notes how long each tick takes from the images to the command."""

        def _perceive(self, *arguments):
            self.started = time.perf_counter()
            return super()._perceive(*arguments)

        def _act(self, *arguments):
            super()._act(*arguments)
            durations.append(time.perf_counter() - self.started)

    torch.set_num_threads(1)
    interface, encoder = _some_interface(seed), ResNetEncoder('resnet18').freeze()
    policy = BCPolicy(encoder.feature_dim, interface.context_dim, interface.core_dim, PolicySettings()).freeze()
    reward = RewardRunner(RewardModel(encoder.spatial_shape, RewardSettings()).eval(), encoder, 0.999, 3)
    brain = Brain(PolicyRunner(encoder, policy), PriorRunner(interface), ResidualRunner(interface), reward)
    durations: list[float] = []
    loop = TimedLoop(load_task('pull_tissue'), load_robot('sim'), brain)
    while len(durations) < ticks:
        loop.episode(len(durations), seed, 'evaluation')
    found = percentiles(durations[10:])
    return Measurement(
        'latency', 'computing time of a tick: two 128x128 views through ResNet-18, policy, reward, residual, mux',
        'dexrl bench latency', f'{found["p50_ms"]:.1f} / {found["p99_ms"]:.1f} ms (p50 / p99, one thread)',
        '30 / 60 ms', found['p50_ms'] <= 30 and found['p99_ms'] <= 60, len(durations), seed, found,
    )  # fmt: skip


def safety(seed: int = 0, commands: int = 1_000_000) -> Measurement:
    """Hostile commands against the command mux, judged by limits that are written a second time."""
    from dex_rl_nodes.robot.fuzz import hostile_commands

    board = ProgressBoard()
    try:
        found = hostile_commands(commands, seed, tell=board.of('hostile commands'))
    finally:
        board.close()
    violations = int(found['violations'])
    return Measurement(
        'safety', 'hostile commands against the command mux: executed targets beyond a limit',
        f'dexrl bench safety commands:={commands} seed:={seed}',
        f'{violations} of {commands}; {found["handovers"]} takeovers and hand-backs, largest step in one '
        f'{found["largest_handover_step"]:.3f} of the limit of a tick', '0; 1', violations == 0,
        commands, seed, found,
    )  # fmt: skip


def recorder(seed: int = 0, seconds: float = 10.0) -> Measurement:
    """Writing two 640 x 480 x 30 Hz streams: how much of one core it takes."""
    from dex_rl_nodes.recording.writer import BagWriter

    random = np.random.default_rng(seed)
    images = [np.kron(random.integers(0, 255, (48, 64, 3)), np.ones((10, 10, 1))).astype(np.uint8) for _ in range(8)]
    folder, frames = Path(tempfile.mkdtemp(prefix='dexrl-bench-')), int(30 * seconds)
    try:
        started = time.process_time()
        with BagWriter(folder / 'bag') as bag:
            for number in range(frames):
                for topic in ('/front', '/wrist'):
                    bag.write_image(topic, images[number % len(images)], number * 33_333_333)
        share = (time.process_time() - started) / seconds
    finally:
        shutil.rmtree(folder)
    return Measurement(
        'recorder_load', 'processor time of recording two 640 x 480 x 30 Hz streams',
        'dexrl bench recorder', f'{share:.0%} of one core', n=2 * frames, seed=seed, values={'share_of_core': share},
    )  # fmt: skip


FIGURES: dict[str, Callable[..., Measurement]] = {
    'sim': simulation,
    'sac': sac,
    'replay': replay,
    'latency': latency,
    'safety': safety,
    'recorder': recorder,
}
