"""Bags: what is written is read, by us and by others; nothing whole is lost to a kill, a cut or a full disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader

from dex_rl_nodes import records
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.reader import (
    BagReader,
    bag_folders,
    is_finished,
    mcap_files,
    next_folder,
    repair,
    repair_all,
)
from dex_rl_nodes.recording.writer import FLUSH_PERIOD, BagWriter

REPOSITORY = Path(__file__).parents[2]
IMAGE_TOPIC = '/camera/front/color/image_raw'


def filled(record_type, seed=0):
    """A record whose every field differs from its default."""
    random = np.random.default_rng(seed)
    record = record_type()
    for name, value in vars(record).items():
        if name == 'stamp':
            value = 1_700_000_000_123_456_789
        elif isinstance(value, np.ndarray):
            value = random.random(len(value) or 5).astype(np.float32)
        elif isinstance(value, bool):
            value = True
        elif isinstance(value, str):
            value = 'täxt'
        elif isinstance(value, float):
            value = 0.25
        elif isinstance(value, list):
            value = ['a', 'bcd']
        else:
            value = 7
        setattr(record, name, value)
    return record


def write(folder, count=20, **options):
    pixels = np.random.default_rng(1).integers(0, 255, (count, 48, 64, 3), np.uint8)
    with BagWriter(folder, **options) as bag:
        for n in range(count):
            bag.write_image(IMAGE_TOPIC, pixels[n], n * 100)
            bag.write('/reward', records.Reward(n * 100, 3, n, n / 10))
    return pixels


MESSAGES = sorted(path.stem for path in (REPOSITORY / 'msg').glob('*.msg') if hasattr(records, path.stem))


def same(first, second):
    for field, value in vars(first).items():
        assert np.array_equal(getattr(second, field), value), field


@pytest.mark.parametrize('name', MESSAGES)
def test_record_round_trip(name):
    record = filled(getattr(records, name))
    same(record, messages.deserialise(messages.serialise(record), messages.type_of(record)))


@pytest.mark.parametrize('name', MESSAGES)
def test_ros_and_we_understand_each_other(name):
    pytest.importorskip('rclpy')
    from rclpy.serialization import deserialize_message, serialize_message

    from dex_rl_nodes.nodes import conversions

    record = filled(getattr(records, name))
    message = conversions.interface(messages.type_of(record))
    same(record, conversions.to_record(deserialize_message(messages.serialise(record), message), type(record)))
    data = serialize_message(conversions.to_message(record, message))
    same(record, messages.deserialise(data, messages.type_of(record)))


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8'])
def test_image_encodings(encoding):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    data = bytearray(messages.serialise_image(pixels, 42))
    assert messages.stamp_of(data) == 42
    at = bytes(data).index(b'rgb8')
    if encoding == 'bgr8':
        data[at : at + 4] = b'bgr8'
        pixels = pixels[..., ::-1]
    elif encoding == 'mono8':
        store = messages.typestore()
        message = store.deserialize_cdr(bytes(data), messages.IMAGE)
        grey = store.types[messages.IMAGE](
            **{**vars(message), 'encoding': 'mono8', 'step': 5, 'data': message.data[:30]}
        )
        data = store.serialize_cdr(grey, messages.IMAGE)
        pixels = np.repeat(pixels.reshape(-1)[:30].reshape(6, 5, 1), 3, axis=2)
    assert np.array_equal(messages.deserialise_image(bytes(data)), pixels)


def test_damaged_messages_are_refused():
    data = messages.serialise_image(np.zeros((4, 4, 3), np.uint8), 1)
    with pytest.raises(ValueError, match='encoding "16UC" is not one of'):
        messages.deserialise_image(data.replace(b'rgb8', b'16UC'))
    with pytest.raises(ValueError, match='damaged'):
        messages.deserialise_image(data[:20])
    with pytest.raises(ValueError, match='damaged'):
        messages.deserialise(b'\x00\x01\x00\x00\x01', 'dex_rl_nodes/msg/Reward')


@pytest.mark.parametrize('compression', ['zstd', ''])
@pytest.mark.parametrize('split_bytes', [1 << 30, 20_000])
def test_others_read_it(tmp_path, compression, split_bytes):
    folder = tmp_path / 'bag'
    qos = '- history: 1\n  depth: 5\n  reliability: 1\n  durability: 1\n' + ''.join(
        f'  {name}: {{sec: 1, nsec: 2}}\n' for name in ('deadline', 'lifespan', 'liveliness_lease_duration')
    ) + '  liveliness: 1\n  avoid_ros_namespace_conventions: false'  # fmt: skip
    with BagWriter(folder, {'/reward': qos}, compression, split_bytes) as bag:
        for n in range(20):
            bag.write_image(IMAGE_TOPIC, np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8), n * 100)
            bag.write('/reward', records.Reward(n * 100, 3, n, n / 10))
            bag.flush()
    files = mcap_files(folder)
    assert (len(files) > 3) == (split_bytes < 1 << 20)
    with Reader(folder) as reader:
        assert {c.topic: (c.msgtype, c.msgcount) for c in reader.connections} == {
            IMAGE_TOPIC: ('sensor_msgs/msg/Image', 20), '/reward': ('dex_rl_nodes/msg/Reward', 20),
        }  # fmt: skip
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        assert offered[IMAGE_TOPIC] == [] and offered['/reward'][0].durability.name == 'TRANSIENT_LOCAL'
        assert (reader.message_count, reader.start_time, reader.end_time) == (40, 0, 1901)
        rewards = [data for connection, _, data in reader.messages() if 'reward' in connection.topic]
        steps = [messages.typestore().deserialize_cdr(data, 'dex_rl_nodes/msg/Reward') for data in rewards]
        assert [message.step for message in steps] == list(range(20))
    decoded = []
    for path in files:
        with path.open('rb') as file:
            reader = make_reader(file, decoder_factories=[DecoderFactory()], validate_crcs=True)
            assert reader.get_header().profile == 'ros2'
            found = reader.iter_decoded_messages()
            decoded += [message for _, channel, _, message in found if channel.topic == '/reward']
    assert [round(message.probability, 3) for message in decoded] == [n / 10 for n in range(20)]


def test_reader_by_topic(tmp_path):
    pixels = write(tmp_path / 'bag')
    reader = BagReader(tmp_path / 'bag', ['reward', 'camera/front/color/image_raw'])
    found = list(reader)
    assert {message.topic for message in found} == {'reward', 'camera/front/color/image_raw'} and not reader.warning
    images = [messages.deserialise_image(m.data) for m in found if m.topic != 'reward']
    assert np.array_equal(images, pixels)
    assert [m.topic for m in BagReader(tmp_path / 'bag', ['wrist/color/image_raw'])] == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.floats(0, 1), flips=st.lists(st.floats(0, 1), max_size=3))
def test_a_cut_or_damaged_bag_gives_what_is_whole(tmp_path_factory, keep, flips):
    folder = tmp_path_factory.mktemp('cut') / 'bag'
    with BagWriter(folder) as bag:
        for n in range(10):
            bag.write('/reward', records.Reward(n, 0, n))
            bag.flush()
    path = mcap_files(folder)[0]
    data = bytearray(path.read_bytes()[: int(keep * path.stat().st_size)])
    for flip in flips:
        if data:
            data[min(int(flip * len(data)), len(data) - 1)] ^= 0x40
    path.write_bytes(data)

    def steps():
        reader = BagReader(folder)
        return [messages.deserialise(m.data, m.type_name).step for m in reader], reader

    before, reader = steps()
    if not flips:
        assert before == list(range(len(before)))
        assert 0 <= reader.lost <= len(data) and ('cut off' in reader.warning) == (reader.lost > 0)
        repair(folder)
        if path.exists():
            assert is_finished(path) and steps()[0] == before
            with Reader(folder) as other:
                assert other.message_count == len(before) == len(list(other.messages()))
            assert repair(folder) == ''


def test_repair_keeps_finished_files(tmp_path):
    folder = tmp_path / 'bag'
    write(folder, split_bytes=30_000)
    bag = BagWriter(tmp_path / 'two')
    with pytest.raises(UserError, match='is being written by another process'):
        repair(bag.folder)
    bag.close()
    last = mcap_files(folder)[-1]
    last.write_bytes(last.read_bytes()[:-50])
    (folder / 'metadata.yaml').unlink()
    expected = len(list(BagReader(folder)))
    assert f'{expected} messages kept' in repair_all(tmp_path)[0]
    with Reader(folder) as other:
        assert other.message_count == expected == len(list(other.messages()))


def test_repair_removes_a_bag_of_which_nothing_was_written(tmp_path):
    write(tmp_path / '00000')
    (tmp_path / '00001').mkdir()
    (tmp_path / '00001/00001_0.mcap').touch()
    assert repair_all(tmp_path) == [f'removed bag {tmp_path / "00001"}: nothing had been written']
    assert bag_folders(tmp_path) == [tmp_path / '00000'] and next_folder(tmp_path).name == '00001'


def test_not_a_bag(tmp_path):
    with pytest.raises(UserError, match='holds no .mcap file'):
        BagReader(tmp_path)
    assert bag_folders(tmp_path / 'nowhere') == []


def test_folders_count_up(tmp_path):
    assert next_folder(tmp_path).name == '00000'
    (tmp_path / '00007_transitions').mkdir()
    assert next_folder(tmp_path).name == '00008'


_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import Reward
bag = BagWriter(Path(sys.argv[1]))
picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
step = 0
while True:
    bag.write_image('/image', picture, time.time_ns())
    bag.write('/reward', Reward(time.time_ns(), 0, step))
    print(step, time.time_ns(), flush=True)
    step += 1
    time.sleep(0.02)
"""


