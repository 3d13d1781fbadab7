"""Inspire RH56 hand on RS485: frames in and out.

Requests start with EB 90, replies with 90 EB; the checksum is the sum of the bytes between header and checksum, modulo
256. Registers hold little-endian 16-bit numbers. The device counts fingers from little to thumb and 1000 is open:
order and direction are turned into those of the Ruiyan hand at this edge.
"""

from dataclasses import dataclass

CLEAR_ERROR = 1004
ANGLE_SET = 1486
FORCE_SET = 1498
SPEED_SET = 1522
ANGLE_ACTUAL = 1546
CURRENT = 1594
ERROR = 1606

BAUD_RATES = (115200,)
FULL_TRAVEL = 1000
REPLY_OVERHEAD = 8  # bytes of a reply that are not data
_READ, _WRITE = 0x11, 0x12

ERRORS = {0: 'locked rotor', 1: 'over-temperature', 2: 'over-current', 3: 'motor', 4: 'communication'}


@dataclass(frozen=True)
class Reply:
    """A reply: which register was read or written, and the data bytes."""

    hand: int
    write: bool
    address: int
    data: bytes


def _frame(hand: int, body: bytes) -> bytes:
    content = bytes((hand, len(body))) + body
    return b'\xeb\x90' + content + bytes((sum(content) & 0xFF,))


def encode_write(hand: int, address: int, data: bytes) -> bytes:
    """Write data bytes to consecutive registers."""
    return _frame(hand, bytes((_WRITE,)) + address.to_bytes(2, 'little') + data)


def encode_write_words(hand: int, address: int, values: list[int]) -> bytes:
    """Write signed 16-bit numbers."""
    return encode_write(hand, address, b''.join(value.to_bytes(2, 'little', signed=True) for value in values))


def encode_read(hand: int, address: int, count: int) -> bytes:
    """Ask for `count` data bytes."""
    return _frame(hand, bytes((_READ,)) + address.to_bytes(2, 'little') + bytes((count,)))


def words(data: bytes) -> list[int]:
    """Signed 16-bit numbers in data bytes."""
    return [int.from_bytes(data[i : i + 2], 'little', signed=True) for i in range(0, len(data) - 1, 2)]


def angles_from_travel(travel: list[float]) -> list[int]:
    """Normalised travel (thumb rotation ... pinky, 0 open) to device angles (little ... thumb rotation, 1000 open)."""
    return [round(FULL_TRAVEL * (1 - min(max(value, 0.0), 1.0))) for value in reversed(travel)]


def travel_from_angles(angles: list[int]) -> list[float]:
    """Device angles to normalised travel; the inverse of `angles_from_travel`."""
    return [1 - angle / FULL_TRAVEL for angle in reversed(angles)]


class ReplyParser:
    """Finds replies in a byte stream and finds its place again after damage."""

    _HEADER = b'\x90\xeb'
    _LONGEST = 64  # data bytes; no register block read by this driver is longer

    def __init__(self) -> None:
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget what was received."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[Reply]:
        """Add received bytes; the replies that are now complete, in order."""
        self._buffer += data
        replies = []
        while (frame := self._next()) is not None:
            if reply := _decode(frame):
                replies.append(reply)
        return replies

    def _next(self) -> bytes | None:
        """Cut the next whole frame with a good checksum out of the buffer."""
        while len(self._buffer) >= 4:
            start = self._buffer.find(self._HEADER)
            if start != 0:
                drop = start if start > 0 else len(self._buffer) - 1
                del self._buffer[:drop]
                continue
            length = self._buffer[3]
            size = length + 5
            if 3 <= length <= self._LONGEST + 3:
                if len(self._buffer) < size:
                    return None
                if sum(self._buffer[2 : size - 1]) & 0xFF == self._buffer[size - 1]:
                    frame = bytes(self._buffer[:size])
                    del self._buffer[:size]
                    return frame
            del self._buffer[:1]
        return None


def _decode(frame: bytes) -> Reply | None:
    if frame[4] not in (_READ, _WRITE):
        return None
    return Reply(frame[2], frame[4] == _WRITE, int.from_bytes(frame[5:7], 'little'), frame[7:-1])
