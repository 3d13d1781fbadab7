"""Figures of merit, against numbers worked out elsewhere."""

import numpy as np
import pytest

from dex_rl_nodes.evaluation.metrics import jitter, jitter_terms, wilson_interval
from dex_rl_nodes.evaluation.report import EpisodeRow, summarise
from dex_rl_nodes.records import Outcome


@pytest.mark.parametrize(
    ('successes', 'trials', 'low', 'high'),
    [(0, 20, 0.0, 0.1611), (9, 20, 0.2582, 0.6579), (20, 20, 0.8389, 1.0), (1, 1, 0.2065, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(successes, trials, low, high):
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_jitter_of_known_motions():
    """T17: a straight line has none, a parabola its second derivative, white noise sqrt(6) per coordinate."""
    ticks = np.arange(200.0)[:, None]
    slope = np.array([0.1, -0.2, 0.3, 0.0, 1.0, 2.0])
    assert jitter(ticks * slope) < 1e-12
    assert jitter(0.5 * ticks**2 * slope) == pytest.approx(np.linalg.norm(slope))
    noise = np.random.default_rng(1).normal(size=(20_000, 6))
    assert jitter(noise) == pytest.approx(5.76, abs=0.05)
    assert len(jitter_terms(noise[:2])) == 0 and jitter(noise[:2]) == 0


def test_summary_counts_what_the_classifier_decided():
    targets = np.zeros((10, 6))

    def row(number, outcome, **more):
        return EpisodeRow.of(number, 900_000 + number, outcome, 10, targets, **more)

    found = summarise([
        row(0, Outcome.SUCCESS, failure='arm', sim_success=True),
        row(1, Outcome.SUCCESS, failure='arm', sim_success=False),
        row(2, Outcome.TIMEOUT, failure='hand', sim_success=False),
        row(3, Outcome.TIMEOUT, failure='stall', sim_success=False),
        row(4, Outcome.DISCARDED, failure='arm', sim_success=False),
        row(5, Outcome.STOPPED, sim_success=False),
        row(6, Outcome.SUCCESS, sim_success=True, interventions=3),
        row(7, Outcome.TIMEOUT, failure='arm', sim_success=False, interventions=1),
    ])  # fmt: skip
    assert (found['n'], found['successes'], found['sim_successes'], found['taken_over']) == (6, 2, 2, 2)
    assert found['failures'] == {'arm': 0, 'hand': 1, 'stall': 1, 'takeover': 2}
    assert found['classifier_agrees'] == pytest.approx(5 / 6)
    assert found['episodes'][0]['failure'] is None and found['episodes'][2]['seed'] == 900_002
