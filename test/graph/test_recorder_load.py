"""What `./dexrl bench recorder` finds out: how much is lost under load, and when the recorder is killed."""

import os
from collections import Counter

import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.nodes import bench_recorder
from dex_rl_nodes.nodes.bench_recorder import recorder_loss


@pytest.fixture
def variables():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.realtime
def test_what_was_written_is_compared_with_what_was_sent(tmp_path, variables, monkeypatch):
    written = bench_recorder._written

    def without_rewards(run):
        counts, last = written(run)
        return Counter({key: number for key, number in counts.items() if key[0] != 'reward'}), last

    monkeypatch.setattr(bench_recorder, '_written', without_rewards)
    found = recorder_loss(2.0, tmp_path)
    rewards = found.values['transitions']  # one of either in a tick
    assert rewards > 10 and found.values['frames'] > 60
    # that nothing else is lost is for the bench to say
    assert rewards <= found.values['lost'] < rewards + 0.1 * found.n
