"""Glove and SpaceMouse as devices: open, read, lose, open again."""

import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dex_rl_nodes.drivers import glove, spacemouse
from dex_rl_nodes.drivers.link import LinkLost, SerialLink, no_permission
from dex_rl_nodes.errors import UserError


class GloveReader:
    """Polls a glove. Silence, a bad CRC or all zeros give None, never a pose: zeros would mean an open hand.

    Args:
        port: serial port.
        baud: bits per second; USB gloves ignore it.
        registers: 21, or 22 for the second generation.
        channels: which six registers drive the hand, in its joint order.
    """

    def __init__(
        self,
        port: str,
        baud: int = 115200,
        registers: int = 21,
        channels: tuple[int, ...] = glove.CHANNELS[21],
        timeout: float = 0.02,
    ):
        if len(channels) != 6 or not all(0 <= channel < registers for channel in channels):
            raise UserError(f'glove channels {list(channels)} must be six numbers from 0 to {registers - 1}')
        self._registers = registers
        self._channels = list(channels)
        self._link = SerialLink(port, baud, timeout)
        self.rejected = 0  # replies that were not whole and valid
        self.problem = ''  # what was wrong with the last one

    def read(self) -> np.ndarray | None:
        """Counts (6,) of the driving channels; None without a valid reply. LinkLost when unplugged."""
        self._link.discard_input()
        self._link.write(glove.encode_request(self._registers))
        reply = self._link.read(glove.reply_length(self._registers))
        counts = glove.decode_reply(reply, self._registers)
        self.problem = self._what_is_wrong(reply, counts)
        if self.problem:
            self.rejected += 1
            return None
        return counts[self._channels]

    def _what_is_wrong(self, reply: bytes, counts: np.ndarray | None) -> str:
        port = self._link.port
        if not reply:
            return f'no glove with {self._registers} registers answers on {port}; check cable and devices.glove'
        if counts is None:
            return f'{port} answers something damaged or else; check cable and devices.glove'
        if not counts.any():
            return f'the glove on {port} answers only zeros; unplug it and plug it in again'
        return ''

    def close(self) -> None:
        """Give the port back."""
        self._link.close()


class SpaceMouseReader:
    """Reads a SpaceMouse in its own thread, so that no report waits in a queue and grows old.

    Args:
        path: hidraw device or a file that behaves like one.
        patience: s; a pushed cap reports all the time, so one that says nothing for longer is out of reach.
        dead_zone: of full deflection; a cap that nobody touches need not come back to zero.
    """

    def __init__(self, path: str, patience: float = 0.3, dead_zone: float = 0.05):
        self._patience, self._dead_zone = patience, dead_zone
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise UserError(f'{path} does not exist; check the cable of the SpaceMouse') from None
        except PermissionError:
            raise UserError(no_permission(path)) from None
        except OSError as error:
            raise UserError(f'cannot open {path}: {error.strerror}; plug the SpaceMouse in again') from None
        self._state = spacemouse.MouseState()
        self._reported = time.monotonic()
        self._lost = ''
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def read(self) -> spacemouse.MouseState | None:
        """The newest state; at rest the last report stays valid. LinkLost when unplugged.

        None when a pushed cap has stopped reporting: a wireless one that loses its receiver leaves the device there.
        """
        if self._lost:
            raise LinkLost(self._lost)
        state, reported = self._state, self._reported
        silent = time.monotonic() - reported > self._patience
        pushed = any(abs(axis) > self._dead_zone for axis in state.axes)
        return None if silent and pushed else state

    def _drain(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([self._file], [], [], 0.1)
            if not ready:
                continue
            try:
                report = os.read(self._file, 64)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost = f'SpaceMouse: {error.strerror}'
                return
            if not report:
                self._lost = 'SpaceMouse: end of input'
                return
            self._reported = time.monotonic()
            self._state = spacemouse.decode_report(report, self._state)

    def close(self) -> None:
        """Stop reading and give the device back."""
        self._stop.set()
        self._thread.join(timeout=1)
        os.close(self._file)


def find_spacemouse(sysfs: Path = Path('/sys/class/hidraw')) -> tuple[str, str]:
    """Device path and model of the first SpaceMouse; UserError without one."""
    for entry in sorted(sysfs.glob('hidraw*')):
        try:
            lines = (entry / 'device' / 'uevent').read_text().splitlines()
        except OSError:  # it went away meanwhile
            continue
        for line in lines:
            if line.startswith('HID_ID='):
                _, vendor, product = line.removeprefix('HID_ID=').split(':')
                model = spacemouse.MODELS.get((int(vendor, 16), int(product, 16)))
                if model:
                    return f'/dev/{entry.name}', model
    raise UserError('no SpaceMouse found; plug it in, and see its rule in config/udev/99-dex-rl-nodes.rules')


class Readable(Protocol):
    """What Reconnecting opens."""

    def read(self) -> Any:
        """The newest of it; LinkLost when it was unplugged."""

    def close(self) -> None: ...


class Reconnecting:
    """A device that is opened again after it was lost.

    Args:
        connect: opens the device; raises UserError or LinkLost while it is absent.
        interval: seconds between two tries.
    """

    def __init__(self, connect: Callable[[], Readable], interval: float = 0.5):
        self._connect = connect
        self._interval = interval
        self._tried_at = -np.inf
        self.device: Any = None  # what `connect` gave; None while it is absent
        self.problem = ''  # why it is absent, one sentence
        self.reconnections = -1

    def read(self) -> Any:
        """What the device's `read` returns; None while it is absent."""
        now = time.monotonic()
        if self.device is None:
            if now - self._tried_at < self._interval:
                return None
            self._tried_at = now
            try:
                self.device = self._connect()
            except (UserError, LinkLost) as error:
                self.problem = str(error)
                return None
            self.problem = ''
            self.reconnections += 1
        try:
            return self.device.read()
        except LinkLost as error:
            self.problem = str(error)
            self.device.close()
            self.device = None
            return None

    def close(self) -> None:
        """Give the device back."""
        if self.device is not None:
            self.device.close()
