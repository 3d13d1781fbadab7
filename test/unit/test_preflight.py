"""The preflight against emulated devices: what is well is said, what is wrong is one named sentence, nothing moves."""

import errno
import os
import termios
from contextlib import contextmanager

import pytest
from judged import FILE, bad, levels

from dex_rl_nodes.config import load_robot
from dex_rl_nodes.drivers.emulators.hands import InspireEmulator, RuiyanEmulator
from dex_rl_nodes.drivers.emulators.operator_devices import GloveEmulator, SpaceMouseEmulator
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.drivers.preflight import hand as hand_check
from dex_rl_nodes.drivers.preflight.hand import check_hand
from dex_rl_nodes.drivers.preflight.operator import check_glove, check_spacemouse
from dex_rl_nodes.drivers.settings import GloveDevice, HandDevice, SpaceMouseDevice, device_settings
from dex_rl_nodes.errors import UserError

START = [0.4, 0.1, 0.2, 0.3, 0.5, 0.6]


def hand(path, **fields):
    return HandDevice(**{'model': 'ruiyan', 'port': str(path), 'rate': 1, **fields})


def glove(path, **fields):
    settings = {'open': [1350, 3100, 3100, 3100, 3100, 3100], 'closed': [1200, 2000, 1200, 1200, 1200, 1200]}
    return GloveDevice(**{'port': str(path), 'rate': 1, **settings, **fields})


