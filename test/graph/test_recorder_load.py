"""What `./dexrl bench recorder` finds out: how much is lost under load, and when the recorder is killed."""

import os
from collections import Counter

import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.nodes import bench_recorder
from dex_rl_nodes.nodes.bench_recorder import lost, recorder_loss


@pytest.fixture
def variables():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_what_was_written_is_compared_with_what_was_sent(tmp_path, variables, monkeypatch):
    """How much a busy machine loses is for the bench to say; what is taken away from it must be found missing."""
    counted = {}

    def without_rewards(sent, steps, written, kept):
        rewards = Counter({key: number for key, number in written.items() if key[0] == 'reward'})
        counted.update(missing=lost(sent, steps, written, kept), taken=(sent & rewards).total())
        return lost(sent, steps, written - rewards, kept)

    monkeypatch.setattr(bench_recorder, 'lost', without_rewards)
    found = recorder_loss(2.0, tmp_path)
    assert counted['taken'] > 0 and found.values['frames'] > 0 and found.values['transitions'] > 0
    assert found.values['lost'] == counted['missing'].total() + counted['taken']
    assert found.values['lost of reward'] == counted['missing']['reward'] + counted['taken']
    assert found.met is False


def test_lost_messages_are_counted_by_topic():
    sent = Counter({('reward', 1): 1, ('reward', 2): 1, ('camera', 1): 2})
    written = Counter({('reward', 1): 1, ('camera', 1): 1, ('camera', 9): 1})
    assert lost(sent, {(0, 0), (0, 1)}, written, {(0, 0)}) == {'reward': 1, 'camera': 1, 'transitions': 1}
    assert not lost(sent, {(0, 0)}, sent, {(0, 0)})
