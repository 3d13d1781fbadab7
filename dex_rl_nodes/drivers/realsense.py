"""RealSense cameras through pyrealsense2, for machines without realsense2_camera.

The colour stream of a D435 comes from a sensor of its own; that of a D405 from its stereo module, which has fewer
profiles. librealsense finds the sensor; only the profile has to be one that the model has.
"""

import sys
import time
from types import ModuleType

import numpy as np

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.cameras import READ_TIMEOUT, Frame, Intrinsics
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.errors import UserError

_SILENCE = 3.0  # s without a frame after which a camera that is still there is opened again


def library() -> ModuleType:
    """pyrealsense2; UserError when it is not installed or lacks a library of the system."""
    try:
        import pyrealsense2
    except ModuleNotFoundError:
        raise UserError(
            'pyrealsense2 is not installed, and without it or realsense2_camera no RealSense can be read; run: '
            f'{sys.executable} -m pip install pyrealsense2'
        ) from None
    except ImportError as error:  # the wheel does not bring libusb
        raise UserError(f'pyrealsense2 does not load ({error}); run: sudo apt-get install libusb-1.0-0') from None
    return pyrealsense2


class RealSenseCamera:
    """The colour stream of one RealSense.

    Args:
        view: name of the camera, for errors.
        camera: `serial` chooses the device; may be empty while only one is plugged in.

    Raises:
        UserError: no such camera, or it does not have this profile.
    """

    finished = False

    def __init__(self, view: str, camera: Camera):
        rs = self._rs = library()
        device = _find(rs, view, camera.serial)
        self._serial = device.get_info(rs.camera_info.serial_number)
        model = device.get_info(rs.camera_info.name)
        self.name = f'{model} {self._serial}'
        usb = _info(rs, device, rs.camera_info.usb_type_descriptor)
        self.remark = f'on USB {usb}; use a USB 3 port and cable' if usb.startswith('2') else ''
        config = rs.config()
        config.enable_device(self._serial)
        config.enable_stream(rs.stream.color, camera.width, camera.height, rs.format.rgb8, round(camera.rate))
        self._pipeline = rs.pipeline()
        try:
            profile = self._pipeline.start(config)
        except RuntimeError as error:
            wanted = f'{camera.width}x{camera.height}x{camera.rate:g} rgb8'
            raise UserError(
                f'{self.name} does not start with {wanted} ({error}); '
                f'choose for cameras.{view} one of: {_profiles(rs, device)}'
            ) from None
        self.intrinsics = _intrinsics(profile.get_stream(rs.stream.color).as_video_stream_profile())
        self._heard = time.monotonic()

    def read(self) -> Frame | None:
        """See CameraSource."""
        try:
            good, frames = self._pipeline.try_wait_for_frames(int(READ_TIMEOUT * 1000))
        except RuntimeError as error:
            raise LinkLost(f'{self.name}: {error}') from None
        color = frames.get_color_frame() if good else None
        if not color:
            self._check_silence()
            return None
        self._heard = time.monotonic()
        # the frame belongs to the library, which uses its memory again
        return Frame(np.array(color.get_data()), self._stamp(color), color.get_frame_number())

    def _stamp(self, frame) -> int:
        """Moment of capture; that of arrival where the camera's clock cannot be compared with ours."""
        if frame.get_frame_timestamp_domain() == self._rs.timestamp_domain.hardware_clock:
            return time.time_ns()
        return int(frame.get_timestamp() * 1e6)

    def _check_silence(self) -> None:
        if self._serial not in _serials(self._rs):
            raise LinkLost(f'{self.name} was unplugged; plug it in again')
        if time.monotonic() - self._heard > _SILENCE:
            raise LinkLost(f'{self.name} gives no frames; use another USB 3 port or cable')

    def close(self) -> None:
        """See CameraSource."""
        try:
            self._pipeline.stop()
        except RuntimeError:
            pass  # it is gone already


def _serials(rs: ModuleType) -> dict:
    """Devices that are plugged in, by serial number."""
    found = {}
    for device in rs.context().query_devices():
        try:
            found[device.get_info(rs.camera_info.serial_number)] = device
        except RuntimeError:
            pass  # unplugged while it was looked at
    return found


def _find(rs: ModuleType, view: str, serial: str):
    devices = _serials(rs)
    names = ', '.join(f'{_info(rs, device, rs.camera_info.name)} {number}' for number, device in devices.items())
    if serial and serial not in devices:
        raise UserError(
            f'no RealSense with serial number {serial} for camera {view}; check cable (USB 3) and '
            f'udev rule, or set cameras.{view}.serial (found: {names or "none"})'
        )
    if not devices:
        raise UserError(f'no RealSense is plugged in for camera {view}; check its cable (USB 3) and its udev rule')
    if not serial and len(devices) > 1:
        raise UserError(f'set cameras.{view}.serial in config/robots/, there are several RealSense: {names}')
    return devices[serial] if serial else next(iter(devices.values()))


def _info(rs: ModuleType, device, what) -> str:
    return device.get_info(what) if device.supports(what) else ''


def _profiles(rs: ModuleType, device) -> str:
    """Colour profiles of a device, as WIDTHxHEIGHTxRATE."""
    found = set()
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() == rs.stream.color and profile.format() == rs.format.rgb8:
                video = profile.as_video_stream_profile()
                found.add((video.width(), video.height(), profile.fps()))
    return ', '.join(f'{width}x{height}x{rate}' for width, height, rate in sorted(found)) or 'none'


def _intrinsics(profile) -> Intrinsics:
    values = profile.get_intrinsics()
    return Intrinsics(values.fx, values.fy, values.ppx, values.ppy, tuple(values.coeffs))
