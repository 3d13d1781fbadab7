"""How long a node's work takes, for its diagnostics."""

import time


class Timing:
    """Durations since the last report; a context manager around the work."""

    def __init__(self):
        self._durations: list[float] = []
        self._started = 0.0
        self.count = 0  # since the start of the node

    def __enter__(self) -> 'Timing':
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_exception) -> None:
        self.add(time.perf_counter() - self._started)

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.count += 1
        self._durations.append(seconds)

    def take(self) -> dict[str, float]:
        """Count so far; mean and longest duration (ms) since the last call."""
        durations, self._durations = self._durations, []
        if not durations:
            return {'count': self.count}
        mean = sum(durations) / len(durations)
        return {'count': self.count, 'mean_ms': 1e3 * mean, 'longest_ms': 1e3 * max(durations)}
