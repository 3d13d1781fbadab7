"""RealSense cameras through librealsense itself, which opens a recording of a software device instead of USB."""

import time

import numpy as np
import pytest

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers import realsense
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.errors import UserError

WIDTH, HEIGHT, RATE, SERIAL, FRAMES = 64, 48, 30, '123456', 20
CAMERA = Camera(topic='x', serial=SERIAL, width=WIDTH, height=HEIGHT, rate=RATE)


@pytest.fixture(scope='module')
def rs():
    try:
        return realsense.library()
    except UserError as error:
        pytest.skip(str(error))


def record(rs, path):
    """Frames whose brightness is their number, 33 ms apart."""
    device = rs.software_device()
    device.register_info(rs.camera_info.name, 'Intel RealSense D435')
    device.register_info(rs.camera_info.serial_number, SERIAL)
    sensor = device.add_sensor('RGB Camera')
    stream = rs.video_stream()
    stream.type, stream.fmt, stream.uid, stream.index = rs.stream.color, rs.format.rgb8, 1, 0
    stream.width, stream.height, stream.fps, stream.bpp = WIDTH, HEIGHT, RATE, 3
    model = rs.intrinsics()
    model.width, model.height, model.model = WIDTH, HEIGHT, rs.distortion.brown_conrady
    model.fx, model.fy, model.ppx, model.ppy, model.coeffs = 61.0, 62.0, 32.0, 24.0, [0.5, 0.25, 0, 0, 0.125]
    stream.intrinsics = model
    profile = sensor.add_video_stream(stream).as_video_stream_profile()
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(recorded.get_stream_profiles()[0])
    recorded.start(rs.frame_queue(FRAMES))
    for number in range(FRAMES):
        frame = rs.software_video_frame()
        frame.stride, frame.bpp, frame.profile, frame.frame_number = WIDTH * 3, 3, profile, number + 1
        frame.timestamp, frame.domain = 1e6 + number * 33.0, rs.timestamp_domain.system_time
        frame.pixels = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        sensor.on_video_frame(frame)
        time.sleep(0.005)  # the recorder takes them one by one
    recorded.stop()
    recorded.close()


@pytest.fixture(scope='module')
def recording(rs, tmp_path_factory):
    path = tmp_path_factory.mktemp('realsense') / 'camera.db3'
    record(rs, path)
    return str(path)


@pytest.fixture
def plugged_in(rs, recording, monkeypatch):
    """The recording is found and opened as if it were on USB; a list whose emptying unplugs it."""
    device = rs.context().load_device(recording)
    present = {SERIAL: device}
    monkeypatch.setattr(realsense, '_serials', lambda _: present)
    monkeypatch.setattr(rs.config, 'enable_device', lambda config, _: config.enable_device_from_file(recording, False))
    return present


def test_frames_are_whole_with_number_stamp_and_model(plugged_in):
    camera = realsense.RealSenseCamera('front', CAMERA)
    frames = [frame for _ in range(5) if (frame := camera.read()) is not None]
    for frame in frames:
        assert frame.image.shape == (HEIGHT, WIDTH, 3) and frame.image.flags.owndata
        assert (frame.image == frame.number - 1).all(), 'the picture that belongs to the number'
        assert frame.stamp == pytest.approx(1e12 + (frame.number - 1) * 33e6, abs=1e3)
    assert len(frames) >= 3
    assert camera.name == f'Intel RealSense D435 {SERIAL}'
    model = camera.intrinsics
    assert (model.fx, model.fy, model.cx, model.cy) == (61.0, 62.0, 32.0, 24.0)
    assert model.distortion == (0.5, 0.25, 0.0, 0.0, 0.125)
    camera.close()


def test_a_camera_that_is_pulled_out_is_lost(plugged_in):
    camera = realsense.RealSenseCamera('front', CAMERA)
    plugged_in.clear()
    deadline = time.monotonic() + 10
    with pytest.raises(LinkLost, match='was unplugged'):
        while time.monotonic() < deadline:
            camera.read()
    camera.close()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'width': 100}, 'does not start with 100x48x30 rgb8 .*choose for cameras.front one of: 64x48x30'),
        ({'serial': '9'}, 'no RealSense with serial number 9 for camera front; .*found: Intel RealSense D435 123456'),
    ],
)
def test_another_profile_or_serial_number_is_answered_with_what_there_is(plugged_in, change, words):
    with pytest.raises(UserError, match=words):
        realsense.RealSenseCamera('front', CAMERA.model_copy(update=change))


def test_without_a_serial_number_one_camera_is_enough_and_two_are_not(plugged_in):
    unnamed = CAMERA.model_copy(update={'serial': ''})
    realsense.RealSenseCamera('front', unnamed).close()
    plugged_in['7'] = plugged_in[SERIAL]
    with pytest.raises(UserError, match='set cameras.front.serial in config/robots/, there are several'):
        realsense.RealSenseCamera('front', unnamed)
    plugged_in.clear()
    with pytest.raises(UserError, match='no RealSense is plugged in for camera front'):
        realsense.RealSenseCamera('front', unnamed)
