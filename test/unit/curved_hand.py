"""Synthetic hand motion: six joints that close along one curved path, each trajectory at its own time and speed."""

import numpy as np


def curved_hand(count: int = 27, seed: int = 0) -> list[np.ndarray]:
    """Hand targets (T, 6) in [0, 1] of `count` trajectories."""
    random = np.random.default_rng(seed)
    trajectories = []
    for _ in range(count):
        ticks, start, duration = random.integers(60, 100), random.integers(10, 30), random.integers(20, 40)
        s = np.clip((np.arange(ticks) - start) / duration, 0, 1)
        s = s * s * (3 - 2 * s)
        path = np.stack([
            0.4 + 0.4 * np.sin(np.pi * s), s, s**2, 0.8 * np.sqrt(s + 1e-3),
            0.5 - 0.5 * np.cos(2 * np.pi * s), 0.3 + 0.3 * np.sin(2 * np.pi * s),
        ], axis=1)  # fmt: skip
        person = 0.004 * random.normal(size=(1, 6))
        trajectories.append(np.clip(path + person, 0, 1).astype(np.float32))
    return trajectories
