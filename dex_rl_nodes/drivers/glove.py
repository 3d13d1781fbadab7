"""Data glove (PSI glove, SynGlove) on Modbus RTU: request, reply, calibration.

Slave 1, function 3, 21 registers from address 1 (22 for the second generation), big-endian counts 0 to 4095; the CRC is
little-endian. The Modbus framing is small and fixed, so it stands here instead of a Modbus stack that polls for it.
"""

from dataclasses import dataclass

import numpy as np

SLAVE = 1
READ_HOLDING = 3
FIRST_REGISTER = 1
GENERATIONS = {1: 21, 2: 22}
# By number of registers: thumb side, thumb base, index base, middle base, ring base, pinky base. The second generation
# has one more channel of the thumb, before those of the fingers.
CHANNELS = {21: (3, 2, 7, 11, 15, 19), 22: (3, 2, 8, 12, 16, 20)}
SMALLEST_SPAN = 50  # counts between open hand and fist below which a calibration is refused


def crc16(data: bytes) -> int:
    """Modbus CRC (polynomial A001 reflected, start FFFF)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _with_crc(body: bytes) -> bytes:
    return body + crc16(body).to_bytes(2, 'little')


def encode_request(registers: int = GENERATIONS[1]) -> bytes:
    """Ask for all channels."""
    return _with_crc(bytes((SLAVE, READ_HOLDING)) + FIRST_REGISTER.to_bytes(2, 'big') + registers.to_bytes(2, 'big'))


def encode_reply(counts: list[int]) -> bytes:
    """The reply a glove gives; what the emulator sends."""
    data = b''.join(count.to_bytes(2, 'big') for count in counts)
    return _with_crc(bytes((SLAVE, READ_HOLDING, len(data))) + data)


def reply_length(registers: int) -> int:
    """Bytes of a whole reply."""
    return 5 + 2 * registers


def decode_reply(frame: bytes, registers: int) -> np.ndarray | None:
    """Counts (registers,) of a reply; None when length, slave, function, byte count or CRC is wrong."""
    if len(frame) != reply_length(registers):
        return None
    if frame[:3] != bytes((SLAVE, READ_HOLDING, 2 * registers)):
        return None
    if crc16(frame[:-2]) != int.from_bytes(frame[-2:], 'little'):
        return None
    return np.frombuffer(frame[3:-2], '>u2').astype(np.int64)


@dataclass(frozen=True)
class Calibration:
    """Counts of six channels with the hand open and as a fist. Inverted ranges are normal."""

    open: np.ndarray
    closed: np.ndarray

    def __post_init__(self) -> None:
        span = np.abs(np.asarray(self.closed, float) - self.open)
        if np.any(span < SMALLEST_SPAN):
            channel = int(np.argmin(span))
            raise ValueError(
                f'glove channel {channel} moved only {span[channel]:.0f} counts between open hand and fist; '
                f'calibrate again and move every finger fully'
            )

    def normalise(self, counts: np.ndarray) -> np.ndarray:
        """Counts (6,) to finger positions in [0, 1], float32."""
        value = (counts - np.asarray(self.open, float)) / (np.asarray(self.closed, float) - self.open)
        return np.clip(value, 0.0, 1.0).astype(np.float32)


class Smoother:
    """Limits the change per sample, then averages over a window."""

    def __init__(self, window: int, largest_step: float):
        self._window = window
        self._largest_step = largest_step
        self._samples: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget the past, after a gap."""
        self._samples.clear()

    def update(self, value: np.ndarray) -> np.ndarray:
        """Add a sample (6,); the smoothed value."""
        if self._samples:
            last = self._samples[-1]
            value = last + np.clip(value - last, -self._largest_step, self._largest_step)
        self._samples = [*self._samples[-self._window + 1 :], value]
        return np.mean(self._samples, axis=0, dtype=np.float32)