@contextmanager
def nobody():
    """A user without rights, where the tests run as root."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


class Still:
    """An emulated hand that fails the test when it is told anything but to answer."""

    def receive(self, data):
        code = data[4] if data[:1] == b'\xa5' else data[4] if data[:2] == b'\xeb\x90' else None
        assert code in (0xA0, 0x11) or data[0] == 1, f'sent {data.hex(" ")}'
        return super().receive(data)


class Ruiyan(Still, RuiyanEmulator):
    pass


class Inspire(Still, InspireEmulator):
    pass


class OneBaud(Ruiyan):
    """Understands one baud rate, as a real bus does."""

    speed = termios.B115200

    def receive(self, data):
        return super().receive(data) if termios.tcgetattr(self._master)[5] == self.speed else b''


class SixteenMotors(Ruiyan):
    """The hand with sixteen motors: motor 7 answers too."""

    def _answer(self, frame):
        if frame[1] != 7:
            return super()._answer(frame)
        body = bytes((0xA5, 7, 1, 8, frame[4])) + bytes(7)
        return body + bytes((sum(body) & 0xFF,))


# The hand


@pytest.mark.parametrize(('emulator', 'model'), [(Ruiyan, 'ruiyan'), (Inspire, 'inspire')])
def test_a_good_hand_is_good_and_does_not_move(tmp_path, emulator, model):
    with emulator(tmp_path / 'hand', start=START) as device:
        found = levels(check_hand(hand(device.path, model=model), FILE, seconds=0.2))
        assert device._thread.is_alive()
        assert device.moves == 0 and device.motors.position == START
    assert not found['bad'] and not found['warning'], found
    assert any('six answer; normalised travel 0.40, 0.10, 0.20, 0.30, 0.50, 0.60' in text for text in found['good'])
    assert any('exchanges per second' in text for text in found['good'])


def test_an_adapter_with_echo_is_no_obstacle(tmp_path):
    with Ruiyan(tmp_path / 'hand', start=START, echo=True) as device:
        assert not levels(check_hand(hand(device.path), FILE, seconds=0.2))['bad']


@pytest.mark.parametrize('motor', [1, 4])
def test_a_missing_motor_is_named(tmp_path, motor):
    with Ruiyan(tmp_path / 'hand') as device:
        device.silent = {motor}
        joint = {1: 'thumb_rotation', 4: 'middle'}[motor]
        assert f'no answer from motor {joint} -> check its cable' in bad(
            check_hand(hand(device.path), FILE, seconds=0.2)
        )


def test_the_wrong_baud_is_named_with_the_right_one(tmp_path):
    with OneBaud(tmp_path / 'hand') as device:
        text = bad(check_hand(hand(device.path, baud=460800), FILE))
        assert 'a Ruiyan hand answers' in text and 'at 115200 baud, not at 460800' in text
        assert f'set devices.hand.baud: 115200 in {FILE}' in text
        found = levels(check_hand(hand(device.path, baud=0), FILE, seconds=0.2))
        assert not found['bad'] and 'at 115200 baud' in found['good'][0]


def test_a_slow_bus_is_a_warning(tmp_path):
    with Ruiyan(tmp_path / 'hand', baud=115200) as device:
        found = levels(check_hand(hand(device.path, baud=115200, rate=200), FILE, seconds=0.3))
    assert 'exchanges per second at 115200 baud, 200 are wanted' in found['warning'][0]
    assert 'set the hand to 460800 baud' in found['warning'][0]


@pytest.mark.parametrize(
    ('emulator', 'configured', 'answers'),
    [(Inspire, 'ruiyan', 'an Inspire hand with id 1'), (Ruiyan, 'inspire', 'a Ruiyan hand')],
)
def test_another_model_is_named(tmp_path, emulator, configured, answers):
    with emulator(tmp_path / 'hand') as device:
        text = bad(check_hand(hand(device.path, model=configured), FILE))
    assert f'{answers} answers on' in text and f'correct devices.hand in {FILE}' in text


def test_a_hand_with_more_motors_is_another_model(tmp_path):
    with SixteenMotors(tmp_path / 'hand') as device:
        assert 'more than six motors (RY-H1 has 16)' in bad(check_hand(hand(device.path), FILE, seconds=0.1))


def test_an_inspire_hand_of_the_other_side_is_named_by_its_address(tmp_path):
    with Inspire(tmp_path / 'hand', hand=2) as device:
        text = bad(check_hand(hand(device.path, model='inspire'), FILE))
        assert 'an Inspire hand with id 2 answers' in text and 'the hand of the other side' in text
        right = check_hand(hand(device.path, model='inspire', hand_id=2), FILE, seconds=0.1)
        assert not levels(right)['bad']


def test_registers_of_another_model_are_noticed(tmp_path, monkeypatch):
    with Inspire(tmp_path / 'hand', start=[1.5] * 6) as device:
        monkeypatch.setattr(device.motors, 'advance', lambda: None)
        monkeypatch.setattr(
            'dex_rl_nodes.drivers.inspire.angles_from_travel',
            lambda travel: [round(1000 * (1 - value)) for value in reversed(travel)],
        )
        text = bad(check_hand(hand(device.path, model='inspire'), FILE, seconds=0.1))
    assert 'outside of its travel' in text and 'RH56F1' in text


def test_faults_are_named_per_joint(tmp_path):
    with Ruiyan(tmp_path / 'hand') as device:
        device.status = [0, 0, 5, 0, 1, 0]
        found = levels(check_hand(hand(device.path), FILE, seconds=0.1))
    assert 'index: over-current' in found['bad'][0]
    assert 'ring: temperature high' in found['warning'][0]
    with Inspire(tmp_path / 'inspire') as device:
        device.errors = bytearray((1, 0, 0, 0, 0, 0))  # the little finger comes first
        assert 'pinky: locked rotor' in bad(check_hand(hand(device.path, model='inspire'), FILE, seconds=0.1))


# Ports


def test_a_port_that_is_not_there_lists_those_that_are(tmp_path):
    assert 'does not exist -> plug it in, or set devices.hand.port' in bad(check_hand(hand(tmp_path / 'no'), FILE))
    assert 'does not exist -> plug it in, or set devices.glove.port' in bad(
        check_glove(glove(tmp_path / 'no'), 'right', FILE)
    )


def test_a_port_without_permission_names_the_rule(tmp_path):
    with Ruiyan(tmp_path / 'hand') as device:
        os.chmod(os.path.realpath(device.path), 0)
        # pytest keeps its folders private, and one more of them where the tests run on several cores
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o055)
        with nobody():
            text = bad(check_hand(hand(os.path.realpath(device.path)), FILE))
    assert 'no permission to open' in text
    assert 'copy config/udev/99-dex-rl-nodes.rules to /etc/udev/rules.d/' in text


def test_a_port_that_another_program_holds_is_named(tmp_path):
    with Ruiyan(tmp_path / 'hand') as device:
        link = SerialLink(str(device.path), 115200, 0.01)
        try:
            assert 'in use by another program -> stop that program' in bad(check_hand(hand(device.path), FILE))
        finally:
            link.close()


def test_ports_that_are_exchanged_are_named(tmp_path):
    with GloveEmulator(tmp_path / 'one') as first, Ruiyan(tmp_path / 'two') as second:
        text = bad(check_hand(hand(first.path), FILE))
        assert 'a glove with 21 registers answers' in text and 'set devices.hand.port' in text
        text = bad(check_glove(glove(second.path), 'right', FILE))
        assert 'a Ruiyan hand answers' in text and 'set devices.glove.port' in text


def test_a_port_where_nothing_answers(tmp_path):
    class Dumb(GloveEmulator):
        def receive(self, data):
            return b''

    with Dumb(tmp_path / 'port') as device:
        assert 'nothing answers' in bad(check_hand(hand(device.path, baud=460800), FILE))


def test_a_device_that_is_pulled_out_during_the_check_is_named(tmp_path, monkeypatch):
    def pulled(*_):
        raise LinkLost(f'{tmp_path}: {os.strerror(errno.EIO)}')

    with Ruiyan(tmp_path / 'hand') as device:
        monkeypatch.setattr(hand_check, '_sample_ruiyan', pulled)
        assert 'Input/output error -> check its cable' in bad(check_hand(hand(device.path), FILE))


# Sides


def test_ports_named_after_the_other_side_are_refused():
    robot = load_robot('fr3_ruiyan')
    for name, port in (('hand', '/dev/hand_left'), ('glove', '/dev/dex_glove_left')):
        devices = {**robot.devices, name: {**robot.devices[name], 'port': port}}
        with pytest.raises(UserError, match=f'{name}.port {port} is named after the left hand, but side is right'):
            device_settings(robot.model_copy(update={'devices': devices}))
    left = {**robot.devices, 'side': 'left', 'glove': {**robot.devices['glove'], 'port': '/dev/dex_glove_left'}}
    assert device_settings(robot.model_copy(update={'devices': left})).side == 'left'
    bright = {**left, 'hand': {**robot.devices['hand'], 'port': '/dev/serial/by-id/usb-Bright_Co-if00'}}
    assert device_settings(robot.model_copy(update={'devices': bright})).side == 'left'


def test_a_glove_with_the_usb_id_of_the_other_side_is_a_warning(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [1300] * 21
        found = levels(check_glove(glove(device.path), 'right', FILE, 0.1, usb=lambda port: (0x0483, 0x5739)))
        assert 'that of a left glove, the hand is a right one' in found['warning'][0]
        found = levels(check_glove(glove(device.path), 'left', FILE, 0.1, usb=lambda port: (0x0483, 0x5739)))
        assert not found['warning']


# The glove


def test_a_good_glove_is_good(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [1300] * 21
        device.counts[2] = 2550
        found = levels(check_glove(glove(device.path), 'right', FILE, 0.2))
    assert not found['bad'] and not found['warning'], found
    assert 'open hand 0, fist 1: 0.33, 0.50, 0.95' in found['good'][1]


def test_a_glove_of_zeros_is_named(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [0] * 21
        assert 'but only zeros -> its sensors have not started' in bad(
            check_glove(glove(device.path), 'right', FILE, 0.1)
        )


def test_the_other_generation_of_the_glove_is_named(tmp_path):
    with GloveEmulator(tmp_path / 'glove', registers=22) as device:
        text = bad(check_glove(glove(device.path), 'right', FILE))
    assert 'a glove with 22 registers answers' in text and 'set devices.glove.registers' in text


def test_a_left_glove_for_a_right_one_is_seen_in_its_counts(tmp_path):
    with GloveEmulator(tmp_path / 'glove') as device:
        device.counts = [2100] * 21  # the side of the thumb: 1350 to 1200 on a right glove, 1900 to 2150 on a left one
        device.counts[2] = 2550
        text = bad(check_glove(glove(device.path), 'right', FILE, 0.1))
    assert 'thumb_rotation reads 2100 counts, calibrated are 1350 to 1200: a glove of the other side' in text


def test_a_damaged_cable_is_named(tmp_path):
    with GloveEmulator(tmp_path / 'glove', corruption=0.01, seed=4) as device:
        device.counts = [1300] * 21
        found = levels(check_glove(glove(device.path), 'right', FILE, 0.5))
    assert any('replies were damaged -> use another cable' in text for text in found['bad']), found


def test_a_calibration_without_travel_is_refused_before_the_glove_is_asked(tmp_path):
    settings = glove(tmp_path / 'none', closed=[1340, 2000, 1200, 1200, 1200, 1200])
    assert 'moved only 10 counts' in bad(check_glove(settings, 'right', FILE))


# The SpaceMouse


def test_the_spacemouse_rests_or_is_named(tmp_path):
    device = SpaceMouseEmulator(tmp_path / 'mouse')
    settings = SpaceMouseDevice(path=str(device.path))
    assert 'does not exist' in bad(check_spacemouse(settings, 0.08))
    device.plug_in()
    assert 'at rest' in levels(check_spacemouse(settings, 0.08, 0.1))['good'][0]
    device.move([0, 0, 0.3, 0, 0, 0])
    assert 'axis 3 reads +0.30 while it should rest -> let go of the cap' in bad(check_spacemouse(settings, 0.08, 0.1))
    device.unplug()


def test_a_spacemouse_without_permission_names_the_rule(tmp_path):
    path = tmp_path / 'mouse'
    path.touch(0o000)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    with nobody():
        text = bad(check_spacemouse(SpaceMouseDevice(path=str(path)), 0.08))
    assert 'no permission to open' in text and '99-dex-rl-nodes.rules' in text
