"""Emulated glove and SpaceMouse."""

import os
from pathlib import Path

import numpy as np

from dex_rl_nodes.drivers import glove
from dex_rl_nodes.drivers.emulators.serial_device import SerialDevice
from dex_rl_nodes.drivers.settings import GloveDevice
from dex_rl_nodes.drivers.spacemouse import REPORT_SIZE, ros_axes


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
        self.path.unlink(missing_ok=True)
        os.mkfifo(self.path, 0o600)
        self._file = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def unplug(self) -> None:
        """Make the device vanish; a reader sees the end of input."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    def move(self, axes: list[float]) -> None:
        """Push the cap: six axes in [-1, 1]."""
        counts = b''.join(round(350 * axis).to_bytes(2, 'little', signed=True) for axis in axes)
        self._report(bytes((1,)) + counts)

    def press(self, *buttons: bool) -> None:
        """Set the buttons: left, right, and those that larger models have."""
        bits = sum(bool(pressed) << index for index, pressed in enumerate(buttons))
        self._report(bytes((3,)) + bits.to_bytes(6, 'little'))

    def _report(self, report: bytes) -> None:
        # hidraw gives one report per read; in a pipe they would run together, so each fills the reader's buffer
        try:
            os.write(self._file, report.ljust(REPORT_SIZE, b'\0'))
        except BlockingIOError:
            pass  # nobody reads: the kernel drops reports, too


class OperatorDevices:
    """An emulated SpaceMouse and glove that do what an operator does.

    Args:
        folder: where they appear, as `spacemouse` and `glove`.
        glove_device: calibration and channels of the glove.
    """

    def __init__(self, folder: Path, glove_device: GloveDevice):
        self._device = glove_device
        self._mouse = SpaceMouseEmulator(folder / 'spacemouse')
        self._glove = GloveEmulator(folder / 'glove', glove_device.registers)

    def plug_in(self) -> None:
        """Make them appear, at rest with an open hand."""
        self._mouse.plug_in()
        self._glove.plug_in()
        self.show(np.zeros(6), [], np.zeros(6))

    def unplug(self) -> None:
        """Make them vanish."""
        self._mouse.unplug()
        self._glove.unplug()

    def show(self, twist: np.ndarray, buttons: list[int], fingers: np.ndarray) -> None:
        """Hold the devices so that the drivers read this.

        Args:
            twist: axes of `spacenav/twist_stamped` (6,), [-1, 1].
            buttons: of `spacenav/joy`.
            fingers: of the glove (6,), normalised travel.
        """
        self._mouse.move(ros_axes(twist).tolist())  # the exchange of axes is its own inverse
        self._mouse.press(*(bool(button) for button in buttons))
        low, high = np.array(self._device.open), np.array(self._device.closed)
        counts = list(self._glove.counts)
        for channel, count in zip(self._device.channels, np.rint(low + fingers * (high - low)).tolist()):
            counts[channel] = int(count)
        self._glove.counts = counts  # at once, for the device's thread may be answering
