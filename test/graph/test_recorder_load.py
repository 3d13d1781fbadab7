"""What `./dexrl bench recorder` finds out: how much is lost under load, and when the recorder is killed."""

import os

import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.nodes.bench_recorder import recorder_loss


@pytest.fixture
def variables():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_what_was_written_is_compared_with_what_was_sent(tmp_path, variables):
    found = recorder_loss(2.0, tmp_path)
    assert found.n > 2 * (2 * 30 + 3 * 100) * 0.5 and found.values['frames'] > 60
    assert found.values['transitions'] >= 15 and found.values['lost'] == 0
    assert found.values['behind_s'] < 30  # how much a busy machine loses to a kill is for the bench to say
