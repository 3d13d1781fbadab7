"""What emulated devices really did, and whether their drivers said so."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dex_rl_nodes.drivers import ruiyan
from dex_rl_nodes.drivers.emulators.hands import Motors, RuiyanEmulator

TOLERANCE = 0.01  # normalised travel; a published value farther from everything that was true is wrong
WINDOW = 0.15  # s before its stamp in which a published value must have been true


@dataclass
class Truth:
    """What was true when, of each of six channels; appended by one thread, read by another."""

    channels: list[deque] = field(default_factory=lambda: [deque(maxlen=1024) for _ in range(6)])

    def tell(self, channel: int, value: float) -> None:
        """The channel has this value now."""
        self.channels[channel].append((time.time_ns(), value))

    def error(self, channel: int, value: float, stamp: int, window: float) -> float:
        """Distance of a value from everything the channel was in the window (s) before a stamp (ns)."""
        seen = []
        for when, known in reversed(self.channels[channel].copy()):
            if when < stamp - window * 1e9 and seen:
                break
            if when <= stamp:
                seen.append(known)  # the last one before the window stands where nothing is in it
        if not seen:
            return float('inf')
        low, high = min(seen), max(seen)
        return max(low - value, value - high, 0.0)


@dataclass
class Judge:
    """Compares what a driver publishes with the truth."""

    truth: Truth
    window: float = WINDOW
    values: int = 0
    wrong: int = 0
    misassigned: int = 0
    largest_error: float = 0.0
    examples: list = field(default_factory=list)

    def look(self, positions: np.ndarray, stamp: int) -> None:
        """A published message: six values and the stamp (ns) of the driver."""
        for channel, value in enumerate(positions):
            error = self.truth.error(channel, float(value), stamp, self.window)
            self.values += 1
            self.largest_error = max(self.largest_error, error)
            if error <= TOLERANCE:
                continue
            self.wrong += 1
            others = [self.truth.error(other, float(value), stamp, self.window) for other in range(6)]
            self.misassigned += bool(min(others) <= TOLERANCE)
            self.examples = [*self.examples, [channel, round(float(value), 4), round(error, 4)]][:10]

    def summary(self) -> dict:
        """What was found, for a JSON file."""
        names = ('values', 'wrong', 'misassigned', 'largest_error', 'examples')
        return {name: getattr(self, name) for name in names}


class WatchedHand(RuiyanEmulator):
    """An emulated hand that notes what it answered and what it was commanded.

    Attributes:
        truth: positions it reported, before the cable could damage them.
        first_targets: by motor index, target of the first move since it was plugged in.
        asked_first: whether every motor was read before one was moved, since it was plugged in.
        astray: targets that are farther than `slack` from those in `allowed`: damaged commands it believed.
    """

    def __init__(self, path: Path, allowed: Callable[[int, float], bool] = lambda _motor, _target: True, **options):
        super().__init__(path, **options)
        self.truth = Truth()
        self.astray = 0
        self._allowed = allowed
        self._forget()

    def _forget(self) -> None:
        self.first_targets: dict[int, float] = {}
        self.asked_first = True
        self._asked: set[int] = set()

    def plug_in(self) -> None:
        """See SerialDevice."""
        self._forget()
        super().plug_in()

    def _answer(self, frame: bytes) -> bytes:
        answer = super()._answer(frame)
        if (reply := ruiyan.decode_reply(answer)) is None:
            return answer
        motor = reply.motor - 1
        self.truth.tell(motor, reply.position / ruiyan.FULL_TRAVEL)
        if reply.command == ruiyan.MOVE:
            target = self.motors.target[motor]
            self.first_targets.setdefault(motor, target)
            self.asked_first = self.asked_first and len(self._asked) == len(ruiyan.MOTORS)
            self.astray += not self._allowed(motor, target)
        else:
            self._asked.add(motor)
        return answer


@dataclass(frozen=True)
class Waves:
    """A motion of its own for every motor.

    Args:
        apart: every motor stays in a sixth of the travel that belongs to it alone; else all go nearly everywhere.
    """

    apart: bool

    def targets(self, seconds: float) -> np.ndarray:
        """Targets (6,), normalised travel."""
        motor = np.arange(6)
        if self.apart:
            return (motor + 0.5) / 6 + 0.06 * np.sin(2 * np.pi * (0.3 + 0.1 * motor) * seconds)
        return 0.5 + 0.45 * np.sin(2 * np.pi * (0.15 + 0.05 * motor) * seconds + motor)

    def allows(self, motor: int, target: float) -> bool:
        """Whether a target can belong to this motor."""
        return not self.apart or abs(target - (motor + 0.5) / 6) <= 0.06 + TOLERANCE

    def motors(self) -> Motors:
        """Motors at the start of the motion."""
        return Motors(self.targets(0.0).tolist())
