"""What a hand reports, and when it may be believed.

Frames of these hands carry a checksum of one byte, which about one damaged frame in 256 passes. So a value counts when
it goes on from the values before it, or when the next reading says the same.
"""

from dataclasses import dataclass, field

import numpy as np

MOTORS = 6
_CLOSE = 0.005  # normalised travel; a reading so near to what is expected is believed at once
_RECENT = 0.05  # s; the motion between two readings says where the next one is expected for so long


@dataclass
class _Motor:
    """The last two believed positions with their times (s), and one that waits for a second of its kind."""

    position: float = np.nan
    time: float = -np.inf
    velocity: float = 0.0
    doubted: float = np.nan
    doubted_at: float = -np.inf
    agreeing: int = 0

    def believes(self, position: float, now: float, speed: float) -> bool:
        """Whether a reading counts, given the speed of the motor (travels per second)."""
        elapsed = now - self.time
        expected = self.position + self.velocity * elapsed if elapsed < _RECENT else self.position
        if not min(abs(position - self.position), abs(position - expected)) <= _CLOSE:
            # one more witness for what the motor cannot have done
            possible = not np.isfinite(self.time) or abs(position - self.position) <= _CLOSE + 2 * speed * elapsed
            reach = _CLOSE + 2 * speed * (now - self.doubted_at)
            agrees = abs(position - self.doubted) <= min(reach, 0.1)
            self.agreeing = self.agreeing + 1 if agrees else 1
            self.doubted, self.doubted_at = position, now
            if self.agreeing < (2 if possible else 3):
                return False
        self.velocity = (position - self.position) / elapsed if 0 < elapsed < _RECENT else 0.0
        self.position, self.time, self.agreeing = position, now, 0
        self.doubted, self.doubted_at = np.nan, -np.inf
        return True


@dataclass
class HandReading:
    """What the hand reports, per motor: thumb rotation, thumb bend, index, middle, ring, pinky."""

    position: np.ndarray = field(default_factory=lambda: np.full(MOTORS, np.nan, np.float32))  # normalised travel
    current: np.ndarray = field(default_factory=lambda: np.zeros(MOTORS, np.float32))  # raw unit of the hand
    time: np.ndarray = field(default_factory=lambda: np.full(MOTORS, -np.inf))  # of the last reply (s, monotonic)
    status: list[int] = field(default_factory=lambda: [0] * MOTORS)  # code of the hand, 0 is well
    doubted: int = 0  # positions that were not believed

    def __post_init__(self) -> None:
        self._motors = [_Motor() for _ in range(MOTORS)]
        self._statuses = [0] * MOTORS
        self._currents = [[0.0] * 3 for _ in range(MOTORS)]

    def age(self, now: float) -> np.ndarray:
        """Seconds since each motor last answered, (6,)."""
        return now - self.time

    def tell_position(self, motor: int, position: float, now: float, speed: float) -> None:
        """Take a position (normalised travel) of motor 0 to 5, if it can be believed.

        Args:
            now: when it was read (s, monotonic).
            speed: of the motor at most (travels per second).
        """
        if not (0 <= position <= 1 and self._motors[motor].believes(position, now, speed)):
            self.doubted += 1
            return
        self.position[motor], self.time[motor] = position, now

    def tell_status(self, motor: int, status: int) -> None:
        """Take a status code; it counts when it came twice in a row."""
        if status == self._statuses[motor]:
            self.status[motor] = status
        self._statuses[motor] = status

    def tell_current(self, motor: int, current: float) -> None:
        """Take a current (raw unit); the middle one of the last three counts."""
        self._currents[motor] = [*self._currents[motor][1:], current]
        self.current[motor] = sorted(self._currents[motor])[1]
