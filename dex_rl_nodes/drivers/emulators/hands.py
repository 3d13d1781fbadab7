"""Emulated hands: motors that move at their commanded speed, and answer in the hand's protocol."""

import math
import time
from pathlib import Path

from dex_rl_nodes.drivers import inspire, ruiyan
from dex_rl_nodes.drivers.emulators.serial_device import SerialDevice

_FASTEST = 5.0  # full travels per second, whatever is commanded


class Motors:
    """Six motors in normalised travel, in the order thumb rotation ... pinky."""

    def __init__(self, start: list[float]):
        self.position = list(start)
        self.target = list(start)
        self.speed = [2.0] * 6  # full travels per second
        self._time = time.monotonic()

    def advance(self) -> None:
        """Move for the time since the last call."""
        now = time.monotonic()
        elapsed, self._time = now - self._time, now
        for index in range(6):
            step = self.speed[index] * elapsed
            error = self.target[index] - self.position[index]
            self.position[index] += min(max(error, -step), step)


class FollowedMotors(Motors):
    """Motors that something else moves, such as a simulated hand: it reads `target` and writes `position`."""

    def advance(self) -> None:
        """Nothing: they are moved from outside."""


class EmulatedHand(SerialDevice):
    """What the emulated hands have in common.

    Attributes:
        motors: what moves.
        moves: move commands received.
        moved_at: when the last one came (s, monotonic).
    """

    def __init__(self, path: Path, start: list[float] | None = None, motors: Motors | None = None, **options):
        super().__init__(path, **options)
        self.motors = motors or Motors(start or [0.0] * 6)
        self.moves = 0
        self.moved_at = -math.inf

    def _move(self) -> None:
        self.moves += 1
        self.moved_at = time.monotonic()


class RuiyanEmulator(EmulatedHand):
    """Ruiyan RH6. `status` and `silent` (motor ids) can be set while it runs."""

    def __init__(self, path: Path, start: list[float] | None = None, echo: bool = False, **options):
        super().__init__(path, start, **options)
        self.status = [0] * 6
        self.silent: set[int] = set()
        self._echo = echo
        self._buffer = bytearray()

    def receive(self, data: bytes) -> bytes:
        """See SerialDevice."""
        self._buffer += data
        answer = b''
        while len(self._buffer) >= ruiyan.FRAME_LENGTH:
            frame = bytes(self._buffer[: ruiyan.FRAME_LENGTH])
            if frame[0] != ruiyan.HEADER or frame[2:4] != b'\0\x08' or sum(frame[:-1]) & 0xFF != frame[-1]:
                del self._buffer[:1]
                continue
            del self._buffer[: ruiyan.FRAME_LENGTH]
            answer += (frame if self._echo else b'') + self._answer(frame)
        return answer

    def _answer(self, frame: bytes) -> bytes:
        motor, command = frame[1], frame[4]
        if motor not in ruiyan.MOTORS or motor in self.silent:
            return b''
        index = motor - 1
        self.motors.advance()
        if command == ruiyan.MOVE:
            self._move()
            if self.status[index] not in ruiyan.FAULTS:
                self.motors.target[index] = min(int.from_bytes(frame[5:7], 'little') / ruiyan.FULL_TRAVEL, 1.0)
                self.motors.speed[index] = min(int.from_bytes(frame[7:9], 'little') / 1000, _FASTEST)
        elif command == ruiyan.CLEAR:
            self.status[index] = 0
        position = round(self.motors.position[index] * ruiyan.FULL_TRAVEL)
        word = command | self.status[index] << 8 | position << 16
        body = bytes((ruiyan.HEADER, motor, 1, 8)) + word.to_bytes(8, 'little')
        return body + bytes((sum(body) & 0xFF,))


class InspireEmulator(EmulatedHand):
    """Inspire RH56. `errors` (one byte per finger, device order) can be set while it runs."""

    def __init__(self, path: Path, start: list[float] | None = None, hand: int = 1, **options):
        super().__init__(path, start, **options)
        self.errors = bytearray(6)
        self.force: list[int] = []  # g, as it was told; empty: never
        self._hand = hand
        self._buffer = bytearray()

    def receive(self, data: bytes) -> bytes:
        """See SerialDevice."""
        self._buffer += data
        answer = b''
        while len(self._buffer) >= 4:
            size = self._buffer[3] + 5
            if self._buffer[:2] != b'\xeb\x90' or self._buffer[3] < 3:
                del self._buffer[:1]
            elif len(self._buffer) < size:
                break
            elif sum(self._buffer[2 : size - 1]) & 0xFF != self._buffer[size - 1]:
                del self._buffer[:1]
            else:
                answer += self._answer(bytes(self._buffer[:size]))
                del self._buffer[:size]
        return answer

    def _answer(self, frame: bytes) -> bytes:
        if frame[2] != self._hand:
            return b''
        self.motors.advance()
        address, data = int.from_bytes(frame[5:7], 'little'), frame[7:-1]
        if frame[4] == 0x12:
            self._write(address, data)
            payload = b'\x01'
        else:
            payload = self._read(address)[: data[0]]
        content = bytes((self._hand, 3 + len(payload), frame[4])) + frame[5:7] + payload
        return b'\x90\xeb' + content + bytes((sum(content) & 0xFF,))

    def _write(self, address: int, data: bytes) -> None:
        if address == inspire.ANGLE_SET:
            self._move()
            self.motors.target = inspire.travel_from_angles(inspire.words(data))
        elif address == inspire.SPEED_SET:
            self.motors.speed = [2 * word / 1000 for word in reversed(inspire.words(data))]
        elif address == inspire.FORCE_SET:
            self.force = inspire.words(data)
        elif address == inspire.CLEAR_ERROR:
            self.errors = bytearray(6)

    def _read(self, address: int) -> bytes:
        if address == inspire.ANGLE_ACTUAL:
            angles = inspire.angles_from_travel(self.motors.position)
            return b''.join(angle.to_bytes(2, 'little', signed=True) for angle in angles)
        if address == inspire.ERROR:
            return bytes(self.errors)
        return bytes(12)


HANDS = {'ruiyan': RuiyanEmulator, 'inspire': InspireEmulator}  # by the model of config/robots/
