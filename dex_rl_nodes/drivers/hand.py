"""One interface for six-motor hands: normalised travel in, normalised travel out.

Order: thumb rotation, thumb bend, index, middle, ring, pinky; 0 open, 1 closed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dex_rl_nodes.drivers import inspire, ruiyan
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.errors import UserError

JOINTS = ('thumb_rotation', 'thumb_bend', 'index', 'middle', 'ring', 'pinky')


@dataclass(frozen=True)
class HandSettings:
    """How a hand is driven."""

    port: str
    baud: int = 0  # bits per second, 0: probe
    speed: float = 2.0  # full travels per second
    current: int = 600  # limit per motor (mA)
    reply_timeout: float = 0.015  # s
    stale_after: float = 0.5  # feedback older than this counts as missing (s)
    hand_id: int = 1  # Inspire only


@dataclass
class HandReading:
    """What the hand reports, per motor in the order of JOINTS."""

    position: np.ndarray = field(default_factory=lambda: np.full(6, np.nan, np.float32))  # normalised travel
    current: np.ndarray = field(default_factory=lambda: np.zeros(6, np.float32))  # raw unit of the hand
    time: np.ndarray = field(default_factory=lambda: np.full(6, -np.inf))  # of the last reply (s, monotonic)
    status: list[int] = field(default_factory=lambda: [0] * 6)  # code of the hand, 0 is well

    def age(self, now: float) -> np.ndarray:
        """Seconds since each motor last answered, (6,)."""
        return now - self.time


class Hand(Protocol):
    """What a hand driver offers to HandController."""

    reading: HandReading

    def exchange(self, target: np.ndarray | None) -> None:
        """Send targets (6,) in [0, 1], or only ask when None; update `reading`. LinkLost when unplugged."""

    def clear_faults(self) -> None: ...

    def faults(self) -> dict[str, str]:
        """Joint name to fault in words; empty when all is well."""

    def close(self) -> None: ...


class RuiyanHand:
    """Ruiyan RH6 / RY-H2 on RS485."""

    def __init__(self, settings: HandSettings):
        self._settings = settings
        self._parser = ruiyan.ReplyParser()
        self.reading = HandReading()
        bauds = (settings.baud,) if settings.baud else ruiyan.BAUD_RATES
        self._link = _probe(settings, bauds, ruiyan.encode_read(1), lambda data: bool(ruiyan.ReplyParser().feed(data)))
        self.baud = self._link.baud

    def exchange(self, target: np.ndarray | None) -> None:
        """One request and one reply per motor: the bus is half duplex, and a reply is known by its motor id."""
        for index, motor in enumerate(ruiyan.MOTORS):
            if target is None:
                request = ruiyan.encode_read(motor)
            else:
                counts = round(float(target[index]) * ruiyan.FULL_TRAVEL)
                request = ruiyan.encode_move(motor, counts, round(1000 * self._settings.speed), self._settings.current)
            self._link.write(request)
            self._receive(motor)

    def _receive(self, motor: int) -> None:
        deadline = time.monotonic() + self._settings.reply_timeout
        while time.monotonic() < deadline:
            replies = self._parser.feed(self._link.read(ruiyan.FRAME_LENGTH))
            for reply in replies:
                self._store(reply)
            if any(reply.motor == motor for reply in replies):
                return
        self._parser.clear()

    def _store(self, reply: ruiyan.Feedback) -> None:
        index = reply.motor - 1
        now = time.monotonic()
        position = reply.position / ruiyan.FULL_TRAVEL
        if not _plausible(self.reading, index, position, now, self._settings.speed):
            return
        self.reading.position[index] = position
        self.reading.current[index] = reply.current
        self.reading.status[index] = reply.status
        self.reading.time[index] = now

    def clear_faults(self) -> None:
        """Clear the fault of every motor that has one."""
        for index, status in enumerate(self.reading.status):
            if status in ruiyan.FAULTS:
                self._link.write(ruiyan.encode_clear(index + 1))
                self._receive(index + 1)

    def faults(self) -> dict[str, str]:
        """See Hand."""
        return {
            JOINTS[index]: ruiyan.FAULTS[status]
            for index, status in enumerate(self.reading.status)
            if status in ruiyan.FAULTS
        }

    def close(self) -> None:
        """Give the port back; the hand holds its last target."""
        self._link.close()


class InspireHand:
    """Inspire RH56 on RS485."""

    _OTHERS = (inspire.CURRENT, inspire.ERROR)  # read in turn, one per cycle; each read costs about 6 ms

    def __init__(self, settings: HandSettings):
        self._settings = settings
        self._parser = inspire.ReplyParser()
        self.reading = HandReading()
        self._cycle = 0
        bauds = (settings.baud,) if settings.baud else inspire.BAUD_RATES
        request = inspire.encode_read(settings.hand_id, inspire.ANGLE_ACTUAL, 12)
        self._link = _probe(settings, bauds, request, lambda data: bool(inspire.ReplyParser().feed(data)))
        self.baud = self._link.baud
        speed = min(round(1000 * settings.speed / 2), 1000)
        self._write(inspire.SPEED_SET, [speed] * 6)

    def exchange(self, target: np.ndarray | None) -> None:
        """Write the angles, read them back, and one of the other blocks in turn."""
        if target is not None:
            self._write(inspire.ANGLE_SET, inspire.angles_from_travel([float(value) for value in target]))
        if data := self._read(inspire.ANGLE_ACTUAL, 12):
            self._store(inspire.travel_from_angles(inspire.words(data)))
        block = self._OTHERS[self._cycle % len(self._OTHERS)]
        self._cycle += 1
        if block == inspire.CURRENT:
            if data := self._read(block, 12):
                self.reading.current[:] = inspire.words(data)[::-1]
        elif data := self._read(block, 6):
            self.reading.status[:] = list(data[::-1])

    def _store(self, travel: list[float]) -> None:
        now = time.monotonic()
        for index, position in enumerate(travel):
            if _plausible(self.reading, index, position, now, self._settings.speed):
                self.reading.position[index] = position
                self.reading.time[index] = now

    def _read(self, address: int, count: int) -> bytes:
        """Data bytes of registers; empty when no reply came in time."""
        reply = self._request(inspire.encode_read(self._settings.hand_id, address, count), address, count)
        return reply.data if reply and len(reply.data) == count else b''

    def _write(self, address: int, values: list[int]) -> None:
        self._request(inspire.encode_write_words(self._settings.hand_id, address, values), address, 1)

    def _request(self, frame: bytes, address: int, count: int) -> inspire.Reply | None:
        self._link.write(frame)
        deadline = time.monotonic() + self._settings.reply_timeout
        while time.monotonic() < deadline:
            for reply in self._parser.feed(self._link.read(inspire.REPLY_OVERHEAD + count)):
                if reply.address == address and reply.hand == self._settings.hand_id:
                    return reply
        self._parser.clear()
        return None

    def clear_faults(self) -> None:
        """Clear what a command can clear; over-temperature needs time."""
        request = inspire.encode_write(self._settings.hand_id, inspire.CLEAR_ERROR, b'\x01')
        self._request(request, inspire.CLEAR_ERROR, 1)

    def faults(self) -> dict[str, str]:
        """See Hand."""
        return {
            JOINTS[index]: ', '.join(text for bit, text in inspire.ERRORS.items() if status >> bit & 1)
            for index, status in enumerate(self.reading.status)
            if status
        }

    def close(self) -> None:
        """Give the port back; the hand holds its last target."""
        self._link.close()


def _plausible(reading: HandReading, index: int, position: float, now: float, speed: float) -> bool:
    """Whether a motor can have come this far since its last reply.

    The checksum is one byte, so about one damaged frame in 256 passes it; a jump that the motor's speed does not
    allow is such a frame.
    """
    if not 0 <= position <= 1:
        return False
    elapsed = now - reading.time[index]
    if not np.isfinite(elapsed):
        return True
    return bool(abs(position - reading.position[index]) <= 0.05 + 2 * speed * elapsed)


def _probe(
    settings: HandSettings, bauds: tuple[int, ...], request: bytes, answered: Callable[[bytes], bool]
) -> SerialLink:
    """Open the port at the first baud rate at which the hand answers."""
    for baud in bauds:
        link = SerialLink(settings.port, baud, settings.reply_timeout)
        for _ in range(3):
            link.discard_input()
            link.write(request)
            if answered(link.read(64)):
                return link
        link.close()
    tried = ', '.join(str(baud) for baud in bauds)
    raise UserError(
        f'no hand answers on {settings.port} at {tried} baud; check its power, its model in config/robots/ '
        'and its baud rate'
    )


class HandController:
    """Keeps a hand safe: no motion at start, limits, faults, silence, unplugging.

    At connection the measured pose becomes the target. A target is approached with at most `largest_step` per cycle.
    Without a command for `command_timeout` the hand stops where it is. A fault stops the motor where it is, and is
    cleared at most once per `clear_interval`. A lost link is opened again until it works.
    """

    def __init__(
        self,
        connect: Callable[[], Hand],
        largest_step: float,
        command_timeout: float,
        clear_interval: float = 1.0,
        reconnect_interval: float = 0.5,
    ):
        self._connect = connect
        self._largest_step = largest_step
        self._command_timeout = command_timeout
        self._clear_interval = clear_interval
        self._reconnect_interval = reconnect_interval
        self._goal: np.ndarray | None = None
        self._commanded_at = -np.inf
        self._cleared_at = -np.inf
        self._tried_at = -np.inf
        self.hand: Hand | None = None
        self.target: np.ndarray | None = None  # what was last sent, (6,)
        self.reconnections = 0
        self.problem = ''  # one sentence while not working

    def command(self, goal: np.ndarray, now: float) -> None:
        """Take a new goal (6,) in [0, 1]; anything else is refused with ValueError."""
        goal = np.asarray(goal, np.float64)
        if goal.shape != (6,) or not np.all(np.isfinite(goal)) or goal.min() < 0 or goal.max() > 1:
            raise ValueError('a hand target has six finite numbers in [0, 1]')
        self._goal = goal
        self._commanded_at = now

    def cycle(self, now: float) -> HandReading | None:
        """Exchange once with the hand; None while it cannot be reached."""
        if self.hand is None and not self._reconnect(now):
            return None
        try:
            self._exchange(now)
        except LinkLost as error:
            self._lose(str(error))
            return None
        return self.hand.reading

    def _reconnect(self, now: float) -> bool:
        if now - self._tried_at < self._reconnect_interval:
            return False
        self._tried_at = now
        first = self.target is None and not self.problem
        try:
            self.hand = self._connect()
        except LinkLost as error:
            self.problem = str(error)
            return False
        except UserError as error:
            if first:
                raise
            self.problem = str(error)
            return False
        self.reconnections += not first
        self.target = self._goal = None
        return True

    def _lose(self, problem: str) -> None:
        self.hand.close()
        self.hand = None
        self.problem = problem

    def _exchange(self, now: float) -> None:
        reading = self.hand.reading
        if self.target is None:
            self.hand.exchange(None)
            missing = [JOINTS[index] for index in np.flatnonzero(~np.isfinite(reading.position))]
            if missing:
                self.problem = f'no answer from motor {", ".join(missing)}; check its cable and its id'
                return
            self.problem = ''
            self.target = reading.position.astype(np.float64)
            return
        goal = self._goal
        if goal is not None and now - self._commanded_at > self._command_timeout:
            self._goal = goal = None
            self.target = reading.position.astype(np.float64)
        if goal is not None:
            self.target = self.target + np.clip(goal - self.target, -self._largest_step, self._largest_step)
        self._hold_faulty(reading, now)
        self.hand.exchange(self.target)

    def _hold_faulty(self, reading: HandReading, now: float) -> None:
        faults = self.hand.faults()
        self.problem = '; '.join(f'{joint}: {fault}' for joint, fault in faults.items())
        for joint in faults:
            self.target[JOINTS.index(joint)] = reading.position[JOINTS.index(joint)]
        if faults and now - self._cleared_at > self._clear_interval:
            self._cleared_at = now
            self.hand.clear_faults()
