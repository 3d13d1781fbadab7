"""policy with a stand-in for the networks: the tick."""

from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('torch')

from harness import START_HAND, bench, ros  # noqa: F401
from std_msgs.msg import Header

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_JOINTS, IMAGES
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.policy import Policy
from dex_rl_nodes.nodes.ticks import TickClock
from dex_rl_nodes.records import HAND_JOINTS as JOINTS
from dex_rl_nodes.records import EpisodeState, ExecutedAction, HandPrior, Phase, PolicyStep

MS = 1_000_000
START = [0.45, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]


@dataclass
class Recorder:
    """Stands in for PolicyRunner: says what it was given."""

    seen: list = field(default_factory=list)

    def step(self, observation, prior):
        self.seen.append((observation, prior))
        return PolicyStep(
            observation.stamp, observation.episode, observation.step, state=observation.state,
            hand_history=prior.hand_history, context=prior.context,
        )  # fmt: skip


def _image(value, stamp):
    return conversions.image_message(np.full((128, 172, 3), value, np.uint8), stamp, 'camera')


def _send_images(table, stamp, value=0, views=('wrist', 'front')):
    for view in views:
        table.send(IMAGES[view], _image(value, stamp))


def _send_reading(table, stamp, height=0.3):
    table.send(CURRENT_POSE, conversions.pose_stamped([0.45, 0.0, height, *START[3:]], stamp, 'base'))
    table.send(HAND_JOINTS, conversions.joint_state(JOINTS, START_HAND, stamp))


def _prior(stamp, step, episode=0):
    return HandPrior(stamp, episode, step, np.full(48, step / 10, np.float32), np.ones(4, np.float32))


@pytest.mark.parametrize('order', ['prior first', 'prior last'])
def test_lockstep_tick_waits_for_all_of_its_stamp(bench, order):
    core = Recorder()
    table = bench(Policy, core)
    steps = table.listen('policy_step')
    table.run_episode(stamp=1000)
    for n in range(3):
        stamp = 1000 + n * 100 * MS
        if order == 'prior first':
            table.send('hand_prior', _prior(stamp, n))
        _send_images(table, stamp, value=10 + n)
        _send_reading(table, stamp, height=0.3 + 0.01 * n)
        if order == 'prior last':
            table.until(lambda: table.node._missing() == 'hand_prior', 'a tick that only lacks its prior')
            assert len(steps) == n
            table.send('hand_prior', _prior(stamp, n))
        table.until(lambda: len(steps) == n + 1, f'step {n}')
    for n, (observation, prior) in enumerate(core.seen):
        assert (observation.stamp, observation.step, prior.step) == (1000 + n * 100 * MS, n, n)
        assert {view: (image.shape, image[0, 0, 0]) for view, image in observation.images.items()} == dict.fromkeys(
            IMAGES, ((128, 128, 3), 10 + n)
        )
        assert observation.state[:3] == pytest.approx([0, 0, 0.01 * n], abs=1e-6)
        assert observation.state[6:].tolist() == np.float32(START_HAND).tolist()


def test_lockstep_is_no_faster_than_its_recorder(bench):
    table = bench(Policy, Recorder(), recorded=True)
    steps = table.listen('policy_step')
    table.run_episode(stamp=1000)
    stamps = [1000 + n * 100 * MS for n in range(12)]
    for n, stamp in enumerate(stamps):
        _send_images(table, stamp)
        _send_reading(table, stamp)
        table.send('hand_prior', _prior(stamp, n))
        if n >= 10:  # what the recorder has not got yet would soon be forgotten by those who sent it
            table.until(lambda: table.node._missing() == 'recorded', 'a tick that only lacks the recorder')
            assert len(steps) == n and '"recorded" of replay_recorder' in table.node._deadlines
            table.send('recorded', Header(stamp=conversions.time_message(stamps[n - 10])))
        table.until(lambda: len(steps) == n + 1, f'step {n}')
    assert not table.node._deadlines


def test_images_may_come_before_their_episode_starts(bench):
    table = bench(Policy, Recorder())
    steps = table.listen('policy_step')
    _send_images(table, 1000)
    _send_reading(table, 1000)
    table.send('hand_prior', _prior(1000, 0))
    table.until(lambda: table.node._frames['front'].received and table.node._early, 'early messages')
    table.run_episode(stamp=1000)
    table.until(lambda: steps, 'step 0')


