"""Glove and SpaceMouse readers against emulated devices."""

import termios
import time

import numpy as np
import pytest

from dex_rl_nodes.config import load_robot
from dex_rl_nodes.drivers import link
from dex_rl_nodes.drivers.devices import GloveReader, Reconnecting, SpaceMouseReader, find_spacemouse
from dex_rl_nodes.drivers.emulators.hands import RuiyanEmulator
from dex_rl_nodes.drivers.emulators.operator_devices import GloveEmulator, OperatorDevices, SpaceMouseEmulator
from dex_rl_nodes.drivers.emulators.serial_device import private_folder
from dex_rl_nodes.drivers.glove import Calibration
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.drivers.spacemouse import ros_axes
from dex_rl_nodes.errors import UserError


def wait_for(read, condition, deadline=5.0):
    """Read until a condition holds."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if condition(value := read()):
            return value
    pytest.fail(f'condition not met in {deadline} s')


def test_glove_reads_its_channels(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = list(range(1000, 1021))
        reader = GloveReader(str(device.path), timeout=2.0)
        assert reader.read().tolist() == [1003, 1002, 1007, 1011, 1015, 1019]
        reader.close()


@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), termios.error(5, 'Input/output error')])
def test_a_plug_that_bounces_while_it_is_opened_is_no_crash(monkeypatch, tmp_path, error):
    def bounce(*_, **__):
        raise error

    (tmp_path / 'port').touch()
    monkeypatch.setattr(link.serial, 'Serial', bounce)
    with pytest.raises(UserError, match='cannot open .*Input/output error'):
        link.SerialLink(str(tmp_path / 'port'), 115200, 0.1)


def test_glove_of_zeros_is_no_pose(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [0] * 21
        reader = GloveReader(str(device.path), timeout=2.0)
        assert reader.read() is None
        assert reader.rejected == 1
        assert reader.problem == f'the glove on {device.path} answers only zeros; unplug it and plug it in again'
        device.counts = [2000] * 21
        assert reader.read() is not None and reader.problem == ''
        reader.close()


def test_glove_of_the_other_generation_is_no_pose(tmp_path):
    with GloveEmulator(tmp_path / 'glove', registers=22) as device:
        reader = GloveReader(str(device.path), registers=21)
        assert reader.read() is None
        assert 'no glove with 21 registers answers on' in reader.problem
        reader.close()


def test_a_hand_on_the_port_of_the_glove_is_no_glove(tmp_path):
    with RuiyanEmulator(tmp_path / 'hand', start=[0.3] * 6) as device:
        reader = GloveReader(str(device.path), timeout=2.0)
        assert reader.read() is None
        assert 'no glove with 21 registers answers on' in reader.problem
        reader.close()
        assert device.moves == 0


def test_glove_with_a_bad_cable_never_gives_a_wrong_pose(tmp_path):
    with GloveEmulator(tmp_path / 'glove', corruption=0.01, seed=3) as device:
        reader = GloveReader(str(device.path), timeout=0.005)
        poses = [reader.read() for _ in range(300)]
        assert all(pose is None or (pose == 2000).all() for pose in poses)
        assert 0 < reader.rejected < 250
        reader.close()


def test_glove_channels_must_exist(tmp_path):
    with pytest.raises(UserError, match='from 0 to 20'):
        GloveReader(str(tmp_path / 'glove'), channels=(0, 1, 2, 3, 4, 21))


def test_glove_comes_back(tmp_path):
    device = GloveEmulator(tmp_path / 'glove')
    glove = Reconnecting(lambda: GloveReader(str(device.path)), interval=0.01)
    assert glove.read() is None
    assert 'does not exist' in glove.problem
    for count in range(3):
        device.plug_in()
        wait_for(glove.read, lambda pose: pose is not None)
        assert glove.reconnections == count
        device.unplug()
        wait_for(glove.read, lambda pose: pose is None and glove.problem)
    glove.close()


def test_spacemouse_reports_the_newest_state(tmp_path):
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    device.plug_in()
    reader = SpaceMouseReader(str(device.path))
    device.move([0.1, 0, 0, 0, 0, 0])
    wait_for(reader.read, lambda state: state.axes[0] > 0)
    device.press(False, True)
    assert wait_for(reader.read, lambda state: state.buttons and state.buttons[1]).axes[0] == pytest.approx(0.1)
    device.unplug()
    reader.close()


def test_spacemouse_absence_is_not_zeros(tmp_path):
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    device.plug_in()
    mouse = Reconnecting(lambda: SpaceMouseReader(str(device.path)), interval=0.01)
    wait_for(mouse.read, lambda state: state is not None)
    device.unplug()
    wait_for(mouse.read, lambda state: state is None)
    assert 'SpaceMouse' in mouse.problem
    mouse.close()


def test_a_pushed_spacemouse_that_reports_no_more_is_absent_and_one_at_rest_is_not(tmp_path):
    """A wireless one that loses its receiver leaves the device there: no end of input says so."""
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    device.plug_in()
    mouse = SpaceMouseReader(str(device.path), patience=0.1)
    device.move([1, 0, 0, 0, 0, 0])
    wait_for(mouse.read, lambda state: state is not None and state.axes[0] == 1.0)
    wait_for(mouse.read, lambda state: state is None)
    device.move([0.01, 0, 0, 0, 0, 0])
    wait_for(mouse.read, lambda state: state is not None and state.axes[0] < 0.02)
    reported = mouse._reported
    assert wait_for(mouse.read, lambda state: time.monotonic() - reported > 0.3) is not None
    device.unplug()
    mouse.close()


def test_spacemouse_is_found_by_its_ids(tmp_path):
    entry = tmp_path / 'hidraw3' / 'device'
    entry.mkdir(parents=True)
    (entry / 'uevent').write_text('DRIVER=hid-generic\nHID_ID=0003:0000256F:0000C635\n')
    assert find_spacemouse(tmp_path) == ('/dev/hidraw3', 'SpaceMouse Compact')
    with pytest.raises(UserError, match='no SpaceMouse found'):
        find_spacemouse(tmp_path / 'hidraw3')


def test_operator_devices_say_what_the_drivers_read(tmp_path):
    settings = device_settings(load_robot('fr3_ruiyan')).glove
    devices = OperatorDevices(tmp_path, settings)
    devices.plug_in()
    mouse = SpaceMouseReader(str(tmp_path / 'spacemouse'))
    glove = GloveReader(str(tmp_path / 'glove'), channels=tuple(settings.channels), timeout=2.0)
    twist, fingers = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6]), np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    devices.show(twist, [0, 1, 0, 1, 0, 0], fingers)
    state = wait_for(mouse.read, lambda state: state.buttons and len(state.buttons) == 4)
    assert ros_axes(state.axes) == pytest.approx(twist, abs=0.002)
    assert state.buttons == (False, True, False, True)
    read = Calibration(np.array(settings.open), np.array(settings.closed)).normalise(glove.read())
    assert read == pytest.approx(fingers, abs=0.01)
    mouse.close()
    glove.close()
    devices.unplug()
    assert not list(tmp_path.iterdir())


def test_a_device_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    folder = private_folder(str(tmp_path / 'devices'))
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr('os.getuid', lambda: -1)
    with pytest.raises(UserError, match='belongs to somebody else'):
        private_folder(str(folder))
