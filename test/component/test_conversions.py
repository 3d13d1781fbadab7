"""Records, arrays and messages."""

import inspect
from array import array
from dataclasses import fields

import numpy as np
import pytest

pytest.importorskip('rclpy')

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from dex_rl_nodes import msg, records
from dex_rl_nodes.descriptions import TOPICS
from dex_rl_nodes.nodes import conversions as c
from dex_rl_nodes.recording import messages

PAIRS = [(c.record_of(m), m) for _, m in inspect.getmembers(msg, inspect.isclass) if c.record_of(m)]
STAMP = 1_700_000_000_123_456_789


def _filled(record: type, random: np.random.Generator):
    """A record whose every field is not its default."""
    values = {}
    for field in fields(record):
        default = getattr(record(), field.name)
        if field.name == 'stamp':
            values['stamp'] = STAMP
        elif isinstance(default, np.ndarray):
            values[field.name] = random.random(len(default) or 5).astype(default.dtype)
        elif isinstance(default, list):
            values[field.name] = ['a', 'b']
        else:
            values[field.name] = {bool: True, int: 3, float: 0.25, str: 'text'}[type(default)]
    return record(**values)


@pytest.mark.parametrize('record, message', PAIRS, ids=lambda kind: kind.__name__)
def test_record_survives_the_journey(record, message):
    sent = _filled(record, np.random.default_rng(1))
    received = c.to_record(c.to_message(sent, message), record)
    for field in fields(record):
        before, after = getattr(sent, field.name), getattr(received, field.name)
        assert np.array_equal(before, after), field.name
        if isinstance(before, np.ndarray):
            assert np.issubdtype(after.dtype, np.floating)


@pytest.mark.parametrize('record, message', PAIRS, ids=lambda kind: kind.__name__)
def test_a_bag_and_a_node_read_the_same(record, message):
    """The table of records.py says what the definition says, and what either writes the other reads."""
    defined = message.get_fields_and_field_types()
    types = {'float32': 'float', 'float64': 'double', 'uint8': 'uint8'}
    for field in records.message_fields(record):
        kind = defined[field.name]
        if field.kind == 'array':
            length = len(getattr(record(), field.name))
            element = types[field.dtype]
            assert kind == (f'{element}[{length}]' if field.fixed else f'sequence<{element}>'), field.name
        else:
            assert (field.kind == 'pose') == (kind == 'geometry_msgs/Pose'), field.name
    sent = _filled(record, np.random.default_rng(2))
    ours = c.to_record(deserialize_message(messages.serialise(sent), message), record)
    theirs = messages.deserialise(serialize_message(c.to_message(sent, message)), messages.type_of(sent))
    for field in fields(record):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        assert type(one) is type(other) and getattr(one, 'dtype', 0) == getattr(other, 'dtype', 0), field.name
        assert np.array_equal(one, other) and np.array_equal(one, getattr(sent, field.name)), field.name


def test_there_is_a_record_for_every_message_of_the_tick():
    assert {record.__name__ for record, _ in PAIRS} >= {
        'ActionCommand', 'CoreAction', 'EpisodeState', 'ExecutedAction', 'HandPrior', 'PolicyStep', 'Reward',
        'SimState', 'StepResult', 'TeleopCommand', 'Transition',
    }  # fmt: skip


def test_numpy_scalars_become_what_messages_need():
    sent = records.Reward(STAMP, 1, np.int64(2), np.float32(0.5), np.bool_(True))
    received = c.to_record(c.to_message(sent, msg.Reward), records.Reward)
    assert (type(received.step), type(received.probability), type(received.success)) == (int, float, bool)


@pytest.mark.parametrize(
    'names, message, prefix',
    [
        (records.Phase, msg.EpisodeState, 'PHASE_'),
        (records.Outcome, msg.EpisodeState, 'OUTCOME_'),
        (records.Mark, msg.TeleopCommand, 'MARK_'),
        (records.Source, msg.ExecutedAction, 'SOURCE_'),
        (records.Origin, msg.Transition, 'SOURCE_'),
    ],
)
def test_names_have_the_numbers_of_the_messages(names, message, prefix):
    constants = {name.removeprefix(prefix) for name in dir(type(message)) if name.startswith(prefix)}
    assert constants == {entry.name for entry in names}
    assert all(getattr(message, prefix + entry.name) == entry for entry in names)


def test_image_there_and_back():
    pixels = np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)
    message = c.image_message(pixels, STAMP, 'front_color_optical_frame')
    assert (message.encoding, message.step, c.stamp_ns(message.header.stamp)) == ('rgb8', 18, STAMP)
    assert np.array_equal(c.image_array(message), pixels)


def test_image_is_not_copied_on_receiving():
    message = c.image_message(np.zeros((4, 6, 3), np.uint8), STAMP, 'front')
    image = c.image_array(message)
    message.data[0] = 7
    assert image[0, 0, 0] == 7


@pytest.mark.parametrize('encoding, expected', [('rgb8', [1, 2, 3]), ('bgr8', [3, 2, 1]), ('mono8', [1, 1, 1])])
def test_image_rows_may_be_padded(encoding, expected):
    row = bytes([1, 2, 3][: 1 if encoding == 'mono8' else 3]) * 2
    message = Image(height=3, width=2, encoding=encoding, step=8, data=array('B', row.ljust(8, b'\xff') * 3))
    image = c.image_array(message)
    assert image.shape == (3, 2, 3)
    assert (image == expected).all()


@pytest.mark.parametrize('encoding, bytes_missing', [('yuv422', 0), ('rgb8', 1)])
def test_image_that_cannot_be_read_is_refused(encoding, bytes_missing):
    message = Image(height=2, width=2, encoding=encoding, step=6, data=array('B', bytes(12 - bytes_missing)))
    with pytest.raises(ValueError, match='image'):
        c.image_array(message)


def test_joints_are_found_by_name():
    message = JointState(name=['b', 'extra', 'a'], position=[2.0, 9.0, 1.0])
    assert c.joint_positions(message, ('a', 'b')).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match='"c" is missing'):
        c.joint_positions(message, ('a', 'c'))


def test_every_topic_has_a_type():
    for topic in TOPICS.values():
        assert c.interface(topic.type) is not None
