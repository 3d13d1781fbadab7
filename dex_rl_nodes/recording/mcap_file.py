"""One MCAP file that is only ever appended to, chunk by chunk, and can be continued after a crash.

The `mcap` package gives the records of the format. Its writer is not used because it can neither continue a file
(which is what repairing one is) nor choose how hard it compresses.
"""

import fcntl
import struct
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Message,
    MessageIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from dex_rl_nodes import __version__
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.mcap_scan import MAGIC, RECORD, chunk_records, whole_records

_MESSAGE = struct.Struct('<BQHIQQ')  # the same, channel, sequence, log time, publish time
_CHUNK = struct.Struct('<QQQII')  # first and last time, size and CRC before compression, length of its name


@dataclass
class FileSummary:
    """What lies in a file, for metadata.yaml."""

    name: str
    start: int  # ns, of log times
    end: int
    topics: dict[str, tuple[str, str, int]]  # topic -> type, QoS profiles, number of messages

    @property
    def total(self) -> int:
        """Number of messages."""
        return sum(count for _, _, count in self.topics.values())


class McapFile:
    """Writes messages; those of a finished chunk are in the operating system's hands and survive a kill.

    Not thread-safe.

    Args:
        path: a file that does not exist yet.
        compression: `zstd`, or empty for none.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, compression: str = 'zstd'):
        self._start(path, compression, 'xb')
        header = RecordBuilder()
        Header('ros2', f'dex_rl_nodes {__version__}').write(header)
        self._append(MAGIC + header.end())

    def _start(self, path: Path, compression: str, mode: str) -> None:
        self.path = path
        self.compression = compression
        self._counts: Counter = Counter()  # written messages per channel
        self._times = (0, 0)  # first and last log time (ns)
        self._channels: dict[int, Channel] = {}
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._schemas: dict[int, Schema] = {}
        self._chunks: list[ChunkIndex] = []
        self._pending: list[bytes] = []  # the chunk in the making; never joined, for copies of images cost
        self._pending_size = 0
        self._index: dict[int, MessageIndex] = {}
        self._file = open(path, mode, buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so that nobody repairs what is being written
        self.size = 0  # bytes that are whole

    # Writing

    def channel(self, topic: str, type_name: str, qos: str = '') -> int:
        """Number of a new channel for a topic."""
        schema = next((schema for schema in self._schemas.values() if schema.name == type_name), None)
        if schema is None:
            text = messages.definition(type_name)[0].encode()
            schema = Schema(id=len(self._schemas) + 1, name=type_name, encoding='ros2msg', data=text)
            self._schemas[schema.id] = schema
            self._add_record(schema)
        metadata = {'offered_qos_profiles': qos}
        channel = Channel(len(self._channels) + 1, topic, 'cdr', metadata, schema.id)
        self._channels[channel.id] = channel
        self._add_record(channel)
        return channel.id

    def _add_record(self, record: McapRecord) -> None:
        builder = RecordBuilder()
        record.write(builder)
        self._put(builder.end())

    def _put(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)

    def add(self, channel: int, data: bytes, log_time: int) -> None:
        """Put one message into the pending chunk."""
        index = self._index.setdefault(channel, MessageIndex(channel, []))
        index.records.append((log_time, self._pending_size))
        length = _MESSAGE.size - RECORD.size + len(data)
        self._put(_MESSAGE.pack(Opcode.MESSAGE, length, channel, 0, log_time, log_time))
        self._put(data)

    @property
    def pending(self) -> int:
        """Bytes that a kill would lose."""
        return self._pending_size

    def flush(self) -> None:
        """Write the pending chunk; after an error the file is as long as before and the chunk is gone."""
        if not self._index:
            return
        index, self._index = self._index, {}
        parts, self._pending = self._pending, []
        size, self._pending_size = self._pending_size, 0
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        stored = self._compress(parts, size)
        length = sum(map(len, stored))
        times = [log_time for part in index.values() for log_time, _ in part.records]
        name = self.compression.encode()
        fields = _CHUNK.pack(min(times), max(times), size, crc, len(name)) + name + struct.pack('<Q', length)
        stored.insert(0, RECORD.pack(Opcode.CHUNK, len(fields) + length) + fields)
        start, end = self.size, self.size + sum(map(len, stored))
        builder = RecordBuilder()
        offsets = _write_index(builder, index, end)
        self._append(*stored, builder.end())
        chunk = Chunk(self.compression, b'', max(times), min(times), crc, size)
        self._chunks.append(_chunk_index(chunk, length, start, end - start, offsets, self.size - end))
        self._count(chunk, index)

    def _compress(self, parts: list[bytes], size: int) -> list[bytes]:
        if not self.compression:
            return [b''.join(parts)]
        stream = self._compressor.compressobj(size=size)
        return [piece for piece in (*map(stream.compress, parts), stream.flush()) if piece]

    def _count(self, chunk: Chunk, index: dict[int, MessageIndex]) -> None:
        first, last = self._times if self._counts else (chunk.message_start_time, chunk.message_end_time)
        self._times = min(first, chunk.message_start_time), max(last, chunk.message_end_time)
        for channel, part in index.items():
            self._counts[channel] += len(part.records)

    @property
    def summary(self) -> FileSummary:
        """What has been written so far."""
        topics = {
            channel.topic: (
                self._schemas[channel.schema_id].name,
                channel.metadata.get('offered_qos_profiles', ''),
                self._counts[channel.id],
            )
            for channel in self._channels.values()
        }
        return FileSummary(self.path.name, *self._times, topics)

    def _append(self, *parts: bytes) -> None:
        """Write all of it, or after an error nothing."""
        try:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[self._file.write(left) :]
        except BaseException:  # also Ctrl-C between two parts
            with suppress(OSError):
                self._file.truncate(self.size)
                self._file.seek(self.size)
            raise
        self.size += sum(map(len, parts))

    def finish(self) -> None:
        """Flush, write the summary and close."""
        try:
            self.flush()
            self._append(self._summary_section())
        finally:
            self._file.close()

    def close(self) -> None:
        """Close without a summary; the file can be recovered."""
        self._file.close()

    def _summary_section(self) -> bytes:
        end = RecordBuilder()
        DataEnd(0).write(end)
        start = self.size + end.count
        groups = ((Opcode.SCHEMA, self._schemas.values()), (Opcode.CHANNEL, self._channels.values()),
                  (Opcode.STATISTICS, [self._statistics()]), (Opcode.CHUNK_INDEX, self._chunks))  # fmt: skip
        summary, offsets = RecordBuilder(), []
        for opcode, group in groups:
            before = summary.count
            for record in group:
                record.write(summary)
            if summary.count > before:
                offsets.append(SummaryOffset(opcode, start + before, summary.count - before))
        offsets_start = start + summary.count
        for offset in offsets:
            offset.write(summary)
        data = summary.end()
        crc = zlib.crc32(struct.pack('<BQQQ', Opcode.FOOTER, 20, start, offsets_start), zlib.crc32(data))
        footer = RecordBuilder()
        Footer(start, offsets_start, crc).write(footer)
        return end.end() + data + footer.end() + MAGIC

    def _statistics(self) -> Statistics:
        start, end = self._times
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            message_end_time=end,
            message_start_time=start,
            metadata_count=0,
            schema_count=len(self._schemas),
        )

    # Recovery

    @classmethod
    def recover(cls, path: Path) -> tuple['McapFile', int]:
        """Open a file that was cut off, without what is not whole; `finish` makes it a proper file.

        Returns:
            The file, and the number of bytes that were cut away.

        Raises:
            OSError: it cannot be read or written.
            ValueError: not even its header is whole.
        """
        self = cls.__new__(cls)
        self._start(path, 'zstd', 'r+b')
        before = path.stat().st_size
        with path.open('rb') as file:
            last = self._adopt_records(file)
        if not self.size:
            raise ValueError('not even the header is whole')
        self._file.truncate(self.size)
        self._file.seek(self.size)
        lost = before - self.size
        if last is not None:
            self._complete_index(*last)
        return self, lost

    def _adopt_records(self, file: BinaryIO) -> tuple[Chunk, dict[int, MessageIndex], int] | None:
        """Take over whole chunks; returns the last one with its index and start."""
        last = None
        for start, end, record in whole_records(file):
            if isinstance(record, Chunk):
                try:
                    index = self._adopt_chunk(record)
                except ValueError:
                    break
                self._chunks.append(_chunk_index(record, len(record.data), start, end - start, {}, 0))
                last = record, index, start
            elif isinstance(record, MessageIndex) and self._chunks:
                self._chunks[-1].message_index_offsets[record.channel_id] = start
                self._chunks[-1].message_index_length += end - start
            elif not isinstance(record, Header):
                break
            self.size = end
        return last

    def _adopt_chunk(self, chunk: Chunk) -> dict[int, MessageIndex]:
        index: dict[int, MessageIndex] = {}
        for offset, record in chunk_records(chunk):
            if isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Channel):
                self._channels[record.id] = record
            elif isinstance(record, Message):
                part = index.setdefault(record.channel_id, MessageIndex(record.channel_id, []))
                part.records.append((record.log_time, offset))
        self._count(chunk, index)
        return index

    def _complete_index(self, chunk: Chunk, index: dict[int, MessageIndex], start: int) -> None:
        """Write the message index of the last chunk again where it was cut."""
        known = self._chunks[-1]
        if set(known.message_index_offsets) == set(index):
            return
        self.size = start + known.chunk_length
        self._file.truncate(self.size)
        self._file.seek(self.size)
        builder = RecordBuilder()
        offsets = _write_index(builder, index, self.size)
        self._append(builder.end())
        index_length = self.size - start - known.chunk_length
        self._chunks[-1] = _chunk_index(chunk, len(chunk.data), start, known.chunk_length, offsets, index_length)


def _write_index(builder: RecordBuilder, index: dict[int, MessageIndex], offset: int) -> dict[int, int]:
    """Append message indexes; returns where in the file they lie, per channel."""
    offsets = {}
    for channel, part in index.items():
        offsets[channel] = offset + builder.count
        part.write(builder)
    return offsets


def _chunk_index(
    chunk: Chunk, compressed_size: int, start: int, length: int, offsets: dict[int, int], index_length: int
) -> ChunkIndex:
    return ChunkIndex(
        chunk_length=length,
        chunk_start_offset=start,
        compression=chunk.compression,
        compressed_size=compressed_size,
        message_end_time=chunk.message_end_time,
        message_index_length=index_length,
        message_index_offsets=offsets,
        message_start_time=chunk.message_start_time,
        uncompressed_size=chunk.uncompressed_size,
    )