@pytest.mark.parametrize('alive', [0.7, 1.3])
def test_kill_loses_at_most_a_second(tmp_path, alive):
    folder = tmp_path / 'bag'
    command = [sys.executable, '-c', _WRITER, str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline()
        end = time.monotonic() + alive
        written = []
        while time.monotonic() < end:
            written.append([int(word) for word in process.stdout.readline().split()])
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    reader = BagReader(folder, ['reward'])
    times = {messages.deserialise(m.data, m.type_name).step: m.log_time for m in reader}
    assert list(times) == list(range(len(times)))
    last_step, last_time = written[-1]
    kept = times[max(times)] if times else 0
    assert last_time - kept <= 1e9 and FLUSH_PERIOD < 1
    assert 'messages kept' in repair(folder)
    with Reader(folder) as other:
        assert sum(1 for c, _, _ in other.messages() if c.topic == '/reward') == len(times)


def _fill_disk(folder, conn):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    bag = BagWriter(folder, compression='')
    picture = np.zeros((48, 64, 3), np.uint8)
    count = 0
    try:
        while True:
            bag.write_image('/image', picture, count)
            bag.flush()
            count += 1
    except UserError as error:
        first = str(error)
    try:
        bag.write_image('/image', picture, 0)
    except UserError as error:
        second = str(error)
    try:
        bag.close()
        third = ''
    except UserError as error:
        third = str(error)
    conn.send((count, first, second, third))


def test_full_disk_loses_nothing_that_was_written(tmp_path):
    import multiprocessing

    context = multiprocessing.get_context('fork')
    here, there = context.Pipe()
    process = context.Process(target=_fill_disk, args=(tmp_path / 'bag', there))
    process.start()
    assert here.poll(20)
    count, *errors = here.recv()
    process.join(5)
    assert count > 100 and 'the disk is full; what was recorded is kept' in errors[0]
    assert errors == [errors[0]] * 3
    assert len(list(BagReader(tmp_path / 'bag'))) == count
    repair(tmp_path / 'bag')
    with Reader(tmp_path / 'bag') as other:
        assert len(list(other.messages())) == count


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot write bag .*file/bag'):
        BagWriter(tmp_path / 'file' / 'bag')
    os.mkdir(tmp_path / 'there')
    with pytest.raises(UserError, match='File exists'):
        BagWriter(tmp_path / 'there')
