"""The cameras without realsense2_camera: the same topics, from a RealSense, a camera of the kernel or a recording."""

import math
import time
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo

from dex_rl_nodes.config import Camera
from dex_rl_nodes.descriptions import IMAGES, INFOS
from dex_rl_nodes.drivers.cameras import CameraSource, CameraStream, Frame, check_library, open_camera
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, OK, WARN, Node

_SLOW = 0.8  # of the configured rate; below, it is said


class CameraDriver(Node):
    """Publishes every frame with the moment it was taken. An absent camera is an error on /diagnostics, no more."""

    def __init__(self, **options: Any) -> None:
        super().__init__('camera_driver', **options)
        self._cameras = self._chosen()
        for camera in self._cameras.values():
            check_library(camera)
        self._reported = {view: (time.monotonic(), 0) for view in self._cameras}
        self.advertise(*(topics[view] for view in self._cameras for topics in (INFOS, IMAGES)))
        self._streams = {
            view: CameraStream(partial(open_camera, view, camera), partial(self._publish_frame, view), camera.rate)
            for view, camera in self._cameras.items()
        }

    def _chosen(self) -> dict[str, Camera]:
        cameras = self.robot.cameras
        views = [name.strip() for name in self.setting('views').split(',') if name.strip()] or list(cameras)
        for view in views:
            if view not in cameras or view not in IMAGES:
                raise UserError(
                    f'camera_driver: robot "{self.robot.name}" has no camera "{view}"; views are {", ".join(cameras)}'
                )
        return {view: cameras[view] for view in views}

    def _publish_frame(self, view: str, source: CameraSource, frame: Frame) -> None:
        info = _camera_info(source, frame, f'{view}_color_optical_frame')
        self.publish(INFOS[view], info)
        self.publish(IMAGES[view], conversions.image_message(frame.image, frame.stamp, info.header.frame_id))

    def diagnose(self) -> None:
        """Presence, rate and losses of every camera."""
        now = time.monotonic()
        for view, stream in self._streams.items():
            if stream.failure:
                raise stream.failure
            camera = self._cameras[view]
            before, counted = self._reported[view]
            rate = (stream.frames - counted) / max(now - before, 1e-3)
            self._reported[view] = now, stream.frames
            level, text = self._state(view, stream, rate)
            self.report(
                f'camera {view}',
                level,
                text,
                device=stream.source.name if stream.source else camera.serial or camera.device or 'any',
                **{'rate (Hz)': rate, 'age (s)': stream.age() if math.isfinite(stream.age()) else 'never'},
                dropped=stream.dropped,
                out_of_order=stream.out_of_order,
                clock_set_back=stream.clock_steps,
                reconnections=stream.reconnections,
            )

    def _state(self, view: str, stream: CameraStream, rate: float) -> tuple[int, str]:
        wanted = self._cameras[view].rate
        if stream.problem:
            return ERROR, stream.problem
        if stream.source is None or not stream.frames:
            return ERROR, f'camera {view} has given no frame yet'
        if stream.source.finished:
            return WARN, f'the recording {stream.source.name} has ended; set loop: true to have it again'
        if stream.source.remark:
            return WARN, f'{stream.source.name}: {stream.source.remark}'
        if rate < _SLOW * wanted:
            return WARN, f'{stream.source.name} gives {rate:.1f} instead of {wanted:g} frames per second'
        return OK, 'ok'

    def close(self) -> None:
        """Give the cameras back."""
        for stream in self._streams.values():
            stream.close()


def _camera_info(source: CameraSource, frame: Frame, frame_id: str) -> CameraInfo:
    """Size, and the pinhole model where it is known; a matrix of zeros says that it is not."""
    height, width = frame.image.shape[:2]
    info = CameraInfo(width=width, height=height)
    info.header.stamp = conversions.time_message(frame.stamp)
    info.header.frame_id = frame_id
    if (model := source.intrinsics) is not None:
        info.distortion_model, info.d = 'plumb_bob', list(model.distortion)
        info.k = [model.fx, 0.0, model.cx, 0.0, model.fy, model.cy, 0.0, 0.0, 1.0]
        info.r = np.eye(3).ravel()
        info.p = [model.fx, 0.0, model.cx, 0.0, 0.0, model.fy, model.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def main() -> None:
    """Entry point."""
    run_node(CameraDriver)


if __name__ == '__main__':
    main()
