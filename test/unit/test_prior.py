"""Training of the prior: what it must reach on synthetic motion, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from curved_hand import curved_hand
from scipy.cluster.vq import kmeans2

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.manifold import off_manifold_ratio
from dex_rl_nodes.learning import prior as priors
from dex_rl_nodes.learning.interfaces import PriorSettings
from dex_rl_nodes.learning.prior import train_prior, train_prior_from_npz
from dex_rl_nodes.learning.prior_runner import PriorRunner
from dex_rl_nodes.learning.schedule import split_episodes, warmup_cosine
from dex_rl_nodes.records import CoreAction, EpisodeState, ExecutedAction

SHORT = PriorSettings(steps=1200, batch_size=128, warmup_steps=100, kl_warmup_steps=100, vq_steps=600)
LONG = SHORT.model_copy(update={'steps': 2500})


@pytest.fixture(scope='module')
def trained():
    settings = {'raw': SHORT, 'pca': SHORT, 'vq': SHORT, 'latent_prior': LONG}
    return {name: train_prior(curved_hand(), name, chosen, seed=0) for name, chosen in settings.items()}


def test_prior_predicts_and_stays_on_the_manifold(trained):
    metrics = {name: result[1] for name, result in trained.items()}
    prior = metrics['latent_prior']
    assert len(prior['test_rmse']) == 6 and np.mean(prior['test_rmse']) < 0.01
    assert prior['active_units'] >= 1 and max(prior['kl_per_unit']) > 1
    assert metrics['raw']['off_manifold_ratio'] > 0.7
    assert metrics['raw']['off_manifold_ratio'] > metrics['pca']['off_manifold_ratio'] > 0.2
    assert 0.05 < prior['off_manifold_ratio'] < 0.2 * metrics['pca']['off_manifold_ratio']
    assert metrics['vq']['off_manifold_ratio'] is None
    assert metrics['raw']['active_units'] is None and prior['code_perplexity'] is None


def test_a_ratio_of_a_labs_own_joints_is_not_cut_off_at_their_range(tmp_path):
    sequences = curved_hand()
    targets = [sequence * 2.0 - 1.0 for sequence in sequences]  # other units, the same motion
    path = tmp_path / 'targets.npz'
    np.savez(path, targets=np.concatenate(targets), lengths=[len(sequence) for sequence in targets])
    own, travel = train_prior_from_npz(path, 'pca', SHORT)[0], train_prior(sequences, 'pca', SHORT)[0]
    beyond = (own.low - own.span)[None]
    assert priors._within_travel(own, beyond).numpy() == pytest.approx(-1), 'nothing stops them there'
    assert priors._within_travel(travel, beyond * 0 - 1).numpy() == pytest.approx(0), 'a motor stops at its end'


def test_quantiser_uses_its_codes(trained):
    vq, metrics = trained['vq']
    poses = torch.from_numpy(np.concatenate(curved_hand(27)))
    used = torch.cdist(poses, vq.table).argmin(1)
    assert vq.perplexity(poses) > 5  # of 16; in most of these poses the hand rests at one of two ends
    assert vq.perplexity(poses[:1].repeat(9, 1)) == pytest.approx(1)
    assert vq.perplexity(vq.table) == pytest.approx(16)
    assert metrics['code_perplexity'] > 4
    error = float((poses - vq.table[used]).square().sum(1).mean())
    assert metrics['test_rmse_mean'] < 0.12
    assert _means_error(poses, 16) < error < _means_error(poses, 4) / 4


def _means_error(poses: torch.Tensor, count: int) -> float:
    """Squared error of k-means, the best of five."""
    starts = (kmeans2(poses.double().numpy(), count, minit='++', rng=seed, iter=50) for seed in range(5))
    return min(float(np.square(poses.numpy() - means[nearest]).sum(1).mean()) for means, nearest in starts)


def test_training_is_repeatable():
    quick = SHORT.model_copy(update={'steps': 30})
    identities = {train_prior(curved_hand(4), 'latent_prior', quick, seed=2)[0].identity for _ in range(2)}
    assert len(identities) == 1


def test_off_manifold_ratio_of_known_geometry():
    line = torch.linspace(-1, 1, 4001)[:, None] * torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    middle, context = torch.zeros(50, 1), torch.zeros(50, 0)

    def along(z, c):
        return z * torch.tensor([[1.0, 0, 0, 0, 0, 0]])

    def across(z, c):
        return z * torch.tensor([[0, 1.0, 0, 0, 0, 0]])

    assert off_manifold_ratio(along, middle, context, line) == pytest.approx(0, abs=5e-3)
    assert off_manifold_ratio(across, middle, context, line) == pytest.approx(1, abs=1e-3)
    anywhere = off_manifold_ratio(lambda z, c: z, torch.zeros(50, 6), context, line)
    assert anywhere == pytest.approx(0.907, abs=0.02)
    assert math.isnan(off_manifold_ratio(lambda z, c: 0 * z, torch.zeros(50, 6), context, line))


def test_split_is_nine_to_one_and_the_same_every_time():
    train, test = split_episodes(20, seed=4)
    assert (len(train), len(test)) == (18, 2) and sorted(train + test) == list(range(20))
    assert split_episodes(20, seed=4) == (train, test) != split_episodes(20, seed=5)
    assert len(split_episodes(2, seed=0)[1]) == 1
    with pytest.raises(UserError, match='cannot be split 9:1'):
        split_episodes(1, seed=0)


def test_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, 500, 20_000) for step in (0, 249, 499, 10_250, 19_999)]
    assert factors == pytest.approx([0.002, 0.5, 1.0, 0.5, 0.0], abs=1e-6)


def test_foreign_hand_is_scaled_by_its_training_split(tmp_path):
    hand = [200 + 90 * sequence[:, :4] for sequence in curved_hand(10)]  # four joints, degrees or whatever it is
    path = tmp_path / 'targets.npz'
    np.savez(path, targets=np.concatenate(hand), lengths=[len(sequence) for sequence in hand])
    quick = SHORT.model_copy(update={'steps': 400})
    interface, metrics = train_prior_from_npz(path, 'latent_prior', quick)
    assert interface.hand_dim == 4 and len(metrics['test_rmse']) == 4
    low, span = np.array(metrics['unit']['low']), np.array(metrics['unit']['span'])
    fit_on = np.concatenate([hand[i] for i in metrics['train_episodes']])
    assert np.allclose(low, fit_on.min(0), atol=0.5) and np.allclose(low + span, fit_on.max(0), atol=0.5)
    assert max(metrics['test_rmse']) < 0.1
    decoded = interface.decode_hand(
        torch.zeros(1, 2), interface.context(torch.from_numpy(hand[0][:1].repeat(8, 0).reshape(1, -1)))
    )
    assert np.abs(decoded.detach().numpy() - hand[0][0]).max() < 15


@pytest.mark.parametrize(
    'arrays, message',
    [
        ({'targets': np.zeros((10, 6))}, 'no array "lengths"'),
        ({'targets': np.zeros((10, 6)), 'lengths': [4, 4]}, 'add up to 8 but there are 10'),
        ({'targets': np.zeros(10), 'lengths': [10]}, r'shape \(N, D\)'),
        ({'targets': np.zeros((10, 6)), 'lengths': [10.0]}, 'whole numbers'),
        ({'targets': np.arange(60.0).reshape(10, 6), 'lengths': [10]}, 'cannot be split 9:1'),
        ({'targets': np.full((10, 6), np.nan), 'lengths': [5, 5]}, 'not finite'),
        ({'targets': np.arange(60.0).reshape(10, 6), 'lengths': [9, 1]}, 'at least 2 are needed'),
        ({'targets': np.array([{'a': 1}]), 'lengths': [1]}, 'not a .npz file of plain numbers'),
        ({'targets': np.ones((40, 3)), 'lengths': [20, 20]}, 'all targets are the same; record a hand that moves'),
        ({'targets': np.full((40, 3), 1e300), 'lengths': [20, 20]}, 'finite'),
    ],
)
def test_bad_targets_are_refused_in_one_sentence(tmp_path, arrays, message):
    path = tmp_path / 'targets.npz'
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        train_prior_from_npz(path)


def test_files_that_are_no_targets_are_refused(tmp_path):
    path = tmp_path / 'targets.npz'
    with pytest.raises(UserError, match='cannot read'):
        train_prior_from_npz(path)
    path.write_bytes(b'PK\x03\x04 half a file')
    with pytest.raises(UserError, match='not a .npz file'):
        train_prior_from_npz(path)


def test_runner_shifts_the_history_with_executed_targets(trained):
    interface = trained['latent_prior'][0]
    runner = PriorRunner(interface)
    start = np.linspace(0, 0.5, 6).astype(np.float32)
    prior = runner.reset(EpisodeState(stamp=5, episode=3, hand_target=start))
    assert (prior.stamp, prior.episode, prior.step) == (5, 3, 0)
    assert np.array_equal(prior.hand_history, np.tile(start, 8))
    target = np.full(6, 0.7, np.float32)
    following = runner.executed(ExecutedAction(stamp=9, episode=3, step=0, hand_target=target))
    assert (following.stamp, following.step) == (9, 1)
    assert np.array_equal(following.hand_history, np.concatenate([np.tile(start, 7), target]))
    expected = interface.context(torch.from_numpy(following.hand_history)[None])[0].numpy()
    assert np.array_equal(following.context, expected)
    assert np.array_equal(prior.hand_history, np.tile(start, 8))  # what was handed out stays


def test_runner_decodes_within_limits(trained):
    interface = trained['raw'][0]
    core = np.array([2, -2, 0.5, 0, 0, 0, 3, -3, 0, 0.5, -0.5, 1], np.float32)
    command = PriorRunner(interface).decode(CoreAction(stamp=1, episode=2, step=3, core=core))
    assert (command.stamp, command.episode, command.step, command.hold_hand) == (1, 2, 3, False)
    assert command.arm.tolist() == [1, -1, 0.5, 0, 0, 0]
    assert command.hand.tolist() == [1, 0, 0.5, 0.75, 0.25, 1]
    assert command.arm.dtype == command.hand.dtype == np.float32
