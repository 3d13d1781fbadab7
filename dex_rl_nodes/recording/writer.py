"""Writing rosbag2 folders so that a kill at any moment costs at most the last second."""

import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from dex_rl_nodes.errors import UserError, next_step
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.mcap_file import FileSummary, McapFile
from dex_rl_nodes.recording.metadata import write_metadata

FLUSH_PERIOD = 0.5  # s; a kill loses no more than what came since
_CHUNK_BYTES = 4 << 20
_SPLIT_BYTES = 1 << 30  # a new file after so many: bounds what a repair has to read
_METADATA_PERIOD = 10.0  # s
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BagWriter:
    """One rosbag2 folder (MCAP, profile ros2, CDR). Thread-safe; a thread of its own flushes and syncs.

    Args:
        folder: does not exist yet; its name becomes that of the files.
        qos: per topic, the offered QoS profiles in the YAML form of rosbag2.
        compression: `zstd`, or empty for none.
        split_bytes: size of a file (bytes) after which the next one begins.

    Raises:
        UserError: the disk is full or not writable; also from `write`, `flush` and `close`. What was
            written before stays whole.
    """

    def __init__(
        self,
        folder: Path,
        qos: Mapping[str, str] | None = None,
        compression: str = 'zstd',
        split_bytes: int = _SPLIT_BYTES,
    ):
        self.folder = folder
        self._qos = qos or {}
        self._compression = compression
        self._split_bytes = split_bytes
        self._channels: dict[str, int] = {}  # of the present file
        self._finished: list[FileSummary] = []
        self._unsynced: list[Path] = []  # finished files that may not be on the device yet
        self._lock = threading.RLock()
        self._failure = ''
        self._metadata_due = self._flush_due = self._sync_due = 0.0
        with self._disk():
            folder.mkdir(parents=True)
            self._file = McapFile(self._path(0), compression)
        self._write_metadata()
        self._closing = threading.Event()
        self._flusher = threading.Thread(target=self._keep_flushing, name='bag flusher', daemon=True)
        self._flusher.start()

    def _path(self, number: int) -> Path:
        return self.folder / f'{self.folder.name}_{number}.mcap'

    def __enter__(self) -> 'BagWriter':
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turns an error of the disk into a UserError, now and ever after."""
        if self._failure:
            raise UserError(self._failure)
        try:
            yield
        except OSError as error:
            reason = 'the disk is full' if error.errno in _FULL else error.strerror
            step = next_step(error, 'see what lies there')
            self._failure = (
                f'cannot write bag {self.folder}: {reason}; what was recorded is kept, {step} and start again'
            )
            raise UserError(self._failure) from None

    # Writing

    def write(self, topic: str, record: Any) -> None:
        """Write a record at its stamp."""
        self.write_raw(topic, messages.type_of(record), messages.serialise(record), record.stamp)

    def write_image(self, topic: str, pixels: np.ndarray, stamp: int, frame: str = '') -> None:
        """Write an image, uint8 (height, width, 3) RGB, at its stamp (ns)."""
        self.write_raw(topic, messages.IMAGE, messages.serialise_image(pixels, stamp, frame), stamp)

    def write_raw(self, topic: str, type_name: str, data: bytes, log_time: int) -> None:
        """Write a serialised message (CDR), received at a time in ns."""
        with self._lock, self._disk():
            channel = self._channels.get(topic)
            if channel is None:
                channel = self._channels[topic] = self._file.channel(topic, type_name, self._qos.get(topic, ''))
                self._metadata_due = 0.0
            self._file.add(channel, data, log_time)
            if self._file.pending > _CHUNK_BYTES or time.monotonic() > self._flush_due:
                self._flush_file()

    def flush(self) -> None:
        """Hand everything to the operating system: from here on a kill does not lose it."""
        with self._lock, self._disk():
            self._flush_file()

    def sync(self) -> None:
        """Flush, and have the device written next, so that a power cut does not lose it either. Does not wait."""
        self.flush()
        self._sync_due = 0.0

    @property
    def position(self) -> tuple[Path, int]:
        """Present file, and the offset (bytes) at which its next chunk will begin."""
        return self._file.path, self._file.size

    def _flush_file(self) -> None:
        self._file.flush()
        self._flush_due = time.monotonic() + FLUSH_PERIOD
        if self._file.size > self._split_bytes:
            self._file.finish()
            self._finished.append(self._file.summary)
            self._unsynced.append(self._file.path)
            self._channels.clear()
            self._file = McapFile(self._path(len(self._finished)), self._compression)
            self._metadata_due = 0.0

    # Beside the writing

    def _keep_flushing(self) -> None:
        while not self._closing.wait(FLUSH_PERIOD):
            with suppress(UserError):  # the next write raises it again
                self.flush()
                self._sync_files()
                if time.monotonic() > self._metadata_due:
                    self._write_metadata()

    def _sync_files(self) -> None:
        """Sync, seldom enough to leave a slow disk nine tenths of its time for writing; not under the lock."""
        started = time.monotonic()
        if started < self._sync_due:
            return
        with self._lock:
            paths, self._unsynced = [*self._unsynced, self._file.path], []
        with self._disk():
            for path in paths:
                with path.open('rb') as file:
                    os.fdatasync(file.fileno())
        self._sync_due = time.monotonic() + 9 * (time.monotonic() - started)

    def _write_metadata(self) -> None:
        with self._lock:
            self._metadata_due = time.monotonic() + _METADATA_PERIOD
            files = [*self._finished, self._file.summary]
        with self._disk():
            write_metadata(self.folder, files)

    def close(self) -> None:
        """Finish file and metadata: the bag is complete. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._flusher.join()
        with self._lock:
            if self._failure:  # there may be room for the summary at least
                with suppress(OSError):
                    self._file.finish()
                    write_metadata(self.folder, [*self._finished, self._file.summary])
            with self._disk():
                self._file.finish()
            self._write_metadata()
        self._sync_due = 0.0
        self._sync_files()  # last, because it may take long and a kill does not lose anything any more
