"""Emulated glove and SpaceMouse."""

import os
from pathlib import Path

from dex_rl_nodes.drivers import glove
from dex_rl_nodes.drivers.emulators.serial_device import SerialDevice


class GloveEmulator(SerialDevice):
    """A glove; set `counts` while it runs."""

    def __init__(self, path: Path, registers: int = 21, **options):
        super().__init__(path, **options)
        self.counts = [2000] * registers
        self._request = glove.encode_request(registers)
        self._buffer = b''

    def receive(self, data: bytes) -> bytes:
        """See SerialDevice."""
        self._buffer = (self._buffer + data)[-len(self._request) :]
        if self._buffer != self._request:
            return b''
        self._buffer = b''
        return glove.encode_reply(self.counts)


class SpaceMouseEmulator:
    """A SpaceMouse behind a named pipe: the same reads as from hidraw, end of input when unplugged."""

    def __init__(self, path: Path):
        self.path = path
        self._file = -1

    def plug_in(self) -> None:
        """Make the device appear."""
        os.mkfifo(self.path)
        self._file = os.open(self.path, os.O_RDWR)

    def unplug(self) -> None:
        """Make the device vanish; a reader sees the end of input."""
        os.close(self._file)
        self.path.unlink()

    def move(self, axes: list[float]) -> None:
        """Push the cap: six axes in [-1, 1]."""
        counts = b''.join(round(350 * axis).to_bytes(2, 'little', signed=True) for axis in axes)
        os.write(self._file, bytes((1,)) + counts)

    def press(self, left: bool, right: bool) -> None:
        """Set the buttons."""
        os.write(self._file, bytes((3, left | right << 1)))
