"""When a control tick begins, and what belongs to it. Knows no ROS."""

from dataclasses import dataclass, field

import numpy as np


class TickClock:
    """Chooses the frames that begin a tick: the first at or after each control period, give or take.

    A camera at the control rate must not miss a period by a hair, so a frame may be a little early, and periods follow
    a camera that is a little fast.

    Args:
        period: control period (ns).
        frame_period: time between two camera frames (ns).
    """

    def __init__(self, period: int, frame_period: int):
        self._period = period
        self._early = min(period, frame_period) // 4
        self._start = 0
        self._due: int | None = None

    def start(self, stamp: int) -> None:
        """An episode starts: its first tick is due."""
        self._start, self._due = stamp, None

    def take(self, stamp: int) -> bool:
        """Whether a frame begins a tick."""
        due = self._due
        if stamp < (self._start if due is None else due - self._early):
            return False
        if due is None or stamp - due > self._period // 2:
            due = stamp  # the first tick, or one after a gap: periods count from here
        self._due = due + self._period + min(0, stamp - due) // 8
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
