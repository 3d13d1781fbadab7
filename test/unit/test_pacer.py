"""Commands leave on the beat of the ticks, and never wait longer than the delay."""

import numpy as np
import pytest

from dex_rl_nodes.robot.pacer import CommandPacer

PERIOD, DELAY = 100_000_000, 25_000_000
START = 1_700_000_000_000_000_000


def departures(stamps: np.ndarray, ready: np.ndarray) -> np.ndarray:
    """When commands leave whose ticks have these stamps and that are computed at `ready` (ns)."""
    pacer = CommandPacer(PERIOD, DELAY)
    return np.array([now + round(pacer.wait(stamp, now) * 1e9) for stamp, now in zip(stamps.tolist(), ready.tolist())])


def test_jitter_of_frames_and_of_computing_does_not_reach_the_robot():
    random = np.random.default_rng(0)
    frames = START + PERIOD * np.arange(600) + random.integers(0, 8_000_000, 600)
    ready = frames + random.integers(8_000_000, 16_000_000, 600)
    before, after = np.diff(ready), np.diff(departures(frames, ready))[20:]
    assert np.abs(after - PERIOD).max() < 3_000_000 < np.abs(before - PERIOD).max()


def test_a_late_command_leaves_at_once_and_the_next_ones_on_the_beat():
    frames = START + PERIOD * np.arange(50)
    ready = frames + 15_000_000
    ready[30] += 40_000_000
    left = departures(frames, ready) - frames
    assert left[30] == 55_000_000
    assert (np.delete(left, 30) == DELAY).all()


@pytest.mark.parametrize('speed', [0.998, 1.002])
def test_the_beat_follows_a_camera_that_is_slow_or_fast(speed):
    frames = START + (PERIOD * speed * np.arange(2000)).astype(np.int64)
    left = departures(frames, frames + 10_000_000) - frames
    assert np.abs(left - DELAY).max() < 3_000_000


def test_never_waits_longer_than_the_delay_whatever_the_clocks_say():
    random = np.random.default_rng(1)
    pacer = CommandPacer(PERIOD, DELAY)
    for stamp, now in random.integers(0, 2**62, (2000, 2)).tolist():
        assert 0 <= pacer.wait(stamp, now) <= DELAY * 1e-9


def test_a_new_episode_sets_a_new_beat():
    pacer = CommandPacer(PERIOD, DELAY)
    pacer.due(START)
    pacer.restart()
    assert pacer.due(START + PERIOD // 3) == START + PERIOD // 3 + DELAY
