"""Figures of merit."""

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a success rate; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def jitter_terms(hand_targets: np.ndarray) -> np.ndarray:
    """Second-order variation ||h[t+2] - 2 h[t+1] + h[t]|| per tick (LAMP Eq. F.1).

    Args:
        hand_targets: executed hand targets (T, D).

    Returns:
        (T - 2,), empty for fewer than three ticks.
    """
    targets = np.asarray(hand_targets, np.float64)
    if len(targets) < 3:
        return np.zeros(0)
    return np.linalg.norm(targets[2:] - 2 * targets[1:-1] + targets[:-2], axis=1)


def jitter(hand_targets: np.ndarray) -> float:
    """J of a rollout: the mean of its jitter terms, 0 for fewer than three ticks."""
    terms = jitter_terms(hand_targets)
    return float(terms.mean()) if len(terms) else 0.0


def mean(values: Sequence[float]) -> float | None:
    """Mean, None of nothing."""
    return float(np.mean(values)) if len(values) else None
