"""Ruiyan 6-motor hand (RH6, also sold as RY-H2) on RS485: frames in and out.

A frame is a CAN frame in a wrapper of 13 bytes: header A5, identifier (2 bytes, low first; a reply has 256 added),
length 08, eight data bytes, checksum (sum of all bytes before it, modulo 256). Motors 1 to 6 are thumb rotation,
thumb bend, index, middle, ring, pinky; position 0 is open, 4095 closed.
"""

from dataclasses import dataclass

HEADER = 0xA5
COMMAND = 4  # where the command code stands in a frame
FRAME_LENGTH = 13
MOTORS = (1, 2, 3, 4, 5, 6)
FULL_TRAVEL = 4095
BAUD_RATES = (460800, 115200, 921600, 5000000)  # in the order in which they are probed

READ = 0xA0
CLEAR = 0xA5
MOVE = 0xAA  # position with speed and current limit

WARNINGS = {1: 'temperature high'}
FAULTS = {
    2: 'over-temperature protection',
    3: 'under-voltage',
    4: 'over-voltage',
    5: 'over-current',
    6: 'torque',
    7: 'fuse misalignment',
    8: 'stall',
    9: 'motor driver',
    10: 'hall sensor',
}


@dataclass(frozen=True)
class Feedback:
    """What one motor answers.

    Position is in counts (0 to 4095), velocity in thousandths of full travel per second, current in the raw unit
    of the hand (0.01 A or 0.001 A, sources disagree), pressure in raw counts.
    """

    motor: int
    command: int
    status: int
    position: int
    velocity: int
    current: int
    pressure: int


def _frame(motor: int, data: bytes) -> bytes:
    body = bytes((HEADER, motor, 0, 8)) + data
    return body + bytes((sum(body) & 0xFF,))


def encode_move(motor: int, position: int, speed: int, current: int) -> bytes:
    """Command a motor.

    Args:
        motor: 1 to 6.
        position: counts, 0 open to 4095 closed; clamped, 4096 would not fit into 12 bits.
        speed: thousandths of full travel per second, 0 to 65535.
        current: limit in mA, -1000 to 1000.
    """
    position = min(max(position, 0), FULL_TRAVEL)
    data = bytes((MOVE,)) + position.to_bytes(2, 'little') + speed.to_bytes(2, 'little')
    return _frame(motor, data + current.to_bytes(2, 'little', signed=True) + b'\0')


def encode_read(motor: int) -> bytes:
    """Ask a motor for feedback without moving it."""
    return _frame(motor, bytes((READ,)) + bytes(7))


def encode_clear(motor: int) -> bytes:
    """Clear the fault of a motor."""
    return _frame(motor, bytes((CLEAR,)) + bytes(7))


def _signed12(value: int) -> int:
    return value - 4096 if value & 0x800 else value


def decode_reply(frame: bytes) -> Feedback | None:
    """Feedback in a whole frame; None when it is no valid reply (checksum, length, or our own echo)."""
    if len(frame) != FRAME_LENGTH or frame[0] != HEADER or frame[2] != 1 or frame[3] != 8:
        return None
    if sum(frame[:-1]) & 0xFF != frame[-1] or frame[1] not in MOTORS:
        return None
    word = int.from_bytes(frame[4:12], 'little')
    return Feedback(
        motor=frame[1],
        command=word & 0xFF,
        status=word >> 8 & 0xFF,
        position=word >> 16 & 0xFFF,
        velocity=_signed12(word >> 28 & 0xFFF),
        current=_signed12(word >> 40 & 0xFFF),
        pressure=word >> 52 & 0xFFF,
    )


class ReplyParser:
    """Finds replies in a byte stream and finds its place again after lost, added or flipped bytes.

    A5 also occurs inside frames, so a header counts only with length byte and checksum.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget what was received."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[Feedback]:
        """Add received bytes; the replies that are now complete, in order."""
        self._buffer += data
        replies = []
        while True:
            start = self._buffer.find(HEADER)
            if start < 0:
                self._buffer.clear()
                return replies
            del self._buffer[:start]
            if len(self._buffer) < FRAME_LENGTH:
                return replies
            frame = bytes(self._buffer[:FRAME_LENGTH])
            reply = decode_reply(frame)
            if reply is not None:
                replies.append(reply)
                del self._buffer[:FRAME_LENGTH]
            elif _is_echo(frame):
                del self._buffer[:FRAME_LENGTH]
            else:
                del self._buffer[:1]


def _is_echo(frame: bytes) -> bool:
    """Our own command, as RS485 adapters with echo return it."""
    return frame[2] == 0 and frame[3] == 8 and sum(frame[:-1]) & 0xFF == frame[-1]
