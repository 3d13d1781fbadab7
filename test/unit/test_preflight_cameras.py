"""The preflight of cameras: what is well is said, what is wrong is one named sentence."""

import time

import numpy as np
import pytest
from judged import FILE, bad, levels

from dex_rl_nodes.config import Camera
from dex_rl_nodes.drivers.cameras import Frame
from dex_rl_nodes.drivers.preflight.cameras import check_cameras, check_identity


class Source:
    """A camera that gives what `make` makes of the number of a frame."""

    name, intrinsics, remark, finished = 'D435 123', None, '', False

    def __init__(self, make, rate=100.0):
        self._make, self._period, self._number = make, 1 / rate, 0

    def read(self):
        time.sleep(self._period)
        self._number += 1
        return self._make(self._number)

    def close(self):
        pass


def frame(number, age=0.0, size=(48, 64), stamp=None):
    image = np.full((*size, 3), number % 250, np.uint8)
    return Frame(image, time.time_ns() - int(age * 1e9) if stamp is None else stamp, number)


def watch(make):
    camera = Camera(topic='x', serial='123', width=64, height=48, rate=2)
    return check_cameras({'front': camera}, FILE, 0.3, connect=lambda view, _: Source(make))


def test_a_good_camera_is_good():
    found = levels(watch(frame))
    assert not found['bad'] and not found['warning'] and 'D435 123: 64x48' in found['good'][0]


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda number: frame(1), 'the same picture again and again'),
        (lambda number: frame(number, age=0.5), 'stamped 0.50 s before they arrive'),
        (lambda number: frame(number, age=-0.5), 'stamped -0.50 s before they arrive'),
        (lambda number: frame(number, size=(24, 32)), 'gives 32x24 pixels, configured are 64x48'),
    ],
)
def test_what_a_camera_does_wrong_is_named(make, words):
    assert words in bad(watch(make))


def test_stamps_that_stand_still_are_named():
    now = time.time_ns()
    found = levels(watch(lambda number: frame(number, stamp=now)))
    assert any('its stamps do not grow' in text for text in found['bad']), found


def test_a_slow_camera_is_named():
    camera = Camera(topic='x', serial='123', width=64, height=48, rate=90)
    connect = {'connect': lambda view, _: Source(frame, 20.0)}
    assert 'frames per second, 90 are wanted' in bad(check_cameras({'front': camera}, FILE, 0.3, **connect))


def test_a_camera_that_gives_nothing_is_named(monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.drivers.preflight.cameras._FIRST_FRAME', 0.05)
    assert 'gives no frames' in bad(watch(lambda number: None))


def test_cameras_that_are_one_or_unnamed_are_named():
    same = {view: Camera(topic='x', serial='5', width=64, height=48, rate=2) for view in ('front', 'wrist')}
    assert 'camera wrist: the same device as camera front: 5' in bad(check_identity(same, FILE))
    unnamed = {view: camera.model_copy(update={'serial': ''}) for view, camera in same.items()}
    found = levels(check_identity(unnamed, FILE))
    assert len(found['bad']) == 2 and 'cannot be told apart -> set cameras.front.serial' in found['bad'][0]
    del unnamed['wrist']
    assert not list(check_identity(unnamed, FILE)), 'the only one cannot be taken for another'


def test_an_absent_camera_is_named():
    camera = Camera(topic='x', driver='v4l2', device='/dev/none', width=64, height=48)
    assert '/dev/none does not exist -> check the cable' in bad(check_cameras({'front': camera}, FILE))
