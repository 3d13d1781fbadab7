"""Records and images as serialised ROS messages (CDR), and back, without ROS."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dex_rl_nodes import records
from dex_rl_nodes.paths import share_directory
from dex_rl_nodes.records import MessageField, message_fields

PACKAGE = 'dex_rl_nodes'
IMAGE = 'sensor_msgs/msg/Image'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POSE = 'geometry_msgs/msg/PoseStamped'
JOINT_STATE = 'sensor_msgs/msg/JointState'


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The message types of ROS 2 and of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    own = {}
    for path in sorted((share_directory() / 'msg').glob('*.msg')):
        own.update(get_types_from_msg(path.read_text(), f'{PACKAGE}/msg/{path.stem}'))
    store.register(own)
    return store


@cache
def definition(type_name: str) -> tuple[str, str]:
    """Definition with all it depends on (ros2msg) and hash (RIHS01) of a message type.

    Raises:
        KeyError: the type is not known.
    """
    store = typestore()
    if type_name not in store.types:
        raise KeyError(f'message type "{type_name}" is not known')
    return store.generate_msgdef(type_name, ros_version=2)[0], store.hash_rihs01(type_name)


def type_of(record: Any) -> str:
    """Message type of a record."""
    return f'{PACKAGE}/msg/{type(record).__name__}'


def _time(stamp: int) -> Any:
    return typestore().types['builtin_interfaces/msg/Time'](sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)


def _header(stamp: int, frame: str = '') -> Any:
    return typestore().types['std_msgs/msg/Header'](stamp=_time(stamp), frame_id=frame)


def _stamp(header: Any) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def _pose(values: Sequence[float]) -> Any:
    types = typestore().types
    x, y, z, *quaternion = (float(value) for value in values)
    orientation = dict(zip('xyzw', quaternion))
    return types['geometry_msgs/msg/Pose'](
        position=types['geometry_msgs/msg/Point'](x=x, y=y, z=z),
        orientation=types['geometry_msgs/msg/Quaternion'](**orientation),
    )


def _pose_values(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def _encoder(entry: MessageField) -> Callable[[Any], Any]:
    """Conversion of a record field to its message field."""
    if entry.kind == 'array':
        return lambda value: np.ascontiguousarray(value, entry.dtype)
    return {'integer': int, 'number': float, 'truth': bool, 'text': str, 'texts': list, 'pose': _pose}[entry.kind]


def _decoder(entry: MessageField) -> Callable[[Any], Any]:
    """Conversion of a message field to its record field."""
    if entry.kind == 'pose':
        return lambda value: _pose_values(value).astype(entry.dtype)
    return lambda value: value


@cache
def _plan(record: type) -> tuple[str, list[tuple[str, Callable, Callable]]]:
    name = f'{PACKAGE}/msg/{record.__name__}'
    ours, theirs = message_fields(record), set(dict(typestore().get_msgdef(name).fields)) - {'header'}
    if differing := {entry.name for entry in ours} ^ theirs:
        raise TypeError(f'{record.__name__} and its message differ: {sorted(differing)}')
    return name, [(entry.name, _encoder(entry), _decoder(entry)) for entry in ours]


def serialise(record: Any) -> bytes:
    """Record as serialised message of its type."""
    name, plan = _plan(type(record))
    values = {field: encode(getattr(record, field)) for field, encode, _ in plan}
    message = typestore().types[name](header=_header(record.stamp), **values)
    return bytes(typestore().serialize_cdr(message, name))


def deserialise(data: bytes, type_name: str) -> Any:
    """Record of a serialised message of this package.

    Raises:
        ValueError: the data is not such a message.
    """
    record = getattr(records, type_name.rpartition('/')[2])
    message = _parse(data, type_name)
    values = {field: decode(getattr(message, field)) for field, _, decode in _plan(record)[1]}
    return record(stamp=_stamp(message.header), **values)


def _parse(data: bytes, type_name: str) -> Any:
    try:
        return typestore().deserialize_cdr(data, type_name)
    except Exception as error:  # the generated parsers raise whatever the bytes lead them to
        raise ValueError(f'damaged {type_name}: {error}') from None


def serialise_image(pixels: np.ndarray, stamp: int, frame: str = '') -> bytes:
    """uint8 (height, width, 3) RGB as sensor_msgs/Image."""
    height, width = pixels.shape[:2]
    message = typestore().types[IMAGE](
        header=_header(stamp, frame),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=width * 3,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )
    return bytes(typestore().serialize_cdr(message, IMAGE))


def deserialise_image(data: bytes) -> np.ndarray:
    """sensor_msgs/Image as uint8 (height, width, 3) RGB, a view where possible.

    Raises:
        ValueError: damaged, or neither rgb8, bgr8 nor mono8.
    """
    message = _parse(data, IMAGE)
    channels = {'rgb8': 3, 'bgr8': 3, 'mono8': 1}.get(message.encoding)
    if channels is None:
        raise ValueError(f'image encoding "{message.encoding}" is not one of rgb8, bgr8, mono8')
    row = message.width * channels
    if message.step < row or len(message.data) < message.step * message.height:
        raise ValueError(f'image of {message.width} x {message.height} pixels is cut short')
    lines = message.data[: message.step * message.height].reshape(message.height, message.step)
    pixels = lines[:, :row].reshape(message.height, message.width, channels)
    if message.encoding == 'bgr8':
        return pixels[..., ::-1]
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def deserialise_intrinsics(data: bytes) -> tuple[float, float, float, float, tuple[float, ...]]:
    """fx, fy, cx, cy (px) and distortion of a sensor_msgs/CameraInfo; ValueError when it is damaged."""
    message = _parse(data, CAMERA_INFO)
    fx, _, cx, _, fy, cy, *_ = (float(value) for value in message.k)
    return fx, fy, cx, cy, tuple(float(value) for value in message.d)


def serialise_pose(pose: Sequence[float], stamp: int, frame: str) -> bytes:
    """Pose x, y, z (m), quaternion x, y, z, w as geometry_msgs/PoseStamped."""
    message = typestore().types[POSE](header=_header(stamp, frame), pose=_pose(pose))
    return bytes(typestore().serialize_cdr(message, POSE))


def serialise_joints(names: Sequence[str], position: np.ndarray, stamp: int) -> bytes:
    """Joint positions as sensor_msgs/JointState."""
    empty = np.zeros(0)
    message = typestore().types[JOINT_STATE](
        header=_header(stamp),
        name=list(names),
        position=np.asarray(position, np.float64),
        velocity=empty,
        effort=empty,
    )
    return bytes(typestore().serialize_cdr(message, JOINT_STATE))


def stamp_of(data: bytes) -> int:
    """Stamp (ns) of a serialised message that starts with a header."""
    order = 'little' if data[1] & 1 else 'big'
    return int.from_bytes(data[4:8], order, signed=True) * 1_000_000_000 + int.from_bytes(data[8:12], order)
