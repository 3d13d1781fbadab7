"""Episodes out of bags: synchronised observations and executed actions, tick by tick."""

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dex_rl_nodes.descriptions import IMAGES
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.vision import IMAGE_SIZE, crop_view
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.reader import BagReader
from dex_rl_nodes.records import (
    EpisodeState,
    ExecutedAction,
    Mark,
    Outcome,
    Phase,
    PolicyStep,
    StepResult,
    TeleopCommand,
)

FINISHED = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)

_RECORDS = ('episode', 'policy_step', 'executed_action', 'step_result', 'teleop_command')
_KEPT_IMAGES = 64  # camera frames kept per view while their tick may still come
_TOLERANCE = 200_000_000  # ns; a tick whose views are further away has no image


def _tell(warning: str) -> None:
    print(warning, file=sys.stderr, flush=True)


def read_episodes(
    folders: Path | Sequence[Path],
    crops: Mapping[str, Sequence[float]],
    size: int = IMAGE_SIZE,
    outcomes: Collection[Outcome] = FINISHED,
    warn: Callable[[str], None] = _tell,
) -> list[Episode]:
    """Read the episodes of bags, in the order of the folders.

    Args:
        folders: rosbag2 folders.
        crops: task crop of every view, see `crop_view`.
        size: side of the images (px).
        outcomes: only episodes that ended so; by default all that were neither discarded nor broken off.
        warn: told in one sentence about each episode and each part of a bag that could not be used.

    Raises:
        UserError: one of the folders is not a bag.
    """
    episodes = []
    for folder in [folders] if isinstance(folders, Path) else folders:
        reader = BagReader(folder, [*(IMAGES[view] for view in crops), *_RECORDS])
        for draft in _Parser({IMAGES[view]: _Camera(view, crop, size) for view, crop in crops.items()}).drafts(reader):
            if draft.end is None:
                warn(f'bag {folder}: episode {draft.number} has no end and was left out')
            elif draft.end.outcome in outcomes:
                try:
                    episodes.append(draft.finish())
                except ValueError as error:
                    warn(f'bag {folder}: episode {draft.number} was left out: {error}')
        if reader.warning:
            warn(reader.warning)
    return episodes


class _Camera:
    """The newest frames of one camera, not yet decoded."""

    def __init__(self, view: str, crop: Sequence[float], size: int):
        self.view = view
        self._crop = crop
        self._size = size
        self._stamps: deque[int] = deque(maxlen=_KEPT_IMAGES)
        self._data: deque[bytes] = deque(maxlen=_KEPT_IMAGES)

    def add(self, data: bytes) -> None:
        """Take a serialised image."""
        self._stamps.append(messages.stamp_of(data))
        self._data.append(data)

    def reached(self, stamp: int) -> bool:
        """Whether the frame nearest to a time is already there."""
        return bool(self._stamps) and self._stamps[-1] >= stamp

    def nearest(self, stamp: int) -> np.ndarray | None:
        """Task crop of the frame nearest in time; None when none is near."""
        best = min(range(len(self._stamps)), key=lambda i: abs(self._stamps[i] - stamp), default=None)
        if best is None or abs(self._stamps[best] - stamp) > _TOLERANCE:
            return None
        return crop_view(messages.deserialise_image(self._data[best]), self._crop, self._size)


