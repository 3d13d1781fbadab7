"""The figures and tables of the report."""

import json

import matplotlib.image
import numpy as np
import pytest

from dex_rl_nodes.evaluation import figures, table
from dex_rl_nodes.evaluation.metrics import jitter
from dex_rl_nodes.stages.bench.table import learning_curve


def cell(task, interface, successes, noise, seed=0, learned=18):
    def stage(count):
        return {
            'n': 20,
            'successes': count,
            'sim_successes': count - 1,
            'classifier_agrees': 0.85,
            'failures': {'arm': 20 - count, 'hand': 0, 'stall': 0},
            'jitter': noise,
        }

    prior = {'test_rmse_mean': 0.01, 'active_units': 2, 'off_manifold_ratio': 0.1 * noise}
    return {
        'task': task, 'interface': interface, 'seed': seed, 'imitation': stage(successes), 'learned': stage(learned),
        'prior': prior, 'env_steps': 40000, 'curve': [[100, 0.0, 0.5], [200, 1.0, 0.0]], 'seconds': 60,
    }  # fmt: skip


CELLS = [
    cell('pull_tissue', 'latent_prior', 9, 0.02),
    cell('pull_tissue', 'latent_prior', 11, 0.02, seed=1),
    cell('pull_tissue', 'raw', 2, 0.1, learned=4),
    cell('open_drawer', 'latent_prior', 10, 0.01),
    cell('open_drawer', 'raw', 3, 0.05, learned=5),
]


def test_table_pools_seeds_and_shows_the_paper():
    rows = [line for line in table.success_table(CELLS).splitlines() if line.startswith('| pull_tissue | latent_prior')]
    assert len(rows) == 1
    assert '| 0, 1 | 50% (20/40, 35% to 65%; sim 18) | 90% (36/40,' in rows[0] and '45 %, 95 %' in rows[0]
    assert '| 20 / 0 / 0 | 4 / 0 / 0 |' in rows[0]


def test_a_robot_has_no_count_of_the_simulation():
    robot = cell('pull_tissue', 'raw', 2, 0.1)
    robot['imitation']['sim_successes'] = None
    row = table.success_table([robot]).splitlines()[-1]
    assert '| 10% (2/20, 3% to 30%) | 90% (18/20, 70% to 97%; sim 17) |' in row


def test_a_classifier_is_shown_with_what_it_got_wrong_in_the_evaluations():
    quality = {'precision': 0.975, 'recall': 1.0, 'held_out_positives': 117, 'held_out_negatives': 3675}
    shown = [{**CELLS[0], 'classifier': quality}, {**CELLS[1], 'classifier': quality}, CELLS[3]]
    rows = table.classifier_table(shown).splitlines()
    # of 20 episodes 3 are judged differently and the classifier counts one more: 2 false, 1 missed, in 4 evaluations
    assert rows[2:] == ['| pull_tissue | 117 | 3675 | 0.975 | 1.000 | 80 | 8 | 4 |']


def test_interfaces_are_compared_over_the_tasks_that_all_of_them_have():
    more = [*CELLS, cell('grasp_place', 'latent_prior', 20, 0.01, learned=20)]
    rows = {line.split(' | ')[0]: line for line in table.interface_table(more).splitlines()}
    assert '| 3, 3 | 50% (30/60,' in rows['| latent_prior'] and '| 2, 2 | 12% (5/40,' in rows['| raw']
    alone = [{**one, 'learned': {}} if one['interface'] == 'raw' else one for one in more]
    for one in alone:
        if not one['learned']:
            del one['learned']
    assert '| 3, 4 | 50% (30/60,' in table.interface_table(alone), 'after learning only the prior was scored'


def test_an_episode_that_was_thrown_away_is_not_in_the_learning_curve(tmp_path):
    """Its end may be written before the learner hears that it was discarded."""
    path = tmp_path / 'metrics.jsonl'
    rows = [(1, 1, 50, 0), (2, 1, 90, 30), (1, 1, 90, 30), (2, 2, 150, 30), (3, 3, 200, 30)]
    names = ('episodes', 'successes', 'env_steps', 'interventions')
    path.write_text(''.join(json.dumps(dict(zip(names, row, strict=True))) + '\n' for row in rows))
    assert learning_curve(path) == [[50, 1.0, 0.0], [150, 1.0, 0.0], [200, 1.0, 0.0]]


def test_learning_curve_tells_success_and_help_of_every_episode(tmp_path):
    counts = [(40, 0, 0, 10), (50, 1, 1, 20), (60, 1, 1, 20), (150, 2, 1, 20)]  # the third is a line between episodes
    keys = ('env_steps', 'episodes', 'successes', 'interventions')
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in counts]
    path = tmp_path / 'metrics.jsonl'
    path.write_text('\n'.join([*lines, '{"env_st']))
    assert learning_curve(path) == [[50, 1.0, 0.4], [150, 0.0, 0.0]]
    assert learning_curve(tmp_path / 'none.jsonl') == []


def test_jitter_is_counted_in_units_of_raw_imitation():
    found = table.normalised_jitter(CELLS)
    assert found['raw'] == {'imitation': pytest.approx(1), 'learned': pytest.approx(1)}
    assert found['latent_prior']['learned'] == pytest.approx(0.2)
    assert table.normalised_jitter([CELLS[0]]) == {}
    assert '0.20' in table.interface_table(CELLS)


def test_barcode_shows_the_terms_of_the_score():
    ticks = np.arange(40.0)[:, None]
    smooth, shaky = 0.01 * ticks.repeat(6, 1), 0.5 + 0.1 * np.sign(np.sin(2.5 * ticks)).repeat(6, 1)
    rows = figures.barcode_rows([smooth.tolist(), shaky.tolist(), [[0.0] * 6]])
    assert rows.shape == (3, 100)
    assert np.allclose(rows[0], 0, atol=1e-9) and np.isnan(rows[2]).all()
    assert rows[1].mean() == pytest.approx(jitter(shaky), rel=0.1)


def test_every_figure_is_an_image(tmp_path):
    random = np.random.default_rng(0)
    rollouts = random.random((4, 30, 6)).tolist()
    walk = random.normal(size=(30, 2)).cumsum(0)
    picture = random.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    flow = figures.LatentFlow(walk, walk + 0.2, walk + 0.3)
    curve = figures.Curve('latent_prior, seed 0', 'latent_prior', [10, 20, 40], [0, 1, 1], [0.5, 0.2, 0])
    drawn = [
        figures.learning_curves([curve], tmp_path / 'curve.png', 'pull_tissue'),
        figures.jitter_barcode({'raw': rollouts, 'latent_prior': rollouts}, tmp_path / 'barcode.png'),
        figures.jitter_bars(table.normalised_jitter(CELLS), tmp_path / 'bars.png'),
        figures.latent_flow(flow, {0: picture, 20: picture}, tmp_path / 'flow.png'),
        figures.image_sequence([picture] * 12, tmp_path / 'strip.png', 6),
        figures.animation([picture] * 3, tmp_path / 'film.gif'),
    ]
    for path in drawn:
        image = matplotlib.image.imread(path)
        assert image.size > 1000 and image.std() > 0
