"""Reading bags, also those cut off in the middle, and repairing them."""

import shutil
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import yaml
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, DataEnd, Message, Schema
from mcap.summary import Summary

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.recording.mcap_file import FileSummary, McapFile
from dex_rl_nodes.recording.mcap_scan import MAGIC, chunk_records, whole_records
from dex_rl_nodes.recording.metadata import NAME, write_metadata

_FOOTER_BYTES = 9 + 20 + len(MAGIC)


@dataclass
class BagMessage:
    """One message of a bag, as it was received."""

    topic: str
    type_name: str
    log_time: int  # ns
    data: bytes  # CDR


def bag_folders(folder: Path) -> list[Path]:
    """Bags below a folder, oldest first (by name); without those that were stopped before their first byte."""
    return sorted(path.parent for path in folder.glob(f'*/{NAME}') if any(path.parent.glob('*.mcap')))


def next_folder(folder: Path) -> Path:
    """Folder for the next bag below a folder: five digits, counting up."""
    numbers = [int(path.name[:5]) for path in folder.glob('[0-9][0-9][0-9][0-9][0-9]*')]
    return folder / f'{max(numbers, default=-1) + 1:05d}'


def repair_all(folder: Path) -> list[str]:
    """Repair the unfinished bags below a folder; returns one sentence about each."""
    done = [repair(path.parent) for path in sorted(folder.glob('*/*_0.mcap'))]
    return [sentence for sentence in done if sentence]


def mcap_files(folder: Path) -> list[Path]:
    """Files of one bag in the order in which they were written.

    Raises:
        UserError: there are none.
    """
    files = sorted(folder.glob('*.mcap'), key=_number)
    if not files:
        raise UserError(f'{folder} holds no .mcap file; delete the folder or choose another bag')
    return files


def _number(path: Path) -> tuple[int, str]:
    number = path.stem.rpartition('_')[2]
    return (int(number) if number.isdigit() else 0), path.name


def is_finished(path: Path) -> bool:
    """Whether an MCAP file has its summary."""
    with path.open('rb') as file:
        size = file.seek(0, 2)
        if size < 2 * len(MAGIC) + _FOOTER_BYTES:
            return False
        file.seek(-_FOOTER_BYTES, 2)
        end = file.read()
    return end.endswith(MAGIC) and end[0] == Opcode.FOOTER


class BagReader:
    """Messages of one bag in the order of their recording; what is not whole at the end of a file is left out.

    Args:
        folder: a rosbag2 folder with MCAP files.
        topics: only these, relative names; they match in every namespace and are given back as asked for. None: all.

    After iterating, `lost` is the number of bytes that could not be used and `warning` says so in one sentence,
    empty when everything was whole.

    Raises:
        UserError: there is no bag.
    """

    def __init__(self, folder: Path, topics: Collection[str] | None = None):
        self.folder = folder
        self.lost = 0
        self.messages = 0
        self._topics = None if topics is None else sorted(topics, key=len, reverse=True)
        self._files = mcap_files(folder)

    @property
    def warning(self) -> str:
        """What was lost, one sentence; empty when nothing was."""
        if not self.lost:
            return ''
        return (
            f'bag {self.folder} is cut off: {self.messages} messages read, '
            f'the last {self.lost} bytes are not whole and were left out'
        )

    def __iter__(self) -> Iterator[BagMessage]:
        for path in self._files:
            self._schemas: dict[int, Schema] = {}
            self._channels: dict[int, Channel] = {}
            with path.open('rb') as file:
                summary = _summary(path) if self._topics is not None else None
                if summary is not None:
                    yield from self._read_indexed(file, summary)
                else:
                    yield from self._read_all(file)

    def _read_indexed(self, file: BinaryIO, summary: Summary) -> Iterator[BagMessage]:
        """Only the chunks that hold something wanted."""
        self._schemas, self._channels = summary.schemas, summary.channels
        wanted = {channel.id for channel in summary.channels.values() if self._name(channel.topic)}
        for chunk in summary.chunk_indexes:
            if wanted.isdisjoint(chunk.message_index_offsets):
                continue
            for _, _, record in islice(whole_records(file, chunk.chunk_start_offset), 1):
                try:
                    yield from self._sort(found for _, found in chunk_records(record))
                except ValueError:
                    self.lost += chunk.chunk_length

    def _read_all(self, file: BinaryIO) -> Iterator[BagMessage]:
        used = 0
        size = file.seek(0, 2)
        file.seek(0)
        try:
            for _, end, record in whole_records(file):
                if isinstance(record, Chunk):
                    yield from self._sort(found for _, found in chunk_records(record))
                else:
                    yield from self._sort((record,))
                used = end
                if isinstance(record, DataEnd):
                    used = size
                    break
        except ValueError:
            pass  # damage: what follows is not used
        self.lost += size - used

    def _sort(self, records) -> Iterator[BagMessage]:
        for record in records:
            if isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Channel):
                self._channels[record.id] = record
            elif isinstance(record, Message):
                channel = self._channels.get(record.channel_id)
                if channel is None:
                    raise ValueError('message of an unknown channel')
                self.messages += 1
                if name := self._name(channel.topic):
                    yield BagMessage(name, self._schemas[channel.schema_id].name, record.log_time, record.data)

    def _name(self, topic: str) -> str:
        """Name under which a topic is given back; empty when it is not wanted."""
        if self._topics is None:
            return topic
        return next((name for name in self._topics if f'/{topic}'.endswith(f'/{name}')), '')


