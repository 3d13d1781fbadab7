"""A recording as a camera: a bag, a video or a folder of images, at the rate at which it was taken."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.cameras import READ_TIMEOUT, Frame, Intrinsics
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.reader import BagReader

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp')
_LATE = 0.5  # s; whoever is further behind has the rest shown later, not faster


class CameraFile:
    """Shows the frames of a recording when they are due; the stamp of a frame is the moment it is shown.

    Args:
        view: name of the camera, for errors.
        camera: `device` is a bag folder, a video file or a folder of images (shown in the order of their names, at
            `rate`); `loop`: start again at the end.

    Raises:
        UserError: there is no such recording, or no picture in it.
    """

    remark = ''

    def __init__(self, view: str, camera: Camera):
        self._path = Path(camera.device).expanduser()
        self._view, self._camera = view, camera
        self.name = str(self._path)
        self.finished = False
        self.intrinsics = self._recorded_intrinsics()
        self._frames = self._pictures()
        self._next = next(self._frames, None)
        if self._next is None:
            raise UserError(f'{self._path} holds no picture; set cameras.{view}.device to another recording')
        self._number = 0
        self._start = time.monotonic() - self._next[0]  # when the picture with time 0 is due

    def read(self) -> Frame | None:
        """See CameraSource."""
        if self._next is None:
            self._rewind()
            if self._next is None:
                return None
        moment, image = self._next
        wait = self._start + moment - time.monotonic()
        if wait > READ_TIMEOUT:
            time.sleep(READ_TIMEOUT)
            return None
        if wait > 0:
            time.sleep(wait)
        elif wait < -_LATE:
            self._start -= wait
        self._number += 1
        self._last_moment = moment
        self._next = next(self._frames, None)
        return Frame(image, time.time_ns(), self._number)

    def _rewind(self) -> None:
        if not self._camera.loop:
            self.finished = True
            return
        self._frames = self._pictures()
        self._next = next(self._frames, None)
        if self._next is not None:
            # the first picture comes one period after the last
            self._start += self._last_moment - self._next[0] + 1 / self._camera.rate

    def close(self) -> None:
        """See CameraSource."""
        self._frames.close()

    # Recordings: time (s) and picture, uint8 (height, width, 3) RGB

    def _pictures(self) -> Iterator[tuple[float, np.ndarray]]:
        if not self._path.exists():
            raise UserError(f'{self._path} does not exist; set cameras.{self._view}.device to a recording')
        if self._path.is_file():
            return self._video()
        return self._bag() if self._is_bag() else self._folder()

    def _is_bag(self) -> bool:
        return self._path.is_dir() and any(self._path.glob('*.mcap'))

    def _bag(self) -> Iterator[tuple[float, np.ndarray]]:
        found = False
        for message in BagReader(self._path, [self._camera.topic]):
            found = True
            try:
                yield messages.stamp_of(message.data) * 1e-9, messages.deserialise_image(message.data)
            except ValueError as error:
                raise UserError(f'{self._path}: {error}') from None
        if not found:
            topics = {message.topic for message in BagReader(self._path) if message.type_name == messages.IMAGE}
            there = ', '.join(sorted(topics)) or 'none'
            raise UserError(f'{self._path} has no images on {self._camera.topic}; its image topics: {there}')

    def _video(self) -> Iterator[tuple[float, np.ndarray]]:
        import cv2

        video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        try:
            if not video.isOpened():
                raise UserError(f'{self._path} is not a video that OpenCV can read; convert it to MP4')
            rate = video.get(cv2.CAP_PROP_FPS) or self._camera.rate
            number = 0
            while True:
                good, pixels = video.read()
                if not good:
                    return
                yield number / rate, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            video.release()

    def _folder(self) -> Iterator[tuple[float, np.ndarray]]:
        from PIL import Image, UnidentifiedImageError

        paths = sorted(path for path in self._path.iterdir() if path.suffix.lower() in PICTURES)
        for number, path in enumerate(paths):
            try:
                with Image.open(path) as picture:
                    yield number / self._camera.rate, np.asarray(picture.convert('RGB'))
            except (OSError, UnidentifiedImageError):
                raise UserError(f'{path} is not a picture; remove it from the recording') from None

    def _recorded_intrinsics(self) -> Intrinsics | None:
        if not self._is_bag():
            return None
        topic = self._camera.topic.rpartition('/')[0] + '/camera_info'
        for message in BagReader(self._path, [topic]):
            return Intrinsics(*messages.deserialise_intrinsics(message.data))
        return None
