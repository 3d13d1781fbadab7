"""Cameras of the kernel (V4L2): webcams, capture cards. Read through OpenCV, which the package needs anyway."""

import os
import stat
import time

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.cameras import Frame
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.errors import UserError

_OLDEST = 1.0  # s; the kernel's stamp is believed when the frame is not older


class V4l2Camera:
    """A V4L2 camera.

    Args:
        view: name of the camera, for errors.
        camera: `device` is a path (better one of /dev/v4l/by-id/ than /dev/video0, whose number changes) or a number;
            `format` a pixel format of four letters such as MJPG or YUYV.

    Raises:
        UserError: no such device, no permission, not a camera, or it does not have this size.
    """

    intrinsics = None
    remark = ''
    finished = False

    def __init__(self, view: str, camera: Camera):
        self._path = f'/dev/video{camera.device}' if camera.device.isdigit() else camera.device
        self.name = self._path
        _check(self._path, view)
        os.environ.setdefault('OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT', '1')  # s; ten by default. Read when cv2 loads
        import cv2

        self._cv2 = cv2
        self._capture = cv2.VideoCapture(self._path, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise UserError(
                f'{self._path} gives no pictures; a camera has several nodes, and another program may hold it: '
                f'see `v4l2-ctl --list-devices` and set cameras.{view}.device'
            )
        self._set_up(view, camera)

    def _set_up(self, view: str, camera: Camera) -> None:
        cv2, capture = self._cv2, self._capture
        if camera.format:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*camera.format))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height)
        capture.set(cv2.CAP_PROP_FPS, camera.rate)
        size = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if size != (camera.width, camera.height):
            capture.release()
            raise UserError(
                f'{self._path} gives {size[0]} x {size[1]} pixels instead of {camera.width} x {camera.height}; '
                f'set cameras.{view}.width and .height to a size of `v4l2-ctl -d {self._path} --list-formats-ext`'
            )
        rate = capture.get(cv2.CAP_PROP_FPS)
        if rate and rate < 0.9 * camera.rate:
            self.remark = f'set to {rate:g} instead of {camera.rate:g} frames per second; try format: MJPG'

    def read(self) -> Frame | None:
        """See CameraSource."""
        if not self._capture.grab():
            raise LinkLost(f'{self._path} gives no frames; check its cable')
        stamp = time.time_ns()
        age = time.monotonic() - self._capture.get(self._cv2.CAP_PROP_POS_MSEC) * 1e-3
        if 0 < age < _OLDEST:  # the kernel stamps with the monotonic clock, at the start of the exposure
            stamp -= int(age * 1e9)
        good, pixels = self._capture.retrieve()
        if not good:
            return None
        return Frame(self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB), stamp)

    def close(self) -> None:
        """See CameraSource."""
        self._capture.release()


def _check(path: str, view: str) -> None:
    """UserError when the device cannot be a camera of ours, with what to do."""
    if not path:
        raise UserError(f'cameras.{view} has no device; set it to a path of /dev/v4l/by-id/')
    try:
        is_device = stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        raise UserError(
            f'{path} does not exist; check the cable of camera {view}, or set cameras.{view}.device'
        ) from None
    if not is_device:
        raise UserError(f'{path} is not a device; set cameras.{view}.device to a path of /dev/v4l/by-id/')
    if not os.access(path, os.R_OK | os.W_OK):
        raise UserError(f'no permission to open {path}; sudo usermod -aG video $USER, then log in again')