def _summary(path: Path) -> Summary | None:
    """Summary of a finished file, None of one that is not."""
    if not is_finished(path):
        return None
    try:
        with path.open('rb') as file:
            return make_reader(file).get_summary()
    except (McapError, ValueError, struct.error):
        return None


def _file_summary(path: Path) -> FileSummary:
    """What a finished file holds."""
    summary = _summary(path)
    statistics = summary.statistics
    topics = {
        channel.topic: (
            summary.schemas[channel.schema_id].name,
            channel.metadata.get('offered_qos_profiles', ''),
            statistics.channel_message_counts.get(channel.id, 0),
        )
        for channel in summary.channels.values()
    }
    return FileSummary(path.name, statistics.message_start_time, statistics.message_end_time, topics)


def repair(folder: Path) -> str:
    """Make an unfinished bag a proper one: keep what is whole, write indexes and metadata; without any, remove it.

    Returns:
        One sentence about what was done; empty when there was nothing to do.

    Raises:
        UserError: somebody is writing the bag, or the disk is full.
    """
    files = mcap_files(folder)
    unfinished = [path for path in files if _summary(path) is None]
    if not unfinished and _listed(folder) == [path.name for path in files]:
        return ''
    try:
        summaries, lost = _make_whole(files, unfinished)
        if not summaries:
            shutil.rmtree(folder)
            return f'removed bag {folder}: nothing had been written'
        write_metadata(folder, summaries)
    except BlockingIOError:
        raise UserError(f'bag {folder} is being written by another process; end that one first') from None
    except OSError as error:
        raise UserError(f'cannot repair bag {folder}: {error.strerror}; free some space and start again') from None
    kept = sum(summary.total for summary in summaries)
    return f'repaired bag {folder}: {kept} messages kept, {lost} bytes were not whole'


def _make_whole(files: list[Path], unfinished: list[Path]) -> tuple[list[FileSummary], int]:
    """Finish unfinished files; returns what all of them hold, and how many bytes were not whole."""
    summaries, lost = [], 0
    for path in files:
        if path not in unfinished:
            summaries.append(_file_summary(path))
            continue
        try:
            file, cut = McapFile.recover(path)
        except ValueError:  # killed before the first bytes were written
            lost += path.stat().st_size
            path.unlink()
            continue
        file.finish()
        summaries.append(file.summary)
        lost += cut
    return summaries, lost


def _listed(folder: Path) -> list[str]:
    """Files that metadata.yaml lists."""
    try:
        content = yaml.safe_load((folder / NAME).read_text())
        return content['rosbag2_bagfile_information']['relative_file_paths']
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