def test_real_time_takes_one_frame_per_period_and_no_old_ones(bench):
    table = bench(Policy, Recorder(), lockstep=False)
    steps = table.listen('policy_step')
    start = table.node.get_clock().now().nanoseconds
    _send_images(table, start - 50 * MS)
    _send_reading(table, start)
    table.run_episode(stamp=start)
    table.send('hand_prior', _prior(start, 0))
    table.until(lambda: table.node.running and table.node._prior, 'the episode')
    for n in range(4):
        for delay in (3, 36, 69):  # a camera three times as fast as the tick
            stamp = start + (n * 100 + delay) * MS
            _send_images(table, stamp)
            table.until(lambda: table.node._frames['front'].stamp == stamp, 'the frame')
        table.until(lambda: len(steps) == n + 1, f'step {n}')
        table.send('hand_prior', _prior(start, n + 1))
        table.until(lambda: table.node._prior.step == n + 1, 'the prior')
    assert [(step.stamp - start) // MS for step in steps] == [3, 103, 203, 303]


def test_without_a_model_the_operator_acts_and_the_history_is_kept(bench):
    table = bench(Policy, source='zero')
    steps, commands = table.listen('policy_step'), table.listen('action_command')
    table.run_episode(stamp=1000, purpose='demos')
    for n in range(3):
        _send_images(table, 1000 + n)
        _send_reading(table, 1000 + n)
        table.until(lambda: len(commands) == n + 1 and len(steps) == n + 1, f'tick {n}')
        table.send('executed_action', ExecutedAction(1000 + n, 0, n, hand_target=np.full(6, (n + 1) / 10, np.float32)))
    assert all(command.hold_hand and not command.arm.any() for command in commands)
    assert [step.step for step in steps] == [0, 1, 2]
    assert not len(steps[0].features) and not steps[0].encoder
    expected = np.concatenate([np.tile(np.float32(START_HAND), 6), np.full(6, 0.1), np.full(6, 0.2)])
    assert np.allclose(steps[2].hand_history, expected)


def test_after_the_end_nothing_ticks(bench):
    table = bench(Policy, source='zero')
    steps = table.listen('policy_step')
    table.run_episode(stamp=1000)
    table.send('episode', EpisodeState(1000, 0, Phase.ENDED, final_step=0))
    table.until(lambda: table.node.episode.phase == Phase.ENDED, 'the end')
    _send_images(table, 2000)
    _send_reading(table, 2000)
    table.until(lambda: table.node._frames['front'].stamp == 2000, 'the frame')
    table.run_episode(1, stamp=3000)
    _send_images(table, 3000)
    _send_reading(table, 3000)
    table.until(lambda: steps, 'the first tick of the next episode')
    assert [(step.episode, step.step, step.stamp) for step in steps] == [(1, 0, 3000)]


def test_a_frame_that_cannot_be_read_is_named_and_makes_no_tick(bench):
    table = bench(Policy, source='zero')
    reports, steps = table.listen('/diagnostics'), table.listen('policy_step')
    table.run_episode(stamp=1000)
    _send_reading(table, 1000)
    _send_images(table, 1000, views=('wrist',))
    message = _image(0, 1000)
    message.encoding = 'yuv422_yuy2'
    table.send(IMAGES['front'], message)
    table.until(
        lambda: any('image encoding "yuv422_yuy2"' in status.message for report in reports for status in report.status),
        'the report',
    )
    assert not steps
    _send_images(table, 1000, views=('front',))
    table.until(lambda: steps, 'the tick')


@pytest.mark.parametrize('frame_ms', [16.7, 33.3, 66.7, 99.6, 100, 100.4])
def test_tick_clock_keeps_the_rate_whatever_the_camera_does(frame_ms):
    random = np.random.default_rng(4)
    clock = TickClock(100 * MS, round(frame_ms * MS))
    clock.start(0)
    frames = np.cumsum(np.full(round(60_000 / frame_ms), frame_ms)) + random.normal(0, 1.5, round(60_000 / frame_ms))
    ticks = [frame for frame in frames if clock.take(round(frame * MS))]
    assert abs(len(ticks) - 600) <= 8
    assert np.diff(ticks).min() > 55 and np.diff(ticks).max() < 145


def test_tick_clock_goes_on_after_a_gap_without_hurry():
    clock = TickClock(100 * MS, 100 * MS)
    clock.start(0)
    taken = [ms for ms in (0, 100, 200, 950, 1050, 1150) if clock.take(ms * MS)]
    assert taken == [0, 100, 200, 950, 1050, 1150]


def test_tick_clock_does_not_make_up_for_a_late_frame():
    clock = TickClock(100 * MS, 100 * MS)
    clock.start(7 * MS)
    assert [ms for ms in (0, 10, 110, 195, 208, 310, 402) if clock.take(ms * MS)] == [10, 110, 195, 310, 402]
