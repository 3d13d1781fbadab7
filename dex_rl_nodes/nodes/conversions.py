"""Messages to records and arrays, and back. Nothing else in the package knows how a message is laid out."""

import importlib
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped
from sensor_msgs.msg import Image, JointState

from dex_rl_nodes import records
from dex_rl_nodes.records import MessageField, message_fields

R = TypeVar('R')
_CHANNELS = {'rgb8': 3, 'bgr8': 3, 'mono8': 1}


def interface(name: str) -> type:
    """Class of a message or service, for example `sensor_msgs/msg/Image`."""
    package, kind, type_name = name.split('/')
    return getattr(importlib.import_module(f'{package}.{kind}'), type_name)


def stamp_ns(time: Time) -> int:
    """Time stamp as integer nanoseconds."""
    return time.sec * 1_000_000_000 + time.nanosec


def time_message(stamp: int) -> Time:
    """Integer nanoseconds as time stamp."""
    return Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)


def pose_array(pose: Pose) -> np.ndarray:
    """Pose as float64 (7,): x, y, z (m), quaternion x, y, z, w."""
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def pose_message(pose: Sequence[float]) -> Pose:
    """Pose from x, y, z (m), quaternion x, y, z, w."""
    message = Pose()
    p, q = message.position, message.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = (float(value) for value in pose)
    return message


def pose_stamped(pose: Sequence[float], stamp: int, frame: str) -> PoseStamped:
    """Stamped pose in a frame."""
    message = PoseStamped(pose=pose_message(pose))
    message.header.stamp = time_message(stamp)
    message.header.frame_id = frame
    return message


def joint_state(
    names: Sequence[str], position: Sequence[float], stamp: int, velocity: Sequence[float] = ()
) -> JointState:
    """Joint state; positions in rad, or normalised travel for hand and glove."""
    message = JointState(
        name=list(names), position=array('d', map(float, position)), velocity=array('d', map(float, velocity))
    )
    message.header.stamp = time_message(stamp)
    return message


def by_joint(message: JointState, names: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """Values that a message has for each of its joints, such as `effort`, in the order of `names`; 0 without them."""
    found = dict(zip(message.name, values)) if len(values) == len(message.name) else {}
    return np.array([found.get(name, 0.0) for name in names])


def joint_positions(message: JointState, names: Sequence[str]) -> np.ndarray:
    """Positions in the order of `names`, float64.

    Raises:
        ValueError: a joint is missing; names it.
    """
    if list(message.name) == list(names) and len(message.position) == len(names):
        return np.array(message.position)
    found = dict(zip(message.name, message.position))
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f'joint "{missing[0]}" is missing; the message has {", ".join(found) or "no joints"}')
    return np.array([found[name] for name in names])


def image_array(message: Image) -> np.ndarray:
    """Image as uint8 (height, width, 3) RGB: a view of the message's data, not a copy.

    Raises:
        ValueError: the encoding is not rgb8, bgr8 or mono8, or the data is shorter than it says.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise ValueError(f'image encoding "{message.encoding}" is not one of {", ".join(_CHANNELS)}')
    row = message.width * channels
    if message.step < row or len(message.data) < message.step * message.height:
        raise ValueError(f'image of {message.width} x {message.height} pixels is cut short')
    data = np.frombuffer(message.data, np.uint8, message.step * message.height)
    pixels = data.reshape(message.height, message.step)[:, :row].reshape(message.height, message.width, channels)
    if message.encoding == 'bgr8':
        return pixels[..., ::-1]
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def image_message(pixels: np.ndarray, stamp: int, frame: str) -> Image:
    """Image rgb8 from uint8 (height, width, 3) RGB."""
    height, width = pixels.shape[:2]
    data = array('B')  # rclpy takes an array as it is; anything else it walks byte by byte
    data.frombytes(np.ascontiguousarray(pixels).data)
    message = Image(height=height, width=width, encoding='rgb8', step=width * 3, data=data)
    message.header.stamp = time_message(stamp)
    message.header.frame_id = frame
    return message


def _encoder(entry: MessageField) -> Callable[[Any], Any]:
    """Conversion of a record field to its message field."""
    if entry.kind == 'array':
        dtype = np.dtype(entry.dtype)
        if entry.fixed:
            return lambda value: np.ascontiguousarray(value, dtype)
        # rclpy takes an array as it is; anything else it walks number by number
        return lambda value: array(dtype.char, np.ascontiguousarray(value, dtype).tobytes())
    plain = {'integer': int, 'number': float, 'truth': bool, 'text': str, 'texts': list, 'pose': pose_message}
    return plain[entry.kind]


def _decoder(entry: MessageField) -> Callable[[Any], Any]:
    """Conversion of a message field to its record field."""
    if entry.kind == 'array':
        return lambda value: np.frombuffer(value, entry.dtype) if len(value) else np.zeros(0, entry.dtype)
    if entry.kind == 'pose':
        return lambda value: pose_array(value).astype(entry.dtype)
    return list if entry.kind == 'texts' else lambda value: value


@cache
def _plan(record: type, message: type) -> list[tuple[str, Callable, Callable]]:
    ours, theirs = message_fields(record), set(message.get_fields_and_field_types()) - {'header'}
    if differing := {entry.name for entry in ours} ^ theirs:
        raise TypeError(f'{record.__name__} and its message differ: {sorted(differing)}')
    return [(entry.name, _encoder(entry), _decoder(entry)) for entry in ours]


def to_message(record: Any, message: type) -> Any:
    """Message with the fields of the record; `stamp` becomes the header's stamp."""
    result = message()
    for name, encode, _ in _plan(type(record), message):
        setattr(result, name, encode(getattr(record, name)))
    result.header.stamp = time_message(record.stamp)
    return result


def to_record(message: Any, record: type[R]) -> R:
    """Record with the fields of the message; arrays are views of the message's data where possible."""
    values = {name: decode(getattr(message, name)) for name, _, decode in _plan(record, type(message))}
    return record(stamp=stamp_ns(message.header.stamp), **values)


def record_of(message: type) -> type | None:
    """The record of a message type of this package, None where there is none."""
    own = message.__module__.startswith('dex_rl_nodes.')
    return getattr(records, message.__name__, None) if own else None
