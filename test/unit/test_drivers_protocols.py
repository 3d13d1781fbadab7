"""Device protocols against golden frames and damaged streams."""

import random

import numpy as np
import pytest

from dex_rl_nodes.config import load_robot
from dex_rl_nodes.drivers import glove, inspire, ruiyan, spacemouse
from dex_rl_nodes.drivers.settings import GloveDevice, device_settings
from dex_rl_nodes.errors import UserError

GOLDEN = [
    (ruiyan.encode_move(1, 0, 2000, 800), 'a5 01 00 08 aa 00 00 d0 07 20 03 00 52'),
    (ruiyan.encode_move(1, 1638, 2000, 800), 'a5 01 00 08 aa 66 06 d0 07 20 03 00 be'),
    (ruiyan.encode_move(3, 4095, 1000, 500), 'a5 03 00 08 aa ff 0f e8 03 f4 01 00 48'),
    (ruiyan.encode_move(2, 2048, 1000, -300), 'a5 02 00 08 aa 00 08 e8 03 d4 fe 00 1e'),
    (ruiyan.encode_read(3), 'a5 03 00 08 a0 00 00 00 00 00 00 00 50'),
    (ruiyan.encode_clear(3), 'a5 03 00 08 a5 00 00 00 00 00 00 00 55'),
    (inspire.encode_write_words(1, inspire.ANGLE_SET, [1000] * 6), 'eb 90 01 0f 12 ce 05' + ' e8 03' * 6 + ' 77'),
    (inspire.encode_read(1, inspire.ANGLE_ACTUAL, 12), 'eb 90 01 04 11 0a 06 0c 32'),
    (inspire.encode_write(1, inspire.CLEAR_ERROR, b'\x01'), 'eb 90 01 04 12 ec 03 01 07'),
    (glove.encode_request(21), '01 03 00 01 00 15 d5 c5'),
    (glove.encode_request(22), '01 03 00 01 00 16 95 c4'),
]


@pytest.mark.parametrize('frame, expected', GOLDEN)
def test_golden_frames(frame, expected):
    assert frame.hex(' ') == expected


def test_ruiyan_captured_reply():
    reply = ruiyan.decode_reply(bytes.fromhex('a503 0108 a0008e0000000000 df'.replace(' ', '')))
    assert (reply.motor, reply.status, reply.position) == (3, 0, 142)


def test_ruiyan_position_never_leaves_twelve_bits():
    assert ruiyan.encode_move(1, 4096, 0, 0)[5:7] == b'\xff\x0f'
    assert ruiyan.encode_move(1, -5, 0, 0)[5:7] == b'\x00\x00'


def ruiyan_reply(motor: int, position: int, velocity: int = -7, current: int = 33) -> bytes:
    word = ruiyan.MOVE | position << 16 | (velocity & 0xFFF) << 28 | (current & 0xFFF) << 40
    body = bytes((ruiyan.HEADER, motor, 1, 8)) + word.to_bytes(8, 'little')
    return body + bytes((sum(body) & 0xFF,))


def test_ruiyan_signed_fields():
    reply = ruiyan.decode_reply(ruiyan_reply(2, 4000, velocity=-2048, current=2047))
    assert (reply.position, reply.velocity, reply.current) == (4000, -2048, 2047)


def test_ruiyan_echo_is_not_feedback():
    parser = ruiyan.ReplyParser()
    replies = parser.feed(ruiyan.encode_clear(3) + ruiyan_reply(3, 100))
    assert [reply.position for reply in replies] == [100]


@pytest.mark.parametrize('seed', range(3))
def test_ruiyan_stream_with_damage_never_gives_a_wrong_value(seed):
    print(f'seed {seed}')
    rng = random.Random(seed)
    parser = ruiyan.ReplyParser()
    good = 0
    for count in range(6000):
        motor = count % 6 + 1
        frame = bytearray(ruiyan_reply(motor, motor * 600))
        for index in reversed(range(len(frame))):
            if rng.random() < 0.01:
                kind = rng.randrange(3)
                if kind == 0:
                    frame[index] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    del frame[index]
                else:
                    frame.insert(index, rng.randrange(256))
        for reply in parser.feed(bytes(frame)):
            assert reply.position == reply.motor * 600
            good += 1
    assert good > 4500
    assert parser.feed(ruiyan_reply(1, 600) * 3)[-1].position == 600


