"""replay_recorder: what is sent is in the bag, transitions are numbered, fetched again, and survive a restart."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.msg import EpisodeState as EpisodeStateMessage
from dex_rl_nodes.msg import LearnerState
from harness import START_HAND, bench, ros  # noqa: F401
from rclpy.duration import Duration
from rclpy.serialization import serialize_message
from transition_parts import episode_parts

from dex_rl_nodes.descriptions import CURRENT_POSE, FRONT_IMAGE, HAND_COMMAND, HAND_JOINTS, IMAGES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.replay_recorder import ReplayRecorder
from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.recording.reader import BagReader, is_finished, mcap_files
from dex_rl_nodes.recording.spool import read_transitions
from dex_rl_nodes.recording.transitions import LAST_STEP, TransitionAssembler
from dex_rl_nodes.records import (
    ActionCommand,
    EpisodeState,
    ExecutedAction,
    Origin,
    Outcome,
    Phase,
    PolicyStep,
    SimState,
    StepResult,
)
from dex_rl_nodes.run_directory import RunDirectory, RunSettings

POSE = [0.45, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]
TOPIC_OF = {
    'PolicyStep': 'policy_step', 'CoreAction': 'core_action', 'ExecutedAction': 'executed_action',
    'StepResult': 'step_result', 'EpisodeState': 'episode',
}  # fmt: skip


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    return RunDirectory('default').create(RunSettings('pull_tissue', 'sim', 'latent_prior', 'lamp', 0))


def send_episode(table, episode, ticks=5):
    for part in episode_parts(episode, ticks):
        table.send(TOPIC_OF[type(part).__name__], part)


def numbers(transitions):
    return [(t.sequence, t.episode, t.step) for t in transitions]


def test_online_session(bench, run):
    table = bench(ReplayRecorder, purpose='online')
    heard = table.listen('transitions')
    send_episode(table, 0)
    table.until(lambda: len(heard) == 5, 'five transitions')
    assert numbers(heard) == [(n + 1, 0, n) for n in range(5)]
    assert numbers(read_transitions(run)) == numbers(heard)  # on disk before anybody heard of them
    image = np.random.default_rng(0).integers(0, 255, (128, 172, 3), np.uint8)
    for n in range(3):
        table.send(FRONT_IMAGE, conversions.image_message(image, n, 'camera'))
    answer = table.call('fetch_transitions', first=2, count=2)
    assert answer.newest == 5
    assert [(t.sequence, t.step) for t in answer.transitions] == [(2, 1), (3, 2)]
    assert np.array_equal(answer.transitions[0].features, heard[1].features)
    table.until(lambda: table.node._counts[FRONT_IMAGE]['written'] == 3, 'three images')
    table.node.close()
    bag = episode_bags(run, 'online')[0]
    reader = BagReader(bag)
    found = [message.topic for message in reader]
    assert found.count('/policy_step') == 6 and found.count(f'/{FRONT_IMAGE}') == 3 and not reader.warning
    images = [message.data for message in BagReader(bag, [FRONT_IMAGE])]
    assert all(image.tobytes() in data for data in images)


def test_a_new_session_continues_the_numbers(bench, run):
    first = bench(ReplayRecorder, purpose='online')
    send_episode(first, 0, ticks=3)
    first.until(lambda: first.node._spool.newest == 3, 'three transitions')
    first.close()
    second = bench(ReplayRecorder, purpose='online')
    heard = second.listen('transitions')
    send_episode(second, 1, ticks=2)
    second.until(lambda: len(heard) == 2, 'two more')
    assert numbers(heard) == [(4, 1, 0), (5, 1, 1)]
    answer = second.call('fetch_transitions', first=1, count=100)
    assert numbers(answer.transitions) == [(1, 0, 0), (2, 0, 1), (3, 0, 2), (4, 1, 0), (5, 1, 1)]
    assert second.call('fetch_transitions', first=6, count=100).transitions == []
    second.node.close()
    assert [folder.name for folder in episode_bags(run, 'online')] == ['00000', '00001']


def test_restart_in_the_middle_of_an_episode(bench, run):
    """The ticks before come again, for they are kept for late joiners; they are not transitions twice."""
    parts = list(episode_parts(0, 6))
    first = bench(ReplayRecorder, purpose='online')
    for part in parts[:14]:
        first.send(TOPIC_OF[type(part).__name__], part)
    first.until(lambda: first.node._spool.newest == 3, 'three transitions')
    first.close()
    second = bench(ReplayRecorder, purpose='online')
    heard = second.listen('transitions')
    for part in parts:
        second.send(TOPIC_OF[type(part).__name__], part)
    second.until(lambda: len(heard) == 3, 'the other three')
    assert numbers(heard) == [(4, 0, 3), (5, 0, 4), (6, 0, 5)]


def test_a_discarded_episode_is_taken_back_also_after_a_kill(bench, run):
    table = bench(ReplayRecorder, purpose='online')
    heard = table.listen('transitions')
    *parts, end = episode_parts(0, 3, Outcome.DISCARDED)
    for part in parts:
        table.send(TOPIC_OF[type(part).__name__], part)
    table.until(lambda: len(heard) == 3, 'three transitions')
    table.node._assembler = TransitionAssembler(4, (1, 0))  # it dies before the retraction: this one makes none
    table.send('episode', end)
    table.until(lambda: table.node._phase == Phase.ENDED, 'the end')
    table.close()
    second = bench(ReplayRecorder, purpose='online')
    heard = second.listen('transitions')
    answer = second.call('fetch_transitions', first=1, count=9)
    assert [t.source for t in answer.transitions] == [
        Origin.POLICY,
        Origin.INTERVENTION_ARM,
        Origin.INTERVENTION_HAND,
        Origin.RETRACTION,
    ]
    for part in episode_parts(1, 2, Outcome.DISCARDED):
        second.send(TOPIC_OF[type(part).__name__], part)
    second.until(lambda: len(heard) == 3, 'two more, and that they do not count')
    assert numbers(heard) == [(5, 1, 0), (6, 1, 1), (7, 1, LAST_STEP)]
    assert heard[-1].source == Origin.RETRACTION


def test_an_episode_that_is_discarded_after_its_end_is_taken_back(bench, run):
    table = bench(ReplayRecorder, purpose='online')
    heard = table.listen('transitions')
    *parts, end = episode_parts(0, 3, Outcome.SUCCESS)
    for part in (*parts, end):
        table.send(TOPIC_OF[type(part).__name__], part)
    table.until(lambda: len(heard) == 3, 'three transitions')
    table.send('episode', EpisodeState(end.stamp + 1, 1, Phase.RESETTING, purpose='online'))
    table.send('episode', replace(end, stamp=end.stamp + 2, outcome=Outcome.DISCARDED))
    table.until(lambda: len(heard) == 4, 'the retraction')
    assert numbers(heard)[-1] == (4, 0, LAST_STEP) and heard[-1].source == Origin.RETRACTION


def test_a_retraction_follows_soon_although_a_message_was_lost(bench, run):
    table = bench(ReplayRecorder, purpose='online')
    heard = table.listen('transitions')
    *parts, end = episode_parts(0, 4, Outcome.DISCARDED)
    for part in parts:
        if not (type(part).__name__ == 'CoreAction' and part.step == 2):
            table.send(TOPIC_OF[type(part).__name__], part)
    table.until(lambda: len(heard) >= 2, 'those before the lost message')
    table.send(TOPIC_OF[type(end).__name__], end)  # had it come before them, nobody would hear of the episode at all

    def retracted():
        table.send('learner_state', LearnerState())  # whatever comes next
        return heard[-1].source == Origin.RETRACTION

    table.until(retracted, 'the retraction')
    assert numbers(heard) == [(1, 0, 0), (2, 0, 1), (3, 0, 3), (4, 0, LAST_STEP)]


def test_ticks_are_acknowledged_when_all_their_messages_have_come(bench, run):
    table = bench(ReplayRecorder, purpose='demos')
    heard = table.listen('recorded')
    joints = conversions.joint_state(['a'], [0.0], 0)
    image, pose = conversions.image_message(np.zeros((2, 2, 3), np.uint8), 0, ''), conversions.pose_stamped(POSE, 0, '')
    parts = {
        **dict.fromkeys(IMAGES.values(), image), **dict.fromkeys((CURRENT_POSE, 'target_pose'), pose),
        **dict.fromkeys((HAND_JOINTS, HAND_COMMAND), joints), 'sim_state': SimState(), 'policy_step': PolicyStep(),
        'action_command': ActionCommand(), 'executed_action': ExecutedAction(), 'step_result': StepResult(),
    }  # fmt: skip

    def send(topic, stamp):
        part = parts[topic]
        if hasattr(part, 'header'):
            part.header.stamp = conversions.time_message(stamp)
        else:
            part.stamp = stamp
        table.send(topic, part)

    for stamp in (100, 200, 300):
        for topic in parts:
            if (topic, stamp) != ('step_result', 300):
                send(topic, stamp)
    table.until(lambda: table.node._counts[FRONT_IMAGE]['received'] == 3, 'three frames')
    table.until(lambda: heard and heard[-1].stamp.nanosec == 200, 'what all topics have reached')
    send('step_result', 300)
    table.until(lambda: heard[-1].stamp.nanosec == 300, 'the rest')


def test_what_has_come_is_written_also_when_the_node_was_too_busy_to_look(bench, run):
    table = bench(ReplayRecorder, purpose='online')
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._bag is not None, 'the bag')
    table.send('step_result', StepResult(1))
    table.until(lambda: table.node._counts['step_result']['written'] == 1, 'the first')
    for stamp in range(2, 42):  # nobody spins
        table.send('step_result', StepResult(stamp))
    assert table._publishers['step_result'].wait_for_all_acked(Duration(seconds=10))
    assert table.node._counts['step_result']['received'] == 1
    table.close()
    assert len(list(BagReader(episode_bags(run, 'online')[0], ['step_result']))) == 41


def test_pause_records_no_images(bench, run):
    table = bench(ReplayRecorder, purpose='demos', lockstep=False)
    image = conversions.image_message(np.zeros((128, 172, 3), np.uint8), 0, 'camera')

    def counts():
        return table.node._counts[FRONT_IMAGE]

    table.send(FRONT_IMAGE, image)
    table.until(lambda: counts()['skipped'] == 1, 'a frame before the first episode')
    table.send('episode', EpisodeState(phase=Phase.RESETTING, hand_target=START_HAND))
    table.until(lambda: table.node._phase == Phase.RESETTING, 'the reset')
    table.send(FRONT_IMAGE, image)
    table.until(lambda: counts()['written'] == 1, 'a frame in the reset')
    table.send('episode', EpisodeState(phase=Phase.PAUSED))
    table.until(lambda: table.node._phase == Phase.PAUSED, 'the pause')
    table.send(FRONT_IMAGE, image)
    table.until(lambda: counts()['skipped'] == 2, 'a frame in the pause')
    assert counts()['written'] == 1


def test_lockstep_records_every_frame_also_one_that_overtakes_its_episode(bench, run):
    table = bench(ReplayRecorder, purpose='demos')
    counts = table.node._counts[FRONT_IMAGE]
    image = conversions.image_message(np.zeros((128, 172, 3), np.uint8), 0, 'camera')
    for number, phase in enumerate((Phase.RUNNING, Phase.DONE), 1):
        table.send(FRONT_IMAGE, image)
        table.until(lambda number=number: counts['written'] == number, f'frame {number}')
        table.send('episode', EpisodeState(phase=phase, hand_target=START_HAND))
        table.until(lambda phase=phase: table.node._phase == phase, f'phase {phase!r}')
    table.send(FRONT_IMAGE, image)
    table.until(lambda: counts['written'] == 3, 'a frame after the end')
    assert counts['skipped'] == 0


def test_full_queue_drops_images_and_says_so(bench, run, monkeypatch):
    table = bench(ReplayRecorder, purpose='demos', queue=8, lockstep=False)
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._bag is not None, 'the bag')
    with table.node._bag._lock:  # the disk is stuck
        for n in range(12):
            table.send(FRONT_IMAGE, conversions.image_message(np.zeros((480, 640, 3), np.uint8), n, 'camera'))
        counts = table.node._counts[FRONT_IMAGE]
        table.until(lambda: counts['received'] == 12, 'twelve frames')
        assert counts['dropped'] >= 2
    table.until(lambda: counts['written'] + counts['dropped'] == 12, 'the rest written')
    table.node.diagnose()
    level, message, _ = table.node._statuses['bag']
    assert level != b'\x00' and FRONT_IMAGE in message


def test_in_lockstep_a_slow_disk_is_waited_for(bench, run):
    table = bench(ReplayRecorder, purpose='demos', queue=8)
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._bag is not None, 'the bag')
    bag, waited = table.node._bag, []
    write = bag.write_raw

    def slowly(*message):
        waited.append(table.node._queued)
        threading.Event().wait(0.02)
        write(*message)

    bag.write_raw = slowly
    for n in range(30):
        table.send(FRONT_IMAGE, conversions.image_message(np.zeros((480, 640, 3), np.uint8), n, 'camera'))
    counts = table.node._counts[FRONT_IMAGE]
    table.until(lambda: counts['written'] == 30, 'every frame written')
    assert counts['dropped'] == 0 and 6_000_000 < max(waited) < 8_000_000


def test_full_disk_is_one_sentence(bench, run):
    table = bench(ReplayRecorder, purpose='demos')
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._bag is not None, 'the bag')
    table.node._bag._file._file.close()
    table.node._bag._file._file = open('/dev/full', 'r+b', buffering=0)
    with pytest.raises(UserError, match='the disk is full; what was recorded is kept'):
        table.until(lambda: False, 'never')


def test_a_disk_that_is_full_when_the_recorder_ends_is_told_too(bench, run, monkeypatch):
    table = bench(ReplayRecorder, purpose='demos')
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._bag is not None, 'the bag')

    def full(*_message):
        raise UserError('the disk is full; what was recorded is kept')

    monkeypatch.setattr(table.node._bag, 'write_raw', full)
    table.node._receive('episode', serialize_message(EpisodeStateMessage()))  # and nobody looks after it any more
    with pytest.raises(UserError, match='the disk is full'):
        table.node.close()


def test_another_task_is_refused(bench, run):
    bench(ReplayRecorder, purpose='demos').close()
    with pytest.raises(UserError, match='run "default" was made with seed 0, not 5'):
        bench(ReplayRecorder, purpose='demos', seed=5)


@pytest.mark.parametrize('purpose', ['online', 'evaluation'])
def test_a_slip_in_the_name_of_a_run_makes_none(bench, run, purpose):
    with pytest.raises(UserError, match='there is no run "typo"'):
        bench(ReplayRecorder, purpose=purpose, run='typo')
    assert not RunDirectory('typo').path.exists()


def test_kill_and_restart(bench, run):
    command = [sys.executable, '-m', 'dex_rl_nodes.nodes.replay_recorder', '--ros-args', '-p', 'lockstep:=true']
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        table = bench(ReplayRecorder, purpose='demos')  # gives the peer; its own bags do not matter
        heard = table.listen('transitions')
        table.until(lambda: table.peer.count_publishers('transitions') == 2, 'the recorder', 30)
        send_episode(table, 0, ticks=4)
        table.until(lambda: len(heard) == 4, 'four transitions')
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        assert numbers(read_transitions(run)) == [(n + 1, 0, n) for n in range(4)]
        bag = episode_bags(run, 'online')[0]
        assert not is_finished(mcap_files(bag)[0])
        second = bench(ReplayRecorder, purpose='online')
        assert is_finished(mcap_files(bag)[0]) and second.node._spool.newest == 4
    finally:
        process.kill()
        process.wait(5)


def test_time_is_kept(bench, run):
    table = bench(ReplayRecorder, purpose='demos', lockstep=False)
    before = time.time_ns()
    table.send('episode', EpisodeState(phase=Phase.RUNNING))
    table.until(lambda: table.node._counts['episode']['written'] == 1, 'the state')
    table.node.close()
    message = next(iter(BagReader(episode_bags(run, 'demos')[0], ['episode'])))
    assert before <= message.log_time <= time.time_ns()
