"""Cameras: present, the right ones, at their rate, with fresh stamps and changing pictures."""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

from dex_rl_nodes.config import Camera, without_serial
from dex_rl_nodes.drivers.cameras import CameraSource, Frame, open_camera
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding, refusal

_FIRST_FRAME = 5.0  # s; a camera that has just been opened adjusts its exposure
_ENOUGH = 0.8  # of the wanted rate
_OLDEST = 0.2  # s; a picture that is older when it arrives is of no use


@dataclass
class CameraSample:
    """Frames of a camera: their sizes, stamps (ns), ages at arrival (s) and digests."""

    seconds: float = 0.0
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width, height
    stamps: list[int] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    digests: set[int] = field(default_factory=set)

    def add(self, frame: Frame) -> None:
        """Take a frame that has just arrived."""
        height, width = frame.image.shape[:2]
        self.sizes.add((width, height))
        self.stamps.append(frame.stamp)
        self.ages.append((time.time_ns() - frame.stamp) * 1e-9)
        self.digests.add(zlib.crc32(frame.image.tobytes()))


def check_cameras(
    cameras: dict[str, Camera],
    file: str,
    seconds: float = 1.0,
    connect: Callable[[str, Camera], CameraSource] = open_camera,
) -> Iterator[Finding]:
    """Every camera in turn.

    Args:
        cameras: settings, by view.
        file: where they stand.
        seconds: how long each is watched.
        connect: opens one.
    """
    for view, camera in cameras.items():
        subject = f'camera {view}'
        try:
            source = connect(view, camera)
            try:
                sample = _watch(source, seconds)
            finally:
                source.close()
        except UserError as error:
            yield refusal(subject, error)
        except LinkLost as error:
            yield Finding('bad', subject, str(error).partition(';')[0], 'check its cable and USB port')
        else:
            yield from judge_camera(subject, source, sample, camera, file)


def check_identity(cameras: dict[str, Camera], file: str) -> Iterator[Finding]:
    """Two cameras must not be one, nor be known only by the order in which they were found.

    Args:
        cameras: settings of all cameras of the robot, by view.
        file: where they stand.
    """
    for view in without_serial(cameras):
        fix = f'set cameras.{view}.serial in {file}; rs-enumerate-devices -s lists the numbers'
        yield Finding('bad', f'camera {view}', 'no serial number: two cameras cannot be told apart', fix)
    seen: dict[tuple[str, str], str] = {}
    for view, camera in cameras.items():
        name = camera.serial if camera.driver == 'realsense' else camera.device
        what = 'serial' if camera.driver == 'realsense' else 'device'
        if name and camera.driver != 'file' and (camera.driver, name) in seen:
            text = f'the same device as camera {seen[camera.driver, name]}: {name}'
            yield Finding('bad', f'camera {view}', text, f'set cameras.{view}.{what} in {file}')
        seen[camera.driver, name] = view


def _watch(source: CameraSource, seconds: float) -> CameraSample:
    sample = CameraSample()
    deadline = time.monotonic() + _FIRST_FRAME
    while source.read() is None and time.monotonic() < deadline and not source.finished:
        pass  # a read waits for a frame
    start = time.monotonic()
    while sample.seconds < seconds and not source.finished:
        if (frame := source.read()) is not None:
            sample.add(frame)
        sample.seconds = time.monotonic() - start
    return sample


def judge_camera(
    subject: str, source: CameraSource, sample: CameraSample, camera: Camera, file: str
) -> Iterator[Finding]:
    """What a sample means."""
    if not sample.stamps:
        yield Finding('bad', subject, f'{source.name} gives no frames', 'use another cable or USB port')
        return
    rate = len(sample.stamps) / max(sample.seconds, 1e-6)
    sizes = ', '.join(f'{width}x{height}' for width, height in sorted(sample.sizes))
    yield Finding('good', subject, f'{source.name}: {sizes}, {rate:.1f} frames per second')
    if sample.sizes != {(camera.width, camera.height)}:
        text = f'gives {sizes} pixels, configured are {camera.width}x{camera.height}'
        yield Finding('bad', subject, text, f'correct width and height of the camera in {file}')
    if rate < _ENOUGH * camera.rate:
        text = f'{rate:.1f} frames per second, {camera.rate:g} are wanted'
        yield Finding('bad', subject, text, 'use a USB 3 port of its own, and more light')
    if any(later <= earlier for earlier, later in zip(sample.stamps, sample.stamps[1:])):
        yield Finding('bad', subject, 'its stamps do not grow', 'update its firmware; unplug it and plug it in again')
    age = median(sample.ages)  # one late frame says nothing
    if not -0.01 <= age <= _OLDEST:
        text = f'frames are stamped {age:.2f} s before they arrive'
        yield Finding('bad', subject, text, 'set the clock of this machine; use a USB 3 port')
    if len(sample.digests) == 1 and len(sample.stamps) > 2:
        text = 'gives the same picture again and again'
        yield Finding('bad', subject, text, 'unplug it and plug it in again; is its cap on?')
    if source.remark:
        yield Finding('warning', subject, source.remark, 'see docs/hardware.md')
