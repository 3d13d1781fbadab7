"""A serial device on a pseudo-terminal: can be unplugged, plugged in again, and have a bad cable."""

import os
import random
import select
import threading
import tty
from pathlib import Path


class SerialDevice:
    """Base of the emulated serial devices.

    Args:
        path: where the port appears (a link to the pseudo-terminal), like a udev name.
        corruption: probability that a byte sent by the device is flipped, dropped or doubled.
        seed: of the corruption.
    """

    def __init__(self, path: Path, corruption: float = 0.0, seed: int = 0):
        self.path = path
        self.corruption = corruption
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
                if ready and (answer := self.receive(os.read(master, 4096))):
                    os.write(master, self._damage(answer) if self.corruption else answer)
        finally:
            os.close(slave)
            os.close(master)

    def _damage(self, data: bytes) -> bytes:
        result = bytearray()
        for byte in data:
            if self._random.random() >= self.corruption:
                result.append(byte)
                continue
            kind = self._random.randrange(3)
            if kind == 0:
                result.append(byte ^ 1 << self._random.randrange(8))
            elif kind == 1:
                result += bytes((byte, self._random.randrange(256)))
        return bytes(result)
