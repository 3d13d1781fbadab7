"""One interface for colour cameras, and a thread that reads one and opens it again after it was lost.

The sources are a RealSense (realsense.py), any camera of the kernel (v4l2.py) and a recording (camera_file.py).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.devices import Reconnecting

_STEP = 1e9  # ns; frames older by more than this come from a clock that was set back
READ_TIMEOUT = 0.5  # s; a read returns within, so that a camera can be closed


@dataclass(frozen=True)
class Frame:
    """One picture: uint8 (height, width, 3) RGB; when it was taken, ns of the system clock; its number at the device.

    Numbers count up by one, also over frames that were lost on the way; None where the source does not number them.
    """

    image: np.ndarray
    stamp: int
    number: int | None = None


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model of a camera (px) and its distortion (plumb bob: k1, k2, p1, p2, k3)."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0,) * 5


class CameraSource(Protocol):
    """An open camera. It is opened by its constructor: UserError while it is absent or set up wrongly."""

    name: str  # model and serial number, or file
    intrinsics: Intrinsics | None  # None: not known
    remark: str  # what a person should change although it works; empty: nothing
    finished: bool  # a recording that is at its end

    def read(self) -> Frame | None:
        """The next frame; None when there was none within READ_TIMEOUT. LinkLost when the camera is gone."""

    def close(self) -> None:
        """Give the camera back."""


def open_camera(view: str, camera: Camera) -> CameraSource:
    """Open the camera of a view as config/robots/ says.

    Raises:
        UserError: it is absent, its library is not installed, or it does not have this profile.
    """
    if camera.driver == 'realsense':
        from dex_rl_nodes.drivers.realsense import RealSenseCamera

        return RealSenseCamera(view, camera)
    if camera.driver == 'v4l2':
        from dex_rl_nodes.drivers.v4l2 import V4l2Camera

        return V4l2Camera(view, camera)
    from dex_rl_nodes.drivers.camera_file import CameraFile

    return CameraFile(view, camera)


def check_library(camera: Camera) -> None:
    """UserError when the library that reads this camera is not installed: waiting would not help."""
    if camera.driver == 'realsense':
        from dex_rl_nodes.drivers.realsense import library

        library()


class CameraStream:
    """Reads a camera in its own thread and counts what it does.

    Args:
        connect: opens the camera.
        take: called with every frame, in the thread of the stream.
        rate: frames per second that the camera should give.
        interval: seconds between two tries to open it.

    Frames whose stamp is not newer than that of the one before are dropped; a second frame that is older by more than
    a second says that the clock was set back, and counts.
    """

    def __init__(
        self,
        connect: Callable[[], CameraSource],
        take: Callable[[CameraSource, Frame], None],
        rate: float,
        interval: float = 1.0,
    ):
        self._camera = Reconnecting(connect, interval)
        self._take = take
        self._period = 1e9 / rate
        self._last: Frame | None = None
        self._old: Frame | None = None  # the one before, when it was far too old
        self._seen_at = -np.inf
        self.frames = self.dropped = self.out_of_order = self.clock_steps = 0
        self.failure: Exception | None = None  # what the thread died of
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='camera', daemon=True)
        self._thread.start()

    @property
    def source(self) -> CameraSource | None:
        """The open camera; None while there is none."""
        return self._camera.device

    @property
    def problem(self) -> str:
        """Why there is no camera, one sentence; empty while there is one."""
        return self._camera.problem

    @property
    def reconnections(self) -> int:
        """How often the camera came back."""
        return max(self._camera.reconnections, 0)

    def age(self) -> float:
        """Seconds since the last frame arrived; infinite before the first one."""
        return time.monotonic() - self._seen_at

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                frame = self._camera.read()
                if frame is not None:
                    self._count(frame)
                elif self.source is None or self.source.finished:
                    self._last = None
                    self._stop.wait(0.02)
        except Exception as error:  # the owner of the stream raises it where it is seen
            self.failure = error

    def _count(self, frame: Frame) -> None:
        self._seen_at = time.monotonic()
        last = self._last
        if last is not None and frame.stamp <= last.stamp:
            if not self._set_back(last, frame):
                self.out_of_order += 1
                return
            self.clock_steps += 1
            last = None  # stamps do not tell what was lost meanwhile
        self._old = None
        if last is not None:
            self.dropped += self._missing(last, frame)
        self._last = frame
        self.frames += 1
        self._take(self.source, frame)

    def _set_back(self, last: Frame, frame: Frame) -> bool:
        """Whether this is the second of two frames in order that are far older than the last one taken."""
        before, self._old = self._old, frame if last.stamp - frame.stamp > _STEP else None
        return self._old is not None and before is not None and before.stamp < frame.stamp

    def _missing(self, last: Frame, frame: Frame) -> int:
        """Frames that were lost between two: by their numbers, else by their stamps."""
        if frame.number is not None and last.number is not None:
            return max(frame.number - last.number - 1, 0)
        return max(round((frame.stamp - last.stamp) / self._period) - 1, 0)

    def close(self) -> None:
        """Stop the thread and give the camera back."""
        self._stop.set()
        self._thread.join(timeout=3 * READ_TIMEOUT)
        if not self._thread.is_alive():
            self._camera.close()
