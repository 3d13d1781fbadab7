"""The numbered transitions of a run: in a file before anybody hears of them, the newest also in memory."""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mcap.records import Chunk, Message

from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.mcap_scan import chunk_records, whole_records
from dex_rl_nodes.recording.reader import BagReader, bag_folders, mcap_files
from dex_rl_nodes.recording.transitions import retraction
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import Transition
from dex_rl_nodes.run_directory import RunDirectory

TOPIC = 'transitions'
SUFFIX = '_transitions'  # of their bag, which lies beside the one of the other topics
_IN_MEMORY = 2048
_TYPE = messages.type_of(Transition())


class TransitionSpool:
    """Transitions of a run by number, from 1 without gaps.

    A transition is one chunk of an own bag, so that it is on disk when `append` returns and can be found again. The
    number of a transition is its position in all bags; that is also the number it was written with, unless somebody
    has removed a bag. One thread may append while another fetches.

    Args:
        run: the run.
        folder: bag of the transitions of this session, made with the first one.

    Raises:
        UserError: the disk is full (`append`, `close`).
    """

    def __init__(self, run: RunDirectory, folder: Path):
        self._places = [place for bag in transition_bags(run) for place in _places(bag)]
        self._folder = folder
        self._writer: BagWriter | None = None
        self._memory: deque[bytes] = deque(maxlen=_IN_MEMORY)
        self._lock = threading.Lock()

    @property
    def newest(self) -> int:
        """Number of the newest transition, or retraction; 0 without any."""
        return len(self._places)

    @property
    def newest_tick(self) -> tuple[int, int]:
        """Episode and step of the newest transition; (-1, -1) without any."""
        if not self._places:
            return -1, -1
        transition = messages.deserialise(_read(*self._places[-1]), _TYPE)
        return transition.episode, transition.step

    def append(self, transition: Transition) -> None:
        """Write the next transition."""
        if transition.sequence != self.newest + 1:
            raise ValueError(f'transition {transition.sequence} does not follow {self.newest}')
        if self._writer is None:
            self._writer = BagWriter(self._folder, compression='')  # features hardly compress
        data = messages.serialise(transition)
        place = self._writer.position
        self._writer.write_raw(f'/{TOPIC}', _TYPE, data, transition.stamp)
        self._writer.flush()
        with self._lock:
            self._places.append(place)
            self._memory.append(data)

    def fetch(self, first: int, count: int) -> list[tuple[int, bytes]]:
        """Numbers and serialised transitions from number `first` on, at most `count`."""
        with self._lock:
            newest, memory = self.newest, list(self._memory)
        oldest = newest - len(memory) + 1
        return [
            (number, memory[number - oldest] if number >= oldest else _read(*self._places[number - 1]))
            for number in range(max(first, 1), min(first + count, newest + 1))
        ]

    def close(self) -> None:
        """Finish the bag."""
        if self._writer is not None:
            self._writer.close()


def transition_bags(run: RunDirectory) -> list[Path]:
    """Bags of the online transitions, in the order of their numbers; empty ones are left out."""
    found = []
    for folder in bag_folders(run.bags('online')):
        if folder.name.endswith(SUFFIX):
            first = next(iter(BagReader(folder)), None)
            if first is not None:
                found.append((messages.deserialise(first.data, _TYPE).sequence, folder))
    return [folder for _, folder in sorted(found)]


def read_transitions(run: RunDirectory) -> Iterator[Transition]:
    """All transitions and retractions of a run, numbered from 1; a bag cut off in the middle as far as it is whole."""
    places = (place for bag in transition_bags(run) for place in _places(bag))
    for number, place in enumerate(places, 1):
        yield replace(messages.deserialise(_read(*place), _TYPE), sequence=number)


def count_transitions(run: RunDirectory) -> tuple[int, int]:
    """Number of transitions of a run, retractions not counted, and the episode of the newest; (0, -1) without any."""
    places = [(path, start, size) for bag in transition_bags(run) for path, start, size in _sized_places(bag)]
    if not places:
        return 0, -1
    shortest = len(messages.serialise(retraction(0, 0, 0)))  # all others have features
    count = sum(size > shortest for *_, size in places)
    return count, messages.deserialise(_read(*places[-1][:2]), _TYPE).episode


def _places(bag: Path) -> list[tuple[Path, int]]:
    """File and offset (bytes) of every whole transition of a bag."""
    return [(path, start) for path, start, _ in _sized_places(bag)]


def _sized_places(bag: Path) -> Iterator[tuple[Path, int, int]]:
    """The same, with the length (bytes) of the serialised transition."""
    for path in mcap_files(bag):
        with path.open('rb') as file:
            for start, _, record in whole_records(file):
                if isinstance(record, Chunk) and (data := _transition_in(record)) is not None:
                    yield path, start, len(data)


def _read(path: Path, offset: int) -> bytes:
    with path.open('rb') as file:
        _, _, chunk = next(whole_records(file, offset))
    return _transition_in(chunk)


def _transition_in(chunk: Chunk) -> bytes | None:
    """The serialised transition in a chunk; None when it is damaged."""
    try:
        return next((record.data for _, record in chunk_records(chunk) if isinstance(record, Message)), None)
    except ValueError:
        return None
