"""Judges of the device drivers: what was true, and what was said."""

import time

import numpy as np

from dex_rl_nodes.drivers import ruiyan
from dex_rl_nodes.stages.bench.device_truth import Judge, Truth, WatchedHand, Waves


def test_a_value_that_was_not_true_lately_is_wrong_and_one_of_another_motor_misassigned():
    truth = Truth()
    for channel in range(6):
        truth.tell(channel, 0.1 * channel)
    now, judge = time.time_ns(), Judge(truth)
    judge.look(0.1 * np.arange(6), now)
    assert (judge.values, judge.wrong) == (6, 0)
    judge.look(np.array([0.0, 0.1, 0.3, 0.3, 0.4, 0.95]), now)
    assert (judge.wrong, judge.misassigned) == (2, 1)
    assert judge.summary()['examples'][0][0] == 2


def test_what_was_true_long_ago_is_wrong_once_something_else_is():
    truth = Truth()
    truth.tell(0, 0.2)
    then = time.time_ns()
    truth.channels[0].append((then + 500_000_000, 0.6))
    assert truth.error(0, 0.2, then, 0.15) == 0
    assert abs(truth.error(0, 0.2, then + 600_000_000, 0.15) - 0.4) < 1e-9


def test_a_watched_hand_notes_moves_before_reads_and_targets_astray(tmp_path):
    waves = Waves(apart=True)
    hand = WatchedHand(tmp_path / 'hand', waves.allows, motors=waves.motors())
    with hand:
        for motor in ruiyan.MOTORS:
            hand.receive(ruiyan.encode_read(motor))
        hand.receive(ruiyan.encode_move(1, ruiyan.FULL_TRAVEL // 12, 2000, 500))
        assert hand.asked_first and hand.astray == 0
        hand.receive(ruiyan.encode_move(1, 4095, 2000, 500))
        assert hand.astray == 1
        assert abs(hand.first_targets[0] - 1 / 12) < 1e-3
    hand.plug_in()
    hand.receive(ruiyan.encode_move(1, 300, 2000, 500))
    assert not hand.asked_first
    hand.unplug()


def test_waves_keep_the_motors_apart():
    targets = np.array([Waves(apart=True).targets(second) for second in np.arange(0, 60, 0.1)])
    assert all(targets[:, motor].max() < targets[:, motor + 1].min() - 0.02 for motor in range(5))
