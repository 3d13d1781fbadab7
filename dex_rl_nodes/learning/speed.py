"""How fast a learner iteration is, against the time of its matrix products alone."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.sac import Interface, ResidualSettings
from dex_rl_nodes.records import HAND_DIM, HISTORY_LENGTH, Transition

_PRODUCTS = {'aten::mm': 0, 'aten::bmm': 0, 'aten::addmm': 1, 'aten::baddbmm': 1}  # position of the first factor
_EPISODE = 80


class _RecordProducts(TorchDispatchMode):
    """Notes the factors of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in _PRODUCTS:
            at = _PRODUCTS[name]
            self.factors.append((args[at], args[at + 1]))
        return func(*args, **(kwargs or {}))


def random_transitions(count: int, features: int, context: int, core: int, seed: int = 0) -> list[Transition]:
    """Transitions of random numbers, in episodes of 80 steps."""
    random = np.random.default_rng(seed)

    def draw(length: int) -> np.ndarray:
        return random.normal(size=length).astype(np.float32)

    targets = random.random((count + 1, HISTORY_LENGTH * HAND_DIM), np.float32)
    return [
        Transition(
            sequence=i + 1, episode=i // _EPISODE, step=i % _EPISODE, truncated=i % _EPISODE == _EPISODE - 1,
            features=draw(features), context=draw(context), base_core=draw(core), residual=draw(core),
            next_features=draw(features), next_context=draw(context), next_base_core=draw(core),
            hand_history=targets[i], next_hand_history=targets[i + 1],
        )
        for i in range(count)
    ]  # fmt: skip


def _best_of(repeats: int, function: Callable[[], None]) -> float:
    """Shortest duration (s), which is the one least disturbed by other processes."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


def sac_speed(
    interface: Interface,
    context: int,
    features: int = 1024,
    settings: ResidualSettings | None = None,
    repeats: int = 50,
    device: torch.device = CPU,
) -> dict[str, float | str | int]:
    """Iterations per second of Table B.2, and of its matrix products played back to back.

    Both are measured alternately in the same run with the present number of threads. The products are recorded from a
    real iteration, so shapes, layouts and precision are those of the iteration. On a device other than the processor
    the interface must be there too.

    Returns:
        `iterations_per_second`, `bound_iterations_per_second`, `share_of_bound`, `precision`, `threads`.
    """
    transitions = random_transitions(1000, features, context, interface.core_dim)
    settings = (settings or ResidualSettings()).model_copy(update={'critic_warmup': 0})  # the actor belongs to it
    learner = Learner(settings, interface, transitions, 0, device)
    learner.extend(transitions)
    for _ in range(10):
        learner.update()
    with _RecordProducts() as record:
        learner.update()
    factors = [(a.detach().clone(), b.detach().clone()) for a, b in record.factors]

    @torch.no_grad()
    def products() -> None:
        for a, b in factors:
            a @ b
        if device != CPU:  # which only notes down what is to be done
            torch.cuda.synchronize(device)

    pairs = [(_best_of(5, learner.update), _best_of(5, products)) for _ in range(repeats // 5)]
    iteration, bound = (min(column) for column in zip(*pairs, strict=True))
    return {
        'iterations_per_second': 1 / iteration,
        'bound_iterations_per_second': 1 / bound,
        'share_of_bound': bound / iteration,
        'precision': 'bfloat16' if any(a.dtype == torch.bfloat16 for a, _ in factors) else 'float32',
        'threads': torch.get_num_threads(),
    }
