"""When a control tick begins, and what belongs to it. Knows no ROS."""

from dataclasses import dataclass, field

import numpy as np


class TickClock:
    """Chooses the frames that begin a tick: the first at or after each control period, give or take half a frame.

    The tolerance keeps a camera that runs at the control rate from missing every second period by a hair.

    Args:
        period: control period (ns).
        frame_period: time between two camera frames (ns).
    """

    def __init__(self, period: int, frame_period: int):
        self._period = period
        self._tolerance = min(period, frame_period) // 2
        self._due = 0

    def start(self, stamp: int) -> None:
        """An episode starts: its first tick is due."""
        self._due = stamp + self._tolerance

    def take(self, stamp: int) -> bool:
        """Whether a frame begins a tick."""
        if stamp < self._due - self._tolerance:
            return False
        late = stamp - self._due > self._period - self._tolerance
        self._due = (stamp if late else self._due) + self._period
        return True


@dataclass
class FrameCount:
    """Frames of one camera."""

    stamp: int = 0  # of the newest frame (ns)
    received: int = 0
    longest_gap: int = 0  # ns between two frames
    image: np.ndarray | None = field(default=None, repr=False)
    problem: str = ''  # why the newest frame could not be used

    def add(self, stamp: int, image: np.ndarray) -> None:
        """The newest frame."""
        if self.received:
            self.longest_gap = max(self.longest_gap, stamp - self.stamp)
        self.stamp, self.image, self.problem = stamp, image, ''
        self.received += 1
