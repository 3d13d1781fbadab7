"""What a hand reports, and when it may be believed.

Frames of these hands carry a checksum of one byte, which about one damaged frame in 256 passes. So a position counts
when it goes on from the ones before it. When it does not, the middle one of three counts: if at most one of them is
damaged, it lies between two true ones.
"""

from dataclasses import dataclass, field

import numpy as np

MOTORS = 6
_CLOSE = 0.005  # normalised travel; a reading so near to what is expected is believed at once
_RECENT = 0.05  # s; a position, and the motion between two, say what comes next for so long
_BEYOND = 0.02  # normalised travel; a finger at its stop may report a little more than its travel
_APART = 0.1  # normalised travel; readings farther apart are no witnesses of each other


@dataclass(frozen=True)
class _Sample:
    """A position (normalised travel) and when it was read (s, monotonic)."""

    position: float
    time: float


@dataclass
class _Motor:
    """The last believed position of a motor, its velocity, and the readings since that wait for witnesses."""

    last: _Sample = _Sample(np.nan, -np.inf)
    velocity: float = 0.0
    waiting: list[_Sample] = field(default_factory=list)

    def believe(self, sample: _Sample, speed: float) -> _Sample | None:
        """What counts after one more reading, given the speed of the motor (travels per second); None: as before."""
        if not self._goes_on(sample):
            self.waiting = [*self.waiting[-2:], sample]
            sample = self._witnessed(speed)
            if sample is None:
                return None
        elapsed = sample.time - self.last.time
        self.velocity = (sample.position - self.last.position) / elapsed if 0 < elapsed < _RECENT else 0.0
        self.waiting = [other for other in self.waiting if other.time > sample.time]
        self.last = sample
        return sample

    def _goes_on(self, sample: _Sample) -> bool:
        """Whether a reading is near the last one, or goes on with its motion."""
        elapsed = sample.time - self.last.time
        expected = (self.last.position, self.last.position + self.velocity * elapsed)
        return elapsed < _RECENT and min(abs(sample.position - place) for place in expected) <= _CLOSE

    def _witnessed(self, speed: float) -> _Sample | None:
        """The newest reading when the one before it agrees, else the middle one of three; None: wait."""
        newest = self.waiting[-1]
        elapsed = newest.time - self.last.time
        possible = (
            np.isnan(self.last.position) or abs(newest.position - self.last.position) <= _CLOSE + 2 * speed * elapsed
        )
        if possible and len(self.waiting) > 1 and self._agree(self.waiting[-2], newest):
            return newest
        samples = self.waiting[:]
        if possible and len(samples) == 2 and elapsed < _RECENT:
            samples.append(self.last)
        if len(samples) < 3:
            return None
        low, middle, high = sorted(samples, key=lambda sample: sample.position)
        near = min(middle.position - low.position, high.position - middle.position) <= _APART
        return middle if near and middle is not self.last else None

    def _agree(self, first: _Sample, second: _Sample) -> bool:
        """Whether two readings say the same place, or the same motion from the last believed one."""
        elapsed = first.time - self.last.time
        velocity = (first.position - self.last.position) / elapsed if 0 < elapsed < _RECENT else 0.0
        expected = (first.position, first.position + velocity * (second.time - first.time))
        return min(abs(second.position - place) for place in expected) <= _CLOSE


@dataclass
class HandReading:
    """What the hand reports, per motor: thumb rotation, thumb bend, index, middle, ring, pinky."""

    position: np.ndarray = field(default_factory=lambda: np.full(MOTORS, np.nan, np.float32))  # normalised travel
    current: np.ndarray = field(default_factory=lambda: np.zeros(MOTORS, np.float32))  # raw unit of the hand
    time: np.ndarray = field(default_factory=lambda: np.full(MOTORS, -np.inf))  # of that position (s, monotonic)
    status: list[int] = field(default_factory=lambda: [0] * MOTORS)  # code of the hand, 0 is well
    doubted: int = 0  # positions that were not believed

    def __post_init__(self) -> None:
        self._motors = [_Motor() for _ in range(MOTORS)]
        self._statuses = [0] * MOTORS
        self._currents = [[0.0] * 3 for _ in range(MOTORS)]

    def age(self, now: float) -> np.ndarray:
        """Seconds since the position of each motor was asked for, (6,)."""
        return now - self.time

    def forget(self, motors: np.ndarray) -> None:
        """The positions of some motors (6,) bool are not known any more."""
        self.position[motors] = np.nan

    def tell_position(self, motor: int, position: float, now: float, speed: float) -> None:
        """Take a position (normalised travel) of motor 0 to 5, if it can be believed.

        Args:
            now: when it was asked for (s, monotonic); a late reply says where the motor was.
            speed: of the motor at most (travels per second).
        """
        believed = None
        if -_BEYOND <= position <= 1 + _BEYOND:
            believed = self._motors[motor].believe(_Sample(min(max(position, 0.0), 1.0), now), speed)
        self.doubted += believed is None
        if believed is not None:
            self.position[motor], self.time[motor] = believed.position, believed.time

    def tell_status(self, motor: int, status: int) -> None:
        """Take a status code; it counts when it came twice in a row."""
        if status == self._statuses[motor]:
            self.status[motor] = status
        self._statuses[motor] = status

    def tell_current(self, motor: int, current: float) -> None:
        """Take a current (raw unit); the middle one of the last three counts."""
        self._currents[motor] = [*self._currents[motor][1:], current]
        self.current[motor] = sorted(self._currents[motor])[1]
