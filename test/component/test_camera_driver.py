"""The camera driver over DDS: recordings as cameras, cameras that vanish, cameras that do not exist."""

import shutil

import numpy as np
import pytest

pytest.importorskip('rclpy')

from harness import bench, ros  # noqa: F401

from dex_rl_nodes import config
from dex_rl_nodes.descriptions import FRONT_IMAGE, INFOS, WRIST_IMAGE
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.camera_driver import CameraDriver
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.writer import BagWriter

RATE = 50.0


def record(folder, count=4):
    """A bag of two cameras; the brightness of a picture is its number. The front camera is calibrated."""
    with BagWriter(folder) as bag:
        for index in range(count):
            stamp = 1_000_000_000 + round(index * 1e9 / RATE)
            for topic, offset in ((FRONT_IMAGE, 0), (WRIST_IMAGE, 100)):
                bag.write_image(f'/{topic}', np.full((24, 32, 3), offset + index, np.uint8), stamp)
        bag.write_raw(f'/{INFOS["front"]}', messages.CAMERA_INFO, calibration(), 1_000_000_000)
    return folder


def calibration():
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo

    k = [60.0, 0.0, 16.0, 0.0, 61.0, 12.0, 0.0, 0.0, 1.0]
    return serialize_message(CameraInfo(width=32, height=24, distortion_model='plumb_bob', d=[0.1] * 5, k=k))


@pytest.fixture
def robot(tmp_path, monkeypatch):
    """Call it with the settings of the cameras, by view: the robot `fr3_ruiyan` has these."""

    def make(**cameras):
        usual = config.load_robot('fr3_ruiyan')
        cameras = {
            view: config.Camera(topic=usual.cameras[view].topic, width=32, height=32, rate=RATE, **fields)
            for view, fields in cameras.items()
        }
        monkeypatch.setattr(config, 'load_robot', lambda name: usual.model_copy(update={'cameras': cameras}))

    return make


def status(made, view):
    """Level and text of a camera on /diagnostics."""
    made.node.diagnose()
    level, text, values = made.node._statuses[f'camera {view}']
    return int.from_bytes(level, 'little') if isinstance(level, bytes) else level, text, values


def test_a_recording_comes_out_as_two_cameras(bench, robot, tmp_path):
    folder = str(record(tmp_path / 'bag'))
    robot(front={'driver': 'file', 'device': folder}, wrist={'driver': 'file', 'device': folder})
    made = bench(CameraDriver, lockstep=False, robot='fr3_ruiyan')
    heard = {topic: made.listen(topic) for topic in (FRONT_IMAGE, WRIST_IMAGE, *INFOS.values())}
    made.until(lambda: all(len(messages) >= 12 for messages in heard.values()), 'frames of both cameras')
    for topic, view, offset in ((FRONT_IMAGE, 'front', 0), (WRIST_IMAGE, 'wrist', 100)):
        shown = [int(conversions.image_array(message)[5, 5, 1]) - offset for message in heard[topic]]
        assert all(0 <= number < 4 for number in shown)
        assert shown[:8] == [(shown[0] + step) % 4 for step in range(8)], 'in order, again and again'
        stamps = [conversions.stamp_ns(message.header.stamp) for message in heard[topic]]
        assert (np.diff(stamps) > 0).all()
        now = made.node.get_clock().now().nanoseconds
        assert 0 < now - stamps[-1] < 10e9, 'the stamp is that of the moment it was shown'
        assert heard[topic][0].encoding == 'rgb8'
        assert heard[topic][0].header.frame_id == f'{view}_color_optical_frame'
        info = heard[INFOS[view]][0]
        assert (info.width, info.height, info.header.frame_id) == (32, 24, f'{view}_color_optical_frame')
    assert list(heard[INFOS['front']][0].k[:6]) == [60.0, 0.0, 16.0, 0.0, 61.0, 12.0]
    assert list(heard[INFOS['front']][0].d) == pytest.approx([0.1] * 5)
    assert not any(heard[INFOS['wrist']][0].k), 'not calibrated: zeros'


def test_an_absent_camera_is_said_and_taken_when_it_comes(bench, robot, tmp_path):
    folder = tmp_path / 'bag'
    robot(front={'driver': 'file', 'device': str(folder)}, wrist={'driver': 'v4l2', 'device': '/dev/none'})
    made = bench(CameraDriver, lockstep=False, robot='fr3_ruiyan')
    images = made.listen(FRONT_IMAGE)
    made.until(lambda: 'does not exist' in status(made, 'front')[1], 'the absence of the front camera')
    assert status(made, 'front')[0] == 2
    record(tmp_path / 'made')
    shutil.move(tmp_path / 'made', folder)
    made.until(lambda: len(images) > 3, 'frames of the camera that came')
    assert '/dev/none does not exist; check the cable of camera wrist' in status(made, 'wrist')[1]
    assert status(made, 'wrist')[2]['device'] == '/dev/none', 'which one to look for'
    assert status(made, 'front')[2]['device'] == str(folder)


def test_a_recording_that_ends_is_said(bench, robot, tmp_path):
    folder = str(record(tmp_path / 'bag', 2))
    robot(front={'driver': 'file', 'device': folder, 'loop': False}, wrist={'driver': 'v4l2', 'device': '/dev/none'})
    made = bench(CameraDriver, lockstep=False, robot='fr3_ruiyan', views='front')
    made.until(lambda: 'has ended; set loop: true' in status(made, 'front')[1], 'the end of the recording')
    assert 'camera wrist' not in made.node._statuses


def test_an_unknown_view_is_refused(ros, robot):
    from rclpy.parameter import Parameter

    robot(front={'driver': 'v4l2', 'device': '/dev/none'})
    overrides = [Parameter('robot', value='fr3_ruiyan'), Parameter('views', value='behind')]
    with pytest.raises(UserError, match='no camera "behind"; views are front'):
        CameraDriver(parameter_overrides=overrides)
