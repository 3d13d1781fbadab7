"""A serial device on a pseudo-terminal: can be unplugged, plugged in again, and have a bad cable."""

import os
import random
import select
import threading
import time
import tty
from pathlib import Path

from dex_rl_nodes.errors import UserError

_BITS_PER_BYTE = 10  # with start and stop bit


def private_folder(path: str) -> Path:
    """The folder in which devices of this user appear, made where there is none; UserError when it is another's."""
    folder = Path(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f'{folder} belongs to somebody else; remove it, or set another TMPDIR')
    return folder


class SerialDevice:
    """Base of the emulated serial devices.

    Args:
        path: where the port appears (a link to the pseudo-terminal), like a udev name.
        corruption: probability that a byte is flipped, dropped or doubled on its way, in either direction.
        seed: of the corruption.
        baud: bytes take the time they take on a half-duplex bus with so many bits per second; 0: none.
    """

    def __init__(self, path: Path, corruption: float = 0.0, seed: int = 0, baud: int = 0):
        self.path = path
        self.corruption = corruption
        self.baud = baud
        self.damaged = 0  # bytes
        self._random = random.Random(seed)
        self._master = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def receive(self, data: bytes) -> bytes:
        """Bytes from the driver; the answer. Runs in the device's thread."""
        raise NotImplementedError

    def plug_in(self) -> None:
        """Make the port appear and start answering."""
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        self._stop.clear()
        self._thread = threading.Thread(target=self._serve, args=(self._master, slave), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Make the port vanish; an open driver gets an input/output error."""
        self._stop.set()
        self._thread.join(timeout=5)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> 'SerialDevice':
        self.plug_in()
        return self

    def __exit__(self, *_) -> None:
        if not self._stop.is_set():
            self.unplug()

    def _serve(self, master: int, slave: int) -> None:
        # The slave end stays open here, or the port would hang up whenever no driver has it open.
        try:
            while not self._stop.is_set():
                ready, _, _ = select.select([master], [], [], 0.02)
                if ready:
                    self._exchange(master, os.read(master, 4096))
        finally:
            os.close(slave)
            os.close(master)

    def _exchange(self, master: int, data: bytes) -> None:
        started = time.monotonic()
        answer = self.receive(self._damage(data))
        if self.baud:
            duration = _BITS_PER_BYTE * (len(data) + len(answer)) / self.baud
            time.sleep(max(0.0, started + duration - time.monotonic()))
        if answer := self._damage(answer):
            os.write(master, answer)

    def _damage(self, data: bytes) -> bytes:
        if not self.corruption:
            return data
        result = bytearray()
        for byte in data:
            if self._random.random() >= self.corruption:
                result.append(byte)
                continue
            self.damaged += 1
            kind = self._random.randrange(3)
            if kind == 0:
                result.append(byte ^ 1 << self._random.randrange(8))
            elif kind == 1:
                result += bytes((byte, self._random.randrange(256)))
        return bytes(result)
