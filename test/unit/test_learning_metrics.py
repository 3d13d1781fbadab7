"""metrics.jsonl: a line at least every 10 s and at each episode's end, also across restarts."""

import json
import resource
import time

import pytest

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.metrics import MetricsWriter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_line_when_one_is_due(tmp_path):
    clock = Clock()
    writer = MetricsWriter(tmp_path, clock)
    assert writer.write({'env_steps': 0, 'updates': 0})
    clock.now += 4
    assert not writer.write({'env_steps': 40, 'updates': 30})
    writer.add({'critic_loss': 1.0})
    writer.add({'critic_loss': 3.0, 'actor_loss': float('nan')})
    assert writer.write({'env_steps': 40, 'updates': 20}, episode_ended=True)
    clock.now += 10
    assert writer.write({'env_steps': 140, 'updates': 70})
    writer.close()
    first, second, third = lines(tmp_path)
    assert second['critic_loss'] == 2.0 and 'actor_loss' not in second
    assert (second['steps_per_second'], second['updates_per_second']) == (10, 5)
    assert (third['steps_per_second'], third['updates_per_second']) == (10, 5)
    assert first['time'] <= second['time'] and 'critic_loss' not in third


def test_a_new_session_appends_after_a_cut_off_line(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"time": 1, "env_steps": 5}\n{"time": 2, "env')
    writer = MetricsWriter(tmp_path)
    writer.write({'env_steps': 6, 'updates': 1})
    writer.close()
    written = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert len(written) == 3 and json.loads(written[2])['env_steps'] == 6


def test_tensorboard_holds_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path)
    writer.add({'critic_loss': 0.25})
    writer.write({'env_steps': 7, 'updates': 3})
    writer.close()
    board = EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    for name, value in lines(tmp_path)[0].items():
        if name != 'time':
            (point,) = board.Scalars(name)
            assert (point.step, point.value) == (7, value)


def test_a_full_disk_is_said_once_and_nothing_fails_at_the_end(tmp_path):
    (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
    writer = MetricsWriter(tmp_path)
    with pytest.raises(UserError, match='cannot write .*metrics.jsonl: No space left on device; free some space'):
        for step in range(1000):
            writer.write({'env_steps': step, 'updates': step}, episode_ended=True)
    writer.close()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_disk_too_full_for_the_curves_is_said_too(tmp_path):
    (tmp_path / 'metrics.jsonl').symlink_to('/dev/null')
    writer = MetricsWriter(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    end = time.monotonic() + 30
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match='cannot write .*: File too large; free some space'):
            while time.monotonic() < end:  # a thread writes the curves
                writer.write({'env_steps': 1, 'updates': 1}, episode_ended=True)
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
