"""What the training loops share: learning-rate schedule, split of the episodes, progress."""

import math
from collections.abc import Callable

import numpy as np
import torch

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.networks import native_bfloat16

Progress = Callable[[int, int], None]  # steps done, steps in all


def no_progress(_done: int, _total: int) -> None:
    """Report to nobody."""


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear from 0 over `warmup` steps, then cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def low_precision(device: torch.device = CPU) -> torch.autocast:
    """Matrix products of supervised training in bfloat16 where the processor multiplies it natively; one step each.

    A graphics card keeps float32: with networks of this size it waits for instructions, not for products.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device == CPU and native_bfloat16())


def split_episodes(count: int, seed: int, test_fraction: float = 0.1) -> tuple[list[int], list[int]]:
    """Split episodes into training and held-out ones (9:1, appendix B.2); the same for prior and policy.

    Args:
        count: number of episodes.
        seed: seed of the run.
        test_fraction: share of the episodes that is held out, at least one episode.

    Raises:
        UserError: fewer than two episodes.
    """
    if count < 2:
        raise UserError(
            f'{count} demonstration{"" if count == 1 else "s"} cannot be split 9:1 into training and test; '
            'collect at least 2, better 20'
        )
    held_out = max(1, round(count * test_fraction))
    order = np.random.default_rng([seed, count]).permutation(count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())
