"""The records of an MCAP file, as far as they are whole."""

import os
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Header, McapRecord, Message, MessageIndex, Schema
from mcap.stream_reader import get_chunk_data_stream

MAGIC = b'\x89MCAP0\r\n'
RECORD = struct.Struct('<BQ')  # opcode and length in front of every record
_LARGEST = 1 << 30  # bytes; a record that claims more is damage


def whole_records(file: BinaryIO, offset: int = 0) -> Iterator[tuple[int, int, McapRecord | None]]:
    """Records of a file up to the first that is not whole: start, end (bytes), record (None: of no interest).

    Args:
        offset: where a record starts; 0: the start of the file.

    Raises:
        ValueError: it does not begin as an MCAP file.
    """
    size = os.fstat(file.fileno()).st_size
    if offset == 0:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError('it is not an MCAP file')
        offset = len(MAGIC)
    file.seek(offset)
    while offset + RECORD.size <= size:
        opcode, length = RECORD.unpack(file.read(RECORD.size))
        end = offset + RECORD.size + length
        if opcode == 0 or length > _LARGEST or end > size:
            return
        content = ReadDataStream(BytesIO(file.read(length)))
        try:
            record = Message.read(content, length) if opcode == Opcode.MESSAGE else _PARSERS.get(opcode, _skip)(content)
        except (McapError, ValueError, struct.error):
            return
        yield offset, end, record
        offset = end


def _skip(_content: ReadDataStream) -> None:
    return None


_PARSERS = {
    Opcode.HEADER: Header.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK: Chunk.read,
    Opcode.MESSAGE_INDEX: MessageIndex.read,
    Opcode.DATA_END: DataEnd.read,
}


def chunk_records(chunk: Chunk) -> list[tuple[int, McapRecord]]:
    """Records of a chunk with their offsets in it.

    Raises:
        ValueError: the chunk is damaged.
    """
    try:
        stream, length = get_chunk_data_stream(chunk, validate_crc=True)
        found: list[tuple[int, McapRecord]] = []
        while stream.count < length:
            offset = stream.count
            opcode, size = stream.read1(), stream.read8()
            if opcode == Opcode.MESSAGE:
                found.append((offset, Message.read(stream, size)))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                found.append((offset, _PARSERS[opcode](stream)))
            else:
                stream.read(size)
        return found
    except (McapError, ValueError, RuntimeError, struct.error, zstandard.ZstdError) as error:
        raise ValueError(f'damaged chunk: {error}') from None