class _Parser:
    """Sorts the messages of one bag into episodes; they may be a little out of order, coming from many nodes."""

    def __init__(self, cameras: Mapping[str, _Camera]):
        self._cameras = cameras
        self._drafts: dict[int, _Draft] = {}
        self._waiting: list[tuple[_Draft, PolicyStep]] = []  # ticks whose frames are not all there
        self._marks: list[int] = []  # stamps of the operator's success marks

    def drafts(self, reader: BagReader) -> Iterator['_Draft']:
        """The episodes, in order."""
        for message in reader:
            if message.topic in self._cameras:
                self._cameras[message.topic].add(message.data)
                self._pair()
                continue
            record = messages.deserialise(message.data, message.type_name)
            if isinstance(record, EpisodeState) and record.phase == Phase.RUNNING:
                yield from self._begin(record)
            elif isinstance(record, TeleopCommand):
                if record.mark == Mark.SUCCESS:
                    self._marks.append(record.stamp)
            else:
                self._add(record)
        yield from self._close(None)

    def _draft(self, number: int) -> '_Draft':
        return self._drafts.setdefault(number, _Draft(number, self._marks))

    def _begin(self, state: EpisodeState) -> Iterator['_Draft']:
        known = self._draft(state.episode).begin
        if known is not None and known.stamp != state.stamp:  # the same number again: the first had no end
            yield from self._close(None)
        self._draft(state.episode).begin = state
        yield from self._close(state.episode)

    def _close(self, but: int | None) -> Iterator['_Draft']:
        """All episodes except one are over."""
        over = [self._drafts.pop(number) for number in sorted(set(self._drafts) - {but})]
        self._pair(over)
        yield from (draft for draft in over if draft.begin is not None)

    def _add(self, record: EpisodeState | PolicyStep | ExecutedAction | StepResult) -> None:
        draft = self._draft(record.episode)
        if isinstance(record, EpisodeState):
            if record.phase == Phase.ENDED:
                draft.end = record
        elif isinstance(record, PolicyStep):
            draft.steps[record.step] = record
            self._waiting.append((draft, record))
            self._pair()
        elif isinstance(record, ExecutedAction):
            draft.actions[record.step] = record
        else:
            draft.results[record.step] = record

    def _pair(self, over: Sequence['_Draft'] = ()) -> None:
        """Give ticks their frames: those whose frames have come, and all of episodes that are over."""
        waiting, self._waiting = self._waiting, []
        for draft, step in waiting:
            if draft in over or all(camera.reached(step.stamp) for camera in self._cameras.values()):
                draft.images[step.step] = {camera.view: camera.nearest(step.stamp) for camera in self._cameras.values()}
            else:
                self._waiting.append((draft, step))


class _Draft:
    """An episode while it is read."""

    def __init__(self, number: int, marks: list[int]):
        self.number = number
        self.begin: EpisodeState | None = None
        self.end: EpisodeState | None = None
        self.steps: dict[int, PolicyStep] = {}
        self.actions: dict[int, ExecutedAction] = {}
        self.results: dict[int, StepResult] = {}
        self.images: dict[int, dict[str, np.ndarray | None]] = {}
        self._marks = marks

    def finish(self) -> Episode:
        """The episode as arrays; ValueError says what is missing."""
        ticks = self.end.final_step
        if ticks == 0:
            raise ValueError('it has no action')
        for kind, found, count in (('observation', self.steps, ticks + 1), ('executed action', self.actions, ticks)):
            missing = next((step for step in range(count) if step not in found), None)
            if missing is not None:
                raise ValueError(f'{kind} {missing} of {count} is missing')
        for step in range(ticks + 1):
            for view, image in self.images[step].items():
                if image is None:
                    raise ValueError(f'the {view} camera has no image at tick {step}')
        steps = [self.steps[step] for step in range(ticks + 1)]
        actions = [self.actions[step] for step in range(ticks)]
        return Episode(
            episode=self.number,
            seed=self.begin.seed,
            outcome=Outcome(self.end.outcome),
            images={view: np.stack([self.images[step][view] for step in range(ticks + 1)]) for view in self.images[0]},
            state=np.stack([step.state for step in steps]),
            hand_history=np.stack([step.hand_history for step in steps]),
            success=np.array([self._shows_success(step) for step in steps]),
            action=np.stack([action.action for action in actions]),
            source=np.array([action.source for action in actions], np.uint8),
        )

    def _shows_success(self, step: PolicyStep) -> bool:
        result = self.results.get(step.step)
        if result is not None and result.success:
            return True
        marks = [mark for mark in self._marks if self.begin.stamp <= mark <= step.stamp]
        return self.end.outcome == Outcome.SUCCESS and bool(marks)
