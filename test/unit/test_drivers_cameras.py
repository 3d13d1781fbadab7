"""Cameras: recordings at their rate, sources that are lost and come back, and devices that are none."""

import os
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.camera_file import CameraFile
from dex_rl_nodes.drivers.cameras import CameraStream, Frame, check_library, open_camera
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.drivers.realsense import library
from dex_rl_nodes.drivers.v4l2 import V4l2Camera
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.recording.writer import BagWriter

TOPIC = 'camera/front/color/image_raw'
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)


def camera(driver='file', **fields):
    return Camera(**{'topic': TOPIC, 'driver': driver, 'width': 64, 'height': 48, 'rate': 50.0, **fields})


def picture(index):
    return np.broadcast_to(COLOURS[index % 3], (48, 64, 3))


def bag(folder, count=3, period=20_000_000, topic=TOPIC):
    with BagWriter(folder) as writer:
        for index in range(count):
            writer.write_image(f'/{topic}', picture(index), 5_000_000_000 + index * period)
    return folder


def folder_of_images(folder, count=3):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(picture(index)).save(folder / f'{index:03d}.png')
    return folder


def video(path, count=3):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 50.0, (64, 48))
    for index in range(count):
        writer.write(np.ascontiguousarray(picture(index)[..., ::-1]))
    writer.release()
    return path


def wait_until(condition, deadline=10.0):
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f'not within {deadline} s'
        time.sleep(0.002)


@pytest.mark.parametrize('kind', ['bag', 'images', 'video'])
def test_a_recording_gives_its_pictures_in_order_and_at_its_rate(tmp_path, kind):
    make = {'bag': bag, 'images': folder_of_images, 'video': lambda path: video(path.with_suffix('.avi'))}[kind]
    before = time.time_ns()
    source = CameraFile('front', camera(device=str(make(tmp_path / kind))))
    frames = [source.read() for _ in range(5)]  # once around and on
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5]
    for index, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - picture(index)).max() < 30, f'{kind}: picture {index}'  # JPEG
    stamps = np.array([frame.stamp for frame in frames])
    assert (stamps >= before + 20_000_000 * np.arange(5)).all(), 'never faster than it was taken'
    assert (np.diff(stamps) > 0).all()
    source.close()


def test_a_recording_shown_once_ends(tmp_path):
    source = CameraFile('front', camera(device=str(bag(tmp_path / 'bag', 2)), loop=False))
    assert source.read() and source.read() and not source.finished
    assert source.read() is None and source.finished
    source.close()


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda path: path / 'none', 'does not exist; set cameras.front.device'),
        (lambda path: bag(path / 'other', topic='camera/left/image'), r'its image topics: .*camera/left/image'),
        (lambda path: (path / 'empty').mkdir() or path / 'empty', 'holds no picture'),
        (lambda path: (path / 'film.mp4').write_bytes(b'no film') and path / 'film.mp4', 'not a video'),
    ],
)
def test_a_recording_that_is_none_is_named(tmp_path, make, words):
    with pytest.raises(UserError, match=words):
        open_camera('front', camera(device=str(make(tmp_path))))


def test_a_picture_that_is_none_is_named(tmp_path):
    folder = folder_of_images(tmp_path / 'images', 1)
    (folder / '000.png').write_bytes(b'no picture')
    with pytest.raises(UserError, match='000.png is not a picture'):
        open_camera('front', camera(device=str(folder)))


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda path: '', 'camera front has no device|cameras.front has no device'),
        (lambda path: str(path / 'none'), 'does not exist; check the cable of camera front'),
        (lambda path: '77', '/dev/video77 does not exist'),
        (lambda path: (path / 'file').write_text('x') and str(path / 'file'), 'is not a device'),
        (lambda path: '/dev/null', 'gives no pictures; a camera has several nodes'),
    ],
)
def test_a_v4l2_device_that_is_no_camera_is_named(tmp_path, make, words):
    with pytest.raises(UserError, match=words):
        V4l2Camera('front', camera('v4l2', device=make(tmp_path)))


