"""Watches that everything the robot depends on keeps talking, and that cameras show new pictures.

Silence is judged by the time of arrival on a monotonic clock, never by stamps: a clock that is set wrong must not stop
the robot or, worse, keep it going.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.records import RobotReading
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.robot.events import EventLog, Reaction, SafetyEvent
from dex_rl_nodes.robot.limits import TimingLimits

_TURN_AS_TRAVEL = 0.2  # m per rad, and m per full hand travel below: what a camera sees change
_HAND_AS_TRAVEL = 0.1
_SAMPLES = 60_000  # bytes of a frame that are compared
_FAULT_REPORTS = 3  # a device that reports a fault this often in a row cannot clear it by itself


@dataclass
class _Source:
    event: SafetyEvent
    longest: int  # ns
    seen: int  # ns, monotonic
    active: bool = False  # the event is on


@dataclass
class _Picture:
    digest: int
    since: int  # ns, monotonic
    reading: RobotReading | None
    active: bool = False


def picture_digest(data: bytes) -> int:
    """A number that differs between two serialised images when their pixels differ."""
    pixels = np.frombuffer(data, np.uint8)
    stride = max(1, len(pixels) // _SAMPLES)
    stride += stride % 3 == 0  # take all three colours
    return zlib.crc32(pixels[128::stride].tobytes())  # the first bytes hold the stamp


class FaultCounter:
    """Tells a device that recovers by itself from one that needs a person."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def lasts(self, device: str, fault: str) -> bool:
        """Whether this report of a fault (empty: none) is the one that makes it last: the third in a row."""
        self._counts[device] = self._counts.get(device, 0) + 1 if fault else 0
        return self._counts[device] == _FAULT_REPORTS


class Watchdog:
    """Names what fell silent or froze. Sources must be registered; what is not registered is not watched."""

    def __init__(self, timing: TimingLimits, log: EventLog):
        self._timing = timing
        self._log = log
        self._sources: dict[str, _Source] = {}
        self._pictures: dict[str, _Picture] = {}
        self._faults: dict[str, tuple[SafetyEvent, str]] = {}
        self._clock: tuple[int, int] | None = None  # now, wall

    def watch(self, name: str, event: SafetyEvent, longest: float, now: int) -> None:
        """Expect `name` to be seen every `longest` seconds from `now` on; `event` is raised when it is not."""
        self._sources[name] = _Source(event, int(longest * 1e9), now)

    def forget(self, name: str) -> None:
        """Stop watching a source."""
        self._sources.pop(name, None)

    def seen(self, name: str, now: int) -> None:
        """A source spoke, at the monotonic time `now` (ns)."""
        if name in self._sources:
            self._sources[name].seen = now
            self._sources[name].active = False

    def fault(self, name: str, problem: tuple[SafetyEvent, str] | None) -> None:
        """A device says what is wrong with it (event and detail), or None: that all is well again."""
        self._faults.pop(name, None)
        if problem:
            self._faults[name] = problem

    def frame(self, name: str, digest: int, reading: RobotReading | None, now: int) -> bool:
        """A camera sent a frame with this digest of its pixels while the robot was at `reading`.

        Returns:
            True when the camera is frozen: the same picture although the robot moved, or for too long.
        """
        self.seen(name, now)
        picture = self._pictures.get(name)
        if picture is None or picture.digest != digest:
            self._pictures[name] = _Picture(digest, now, reading)
            return False
        limit = self._timing.frozen_time
        frozen = limit > 0.0 and now - picture.since > limit * 1e9
        if reading is not None and picture.reading is not None:
            frozen = frozen or _travel(picture.reading, reading) > self._timing.frozen_motion
        elif picture.reading is None:
            picture.reading = reading
        if frozen and not picture.active:
            picture.active = True
            self._log.add(SafetyEvent.CAMERA_FROZEN, name)
        return picture.active

    def clock(self, now: int, wall: int) -> bool:
        """Compare the clock that stamps messages with elapsed time; True when it jumped since the last call."""
        before, self._clock = self._clock, (now, wall)
        if before is None:
            return False
        jump = (wall - before[1]) - (now - before[0])
        if abs(jump) <= self._timing.clock_jump * 1e9:
            return False
        self._log.add(SafetyEvent.CLOCK_JUMP, f'{jump * 1e-9:+.2f} s')
        return True

    def check(self, now: int) -> list[tuple[SafetyEvent, str]]:
        """What has just fallen silent: event and name, each once until the source speaks again."""
        fallen = []
        for name, source in self._sources.items():
            if not source.active and now - source.seen > source.longest:
                source.active = True
                self._log.add(source.event, name)
                fallen.append((source.event, name))
        return fallen

    def causes(self, cameras: bool = True) -> list[tuple[SafetyEvent, str]]:
        """Everything that keeps the robot from moving now: event and name; without what only cameras say."""
        silent = [(s.event, n) for n, s in self._sources.items() if s.active and s.event.reaction >= Reaction.HOLD]
        frozen = [(SafetyEvent.CAMERA_FROZEN, n) for n, p in self._pictures.items() if p.active and cameras]
        return [*self._faults.values(), *silent, *frozen]


def _travel(before: RobotReading, after: RobotReading) -> float:
    """How far the robot moved between two readings (m), turning and closing fingers counted as travel."""
    moved = float(np.linalg.norm(np.asarray(after.tcp_pose[:3]) - before.tcp_pose[:3]))
    turned = float(np.linalg.norm(rotations.difference(after.tcp_pose[3:], before.tcp_pose[3:])))
    closed = float(np.abs(np.asarray(after.hand) - before.hand).max())
    return moved + _TURN_AS_TRAVEL * turned + _HAND_AS_TRAVEL * closed
