"""The person who watches the policy for the classifier."""

import numpy as np

from dex_rl_nodes.records import Mark, RobotReading
from dex_rl_nodes.stages.collect import Watcher

READING = RobotReading(stamp=0, tcp_pose=np.zeros(7), hand=np.zeros(6, np.float32))


def marks(successes: str) -> list[int]:
    """What is marked in an episode, tick by tick; `x` is a tick of success."""
    watcher = Watcher()
    watcher.reset(seed=0)
    return [watcher.act({'success': float(tick == 'x')}, READING).mark for tick in successes]


def test_success_is_marked_once_and_only_when_it_has_lasted():
    assert marks('.xx.xxxxxxx') == [Mark.NONE] * 8 + [Mark.SUCCESS] + [Mark.NONE] * 2


def test_what_is_lost_after_the_mark_is_discarded():
    """The frames after the mark are the classifier's examples of success."""
    assert marks('xxxxxx.')[4:] == [Mark.SUCCESS, Mark.NONE, Mark.DISCARD]


def test_the_next_episode_starts_anew():
    watcher = Watcher()
    for _ in range(2):
        watcher.reset(seed=0)
        assert [watcher.act({'success': 1.0}, READING).mark for _ in range(5)][-1] == Mark.SUCCESS
        watcher.reset(seed=1)
        assert watcher.act({'success': 0.0}, READING).mark == Mark.NONE