def test_a_v4l2_device_without_permission_is_named(monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(UserError, match='no permission to open /dev/null; sudo usermod -aG video'):
        V4l2Camera('front', camera('v4l2', device='/dev/null'))


def test_realsense_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyrealsense2', None)
    with pytest.raises(UserError, match='-m pip install pyrealsense2'):
        check_library(camera('realsense'))


def test_realsense_whose_library_does_not_load_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / 'pyrealsense2.py').write_text("raise ImportError('libusb-1.0.so.0: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'pyrealsense2', raising=False)
    with pytest.raises(UserError, match='libusb-1.0.so.0.*apt-get install libusb-1.0-0'):
        check_library(camera('realsense'))


def test_realsense_that_is_not_plugged_in_is_named():
    try:
        library()
    except UserError as error:
        pytest.skip(str(error))
    with pytest.raises(UserError, match='no RealSense with serial number 123 for camera wrist'):
        open_camera('wrist', camera('realsense', serial='123'))


class ScriptedSource:
    """A source that gives what is put into it; an exception is raised."""

    name, intrinsics, remark, finished = 'scripted', None, '', False

    def __init__(self, script):
        self._script = script
        self.closed = False

    def read(self):
        if not self._script:
            time.sleep(0.001)
            return None
        item = self._script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        self.closed = True


def frames(*numbers, numbered=True):
    image = np.zeros((2, 2, 3), np.uint8)
    return [Frame(image, number * 20_000_000, number if numbered else None) for number in numbers]


def test_a_lost_camera_is_opened_again_and_again():
    plugged, opened, got = threading.Event(), [], []

    def connect():
        if not plugged.is_set():
            raise UserError('front is absent; plug it in')
        opened.append(ScriptedSource([*frames(1, 2), LinkLost('front was unplugged')]))
        return opened[-1]

    stream = CameraStream(connect, lambda source, frame: got.append(frame), 50.0, interval=0.005)
    wait_until(lambda: stream.problem == 'front is absent; plug it in')
    assert stream.source is None and not got and stream.age() == np.inf
    plugged.set()
    wait_until(lambda: len(opened) > 50)
    plugged.clear()
    wait_until(lambda: stream.problem == 'front is absent; plug it in')
    stream.close()
    assert len(got) == 2 * len(opened) == stream.frames
    assert stream.reconnections == len(opened) - 1
    assert all(source.closed for source in opened)
    assert stream.dropped == 0, 'what was not taken while it was away is not a lost frame'


@pytest.mark.parametrize('numbered', [True, False])
def test_lost_and_late_frames_are_counted(numbered):
    got = []
    script = frames(1, 2, 5, 4, 6, numbered=numbered)
    stream = CameraStream(lambda: ScriptedSource(script), lambda source, frame: got.append(frame.stamp), 50.0)
    wait_until(lambda: len(got) == 4)
    stream.close()
    assert stream.dropped == 2 and stream.out_of_order == 1
    assert got == sorted(got)


def taken(script, count):
    """Numbers of the frames that are taken of a script, and the stream."""
    got, end = [], frames(2000)[0]
    stream = CameraStream(
        lambda: ScriptedSource([*script, end]), lambda _, frame: got.append(round(frame.stamp / 20_000_000)), 50.0
    )
    wait_until(lambda: got and got[-1] == 2000)
    stream.close()
    assert len(got) == count + 1
    return got[:-1], stream


def test_a_clock_that_is_set_back_does_not_silence_the_camera():
    got, stream = taken(frames(1000, 1001, 1, 2, 3, 4), 5)
    assert got == [1000, 1001, 2, 3, 4] and stream.clock_steps == 1 and stream.out_of_order == 1


def test_one_old_frame_and_a_frozen_one_are_no_clock_that_is_set_back():
    got, stream = taken(frames(1000, 1, 1001, 2, 2, 2, 1002, 1, 1003, 1), 4)
    assert got == [1000, 1001, 1002, 1003] and stream.clock_steps == 0 and stream.out_of_order == 6


def test_an_error_in_the_thread_is_kept_for_the_owner():
    stream = CameraStream(lambda: ScriptedSource(frames(1)), lambda *_: 1 / 0, 50.0)
    wait_until(lambda: stream.failure)
    assert isinstance(stream.failure, ZeroDivisionError)
    stream.close()