def test_inspire_order_and_direction():
    travel = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
    angles = inspire.angles_from_travel(travel)
    assert angles == [0, 600, 700, 800, 900, 1000]
    assert inspire.travel_from_angles(angles) == pytest.approx(travel)


def test_inspire_reply_after_noise():
    data = b''.join(value.to_bytes(2, 'little') for value in range(6))
    content = bytes((1, 15, 0x11)) + inspire.ANGLE_ACTUAL.to_bytes(2, 'little') + data
    frame = b'\x90\xeb' + content + bytes((sum(content) & 0xFF,))
    parser = inspire.ReplyParser()
    replies = parser.feed(b'\x90\x00\xeb' + frame[:7]) + parser.feed(frame[7:] + b'\x90')
    assert len(replies) == 1
    assert replies[0].address == inspire.ANGLE_ACTUAL
    assert inspire.words(replies[0].data) == [0, 1, 2, 3, 4, 5]


def test_glove_reply_is_checked():
    counts = list(range(100, 121))
    frame = glove.encode_reply(counts)
    assert glove.decode_reply(frame, 21).tolist() == counts
    for index in range(len(frame)):
        damaged = bytearray(frame)
        damaged[index] ^= 4
        assert glove.decode_reply(bytes(damaged), 21) is None
    assert glove.decode_reply(frame, 22) is None


def test_glove_calibration_takes_inverted_ranges_and_refuses_small_ones():
    calibration = glove.Calibration(np.array([3100] * 6), np.array([1200] * 6))
    assert calibration.normalise(np.array([3100, 1200, 2150, 4000, 0, 2150])) == pytest.approx([0, 1, 0.5, 0, 1, 0.5])
    with pytest.raises(ValueError, match='channel 2 moved only 10 counts'):
        glove.Calibration(np.array([0, 0, 100, 0, 0, 0]), np.array([900, 900, 110, 900, 900, 900]))


def test_glove_smoother_limits_jumps():
    smoother = glove.Smoother(window=10, largest_step=0.1)
    smoother.update(np.zeros(6, np.float32))
    assert smoother.update(np.ones(6, np.float32)).max() <= 0.1


def test_spacemouse_reports():
    def report(kind, *counts):
        return bytes((kind,)) + b''.join(count.to_bytes(2, 'little', signed=True) for count in counts)

    state = spacemouse.decode_report(report(1, 350, -175, 0), spacemouse.MouseState())
    state = spacemouse.decode_report(report(2, 0, 0, 700), state)
    assert state.buttons is None, 'nobody knows before the device has told'
    state = spacemouse.decode_report(bytes((3, 2)), state)
    assert state == spacemouse.MouseState((1.0, -0.5, 0.0, 0.0, 0.0, 1.0), (False, True))
    assert spacemouse.decode_report(report(1, 1, 2, 3, 4, 5, 6), state).axes[5] == pytest.approx(6 / 350)
    assert spacemouse.decode_report(b'', state) is state
    large = spacemouse.decode_report(bytes((3, 0, 0, 4, 0)), state)
    assert [n for n, pressed in enumerate(large.buttons) if pressed] == [18], 'a SpaceMouse Pro has more than sixteen'


@pytest.mark.parametrize(('registers', 'channels'), [(21, [3, 2, 7, 11, 15, 19]), (22, [3, 2, 8, 12, 16, 20])])
def test_a_glove_is_read_at_the_channels_of_its_generation(registers, channels):
    ends = {'open': [0] * 6, 'closed': [900] * 6}
    assert GloveDevice(registers=registers, **ends).channels == channels
    assert GloveDevice(registers=registers, channels=[4, 2, 7, 11, 15, 19], **ends).channels[0] == 4, (
        'what is said counts'
    )


def test_a_generation_that_is_no_number_is_named():
    robot = load_robot('fr3_ruiyan')
    glove = {**robot.devices['glove'], 'registers': [22]}
    with pytest.raises(UserError, match='devices.glove.registers'):
        device_settings(robot.model_copy(update={'devices': {**robot.devices, 'glove': glove}}))
