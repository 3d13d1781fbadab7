"""What `./dexrl bench recorder` finds out: how much is lost under load, and when the recorder is killed."""

import os

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
def test_what_was_written_is_compared_with_what_was_sent(tmp_path, variables):
    found = recorder_loss(2.0, tmp_path)
    assert found.values['transitions'] > 10 and found.values['frames'] > 60
    assert found.values['lost'] < 0.1 * found.n  # none at all is for the bench to say


@pytest.mark.realtime
def test_a_message_that_was_not_written_is_lost(tmp_path, variables, monkeypatch):
    written = bench_recorder._written

    def without_rewards(run):
        counts, last = written(run)
        return type(counts)({key: number for key, number in counts.items() if key[0] != 'reward'}), last

    monkeypatch.setattr(bench_recorder, '_written', without_rewards)
    found = recorder_loss(2.0, tmp_path)
    assert found.values['lost'] >= found.values['transitions'] > 10
