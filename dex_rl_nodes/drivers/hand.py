"""One interface for six-motor hands: normalised travel in, normalised travel out.

Order: thumb rotation, thumb bend, index, middle, ring, pinky; 0 open, 1 closed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dex_rl_nodes.drivers import inspire, ruiyan
from dex_rl_nodes.drivers.hand_reading import HandReading
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.errors import UserError

_FIRST_READS = 4  # a position counts when two readings agree, and a reply may be lost
_TELLS = 5  # times a limit is told until the hand acknowledges it
_SILENT = 0.5  # s; a motor without an answer for so long may be anywhere when it answers again
_NEWS = 0.15  # s for whoever commands to hear where the hand was found
_STOP_SENDS = 10  # a stop is commanded so often, for a command may be lost
JOINTS = ('thumb_rotation', 'thumb_bend', 'index', 'middle', 'ring', 'pinky')


@dataclass(frozen=True)
class HandSettings:
    """How a hand is driven."""

    port: str
    baud: int = 0  # bits per second, 0: probe
    speed: float = 2.0  # full travels per second
    current: int = 600  # limit per motor (mA)
    reply_timeout: float = 0.015  # s
    hand_id: int = 1  # Inspire only
    force: int = 500  # Inspire only, at which a motor stops (g)


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
        # every motor is asked, for it may be the first one that is missing
        requests = [ruiyan.encode_read(motor) for motor in ruiyan.MOTORS]
        self._link = _probe(settings, bauds, requests, lambda data: bool(ruiyan.ReplyParser().feed(data)))
        self.baud = self._link.baud

    def exchange(self, target: np.ndarray | None) -> None:
        """One request and one reply per motor: the bus is half duplex, and a reply is known by its motor id."""
        for index, motor in enumerate(ruiyan.MOTORS):
            if target is None:
                request = ruiyan.encode_read(motor)
            else:
                counts = round(float(target[index]) * ruiyan.FULL_TRAVEL)
                request = ruiyan.encode_move(motor, counts, round(1000 * self._settings.speed), self._settings.current)
            self._ask(motor, request)

    def _ask(self, motor: int, request: bytes) -> None:
        """One request and its reply; what else comes on the bus is late or damaged."""
        self._link.discard_input()
        self._parser.clear()
        asked = time.monotonic()
        self._link.write(request)
        while time.monotonic() < asked + self._settings.reply_timeout:
            for reply in self._parser.feed(self._link.read(ruiyan.FRAME_LENGTH)):
                if reply.motor == motor and reply.command == request[ruiyan.COMMAND]:
                    self._store(reply, asked)
                    return

    def _store(self, reply: ruiyan.Feedback, asked: float) -> None:
        if reply.status and reply.status not in ruiyan.WARNINGS and reply.status not in ruiyan.FAULTS:
            return  # there is no such status: a damaged frame
        index = reply.motor - 1
        position = reply.position / ruiyan.FULL_TRAVEL
        self.reading.tell_position(index, position, asked, self._settings.speed)
        self.reading.tell_current(index, reply.current)
        self.reading.tell_status(index, reply.status)

    def clear_faults(self) -> None:
        """Clear the fault of every motor that has one."""
        for index, status in enumerate(self.reading.status):
            if status in ruiyan.FAULTS:
                self._ask(index + 1, ruiyan.encode_clear(index + 1))

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
        self._link = _probe(settings, bauds, 3 * [request], lambda data: bool(inspire.ReplyParser().feed(data)))
        self.baud = self._link.baud
        speed = min(round(1000 * settings.speed / 2), 1000)
        for register, value in ((inspire.SPEED_SET, speed), (inspire.FORCE_SET, settings.force)):
            # else it is what somebody stored in the hand
            if not any(self._write(register, [value] * 6) for _ in range(_TELLS)):
                self._link.close()
                raise LinkLost(f'the hand on {settings.port} does not take its limits of speed and force')

    def exchange(self, target: np.ndarray | None) -> None:
        """Write the angles, read them back, and one of the other blocks in turn."""
        if target is not None:
            self._write(inspire.ANGLE_SET, inspire.angles_from_travel([float(value) for value in target]))
        asked = time.monotonic()
        if data := self._read(inspire.ANGLE_ACTUAL, 12):
            for motor, position in enumerate(inspire.travel_from_angles(inspire.words(data))):
                self.reading.tell_position(motor, position, asked, self._settings.speed)
        block = self._OTHERS[self._cycle % len(self._OTHERS)]
        self._cycle += 1
        if block == inspire.CURRENT:
            if data := self._read(block, 12):
                for motor, current in enumerate(inspire.words(data)[::-1]):
                    self.reading.tell_current(motor, current)
        elif data := self._read(block, 6):
            for motor, status in enumerate(data[::-1]):
                self.reading.tell_status(motor, status)

    def _read(self, address: int, count: int) -> bytes:
        """Data bytes of registers; empty when no reply came in time."""
        reply = self._request(inspire.encode_read(self._settings.hand_id, address, count), address, count)
        return reply.data if reply and len(reply.data) == count else b''

    def _write(self, address: int, values: list[int]) -> bool:
        """Write registers; whether the hand has acknowledged it."""
        return (
            self._request(inspire.encode_write_words(self._settings.hand_id, address, values), address, 1) is not None
        )

    def _request(self, frame: bytes, address: int, count: int) -> inspire.Reply | None:
        self._link.discard_input()
        self._parser.clear()
        self._link.write(frame)
        deadline = time.monotonic() + self._settings.reply_timeout
        while time.monotonic() < deadline:
            for reply in self._parser.feed(self._link.read(inspire.REPLY_OVERHEAD + count)):
                if reply.address == address and reply.hand == self._settings.hand_id:
                    return reply
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


def _probe(
    settings: HandSettings, bauds: tuple[int, ...], requests: list[bytes], answered: Callable[[bytes], bool]
) -> SerialLink:
    """Open the port at the first baud rate at which the hand answers one of some requests."""
    for baud in bauds:
        link = SerialLink(settings.port, baud, settings.reply_timeout)
        for request in requests:
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

    Without a command the hand is only read. A first command starts from the measured pose; a target is approached with
    at most `largest_step` per cycle. Without a command for `command_timeout` the hand stops where it is. A fault stops
    the motor where it is, and is cleared at most once per `clear_interval`. A lost link is opened again until it works;
    a hand that is not there at first is waited for `patience` seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Hand],
        largest_step: float,
        command_timeout: float,
        clear_interval: float = 1.0,
        reconnect_interval: float = 0.5,
        patience: float = 0.0,
    ):
        self._connect = connect
        self._largest_step = largest_step
        self._command_timeout = command_timeout
        self._clear_interval = clear_interval
        self._reconnect_interval = reconnect_interval
        self._patience = patience
        self._first_try = np.inf
        self._connected = False  # at least once
        self._stops_left = 0
        self._goal: np.ndarray | None = None
        self._commanded_at = self._found_at = -np.inf
        self._cleared_at = -np.inf
        self._tried_at = -np.inf
        self.hand: Hand | None = None
        self.target: np.ndarray | None = None  # what was last sent, (6,)
        self.reconnections = 0
        self.problem = ''  # one sentence while not working

    def command(self, goal: np.ndarray, now: float) -> None:
        """Take a new goal (6,) in [0, 1]; anything else is refused with ValueError.

        It is ignored until whoever commands has had the time to hear where the hand was found: somebody may have moved
        it while it did not answer.
        """
        goal = np.asarray(goal, np.float64)
        if goal.shape != (6,) or not np.all(np.isfinite(goal)) or goal.min() < 0 or goal.max() > 1:
            raise ValueError('a hand target has six finite numbers in [0, 1]')
        if self.target is not None and now - self._found_at > _NEWS:
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

    def close(self) -> None:
        """Stop where the hand is measured, as after a silence, and give the port back."""
        if self.hand is None:
            return
        moving = self._goal is not None or self._stops_left > 0
        try:
            if moving and self.target is not None:  # else no position was ever read
                position = self.hand.reading.position.astype(np.float64)
                for _ in range(_STOP_SENDS):
                    self.hand.exchange(position)
        except LinkLost:
            pass  # nobody is there to be stopped
        finally:
            self.hand.close()
            self.hand = None

    def _reconnect(self, now: float) -> bool:
        if now - self._tried_at < self._reconnect_interval:
            return False
        self._tried_at = now
        self._first_try = min(self._first_try, now)
        try:
            self.hand = self._connect()
        except LinkLost as error:
            self.problem = str(error)
            return False
        except UserError as error:
            if not self._connected and now - self._first_try >= self._patience:
                raise
            self.problem = str(error)
            return False
        self.reconnections += self._connected
        self._connected = True
        self.target = self._goal = None
        return True

    def _lose(self, problem: str) -> None:
        self.hand.close()
        self.hand = None
        self.problem = problem

    def _exchange(self, now: float) -> None:
        reading = self.hand.reading
        if self.target is None:
            if not self._read_first():
                return
            self._goal, self._found_at = None, now
        if self._goal is not None and now - self._commanded_at > self._command_timeout:
            self._goal, self._stops_left = None, _STOP_SENDS
            self.target = reading.position.astype(np.float64)
        moving = self._goal is not None or self._stops_left > 0
        if self._goal is not None:
            self.target = self.target + np.clip(self._goal - self.target, -self._largest_step, self._largest_step)
        elif moving:
            self._stops_left -= 1
        self._hold_faulty(reading, now)
        self.hand.exchange(self.target if moving else None)
        silent = reading.age(now) > _SILENT
        if silent.any():
            # without power it is moved by whatever touches it, and motion starts again from where that was
            reading.forget(silent)
            self.target = self._goal = None
            self.problem = _no_answer(silent)
            if silent.all():
                raise LinkLost(self.problem)  # opened again, it is also told its limits again
        elif not moving:
            # the hand holds by itself; wherever it is, the next command starts there
            self.target = reading.position.astype(np.float64)

    def _read_first(self) -> bool:
        """Take the measured pose as target; False while a motor does not answer."""
        reading = self.hand.reading
        for _ in range(_FIRST_READS):
            self.hand.exchange(None)
            if np.isfinite(reading.position).all():
                break
        missing = ~np.isfinite(reading.position)
        if missing.any():
            self.problem = _no_answer(missing)
            return False
        self.problem, self._stops_left = '', 0
        self.target = reading.position.astype(np.float64)
        return True

    def _hold_faulty(self, reading: HandReading, now: float) -> None:
        faults = self.hand.faults()
        self.problem = '; '.join(f'{joint}: {fault}' for joint, fault in faults.items())
        for joint in faults:
            self.target[JOINTS.index(joint)] = reading.position[JOINTS.index(joint)]
        if faults and now - self._cleared_at > self._clear_interval:
            self._cleared_at = now
            self.hand.clear_faults()


def _no_answer(silent: np.ndarray) -> str:
    """One sentence for motors (6,) bool that do not answer."""
    names = ', '.join(JOINTS[index] for index in np.flatnonzero(silent))
    return f'no answer from motor {names}; check its cable and its id'
