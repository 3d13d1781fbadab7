"""Action interfaces: what is decoded, projected, saved and refused."""

import numpy as np
import pytest
import torch
from curved_hand import curved_hand

from dex_rl_nodes.config import INTERFACES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.interfaces import (
    PriorSettings,
    create_interface,
    hand_windows,
    load_interface,
    save_interface,
)
from dex_rl_nodes.learning.interfaces.latent_prior import LatentPrior, kl_to_standard_normal, prior_loss
from dex_rl_nodes.learning.prior import train_prior

QUICK = PriorSettings(steps=150, warmup_steps=20, kl_warmup_steps=50, vq_steps=150, hidden=64)


@pytest.fixture(scope='module')
def fitted():
    """Every interface, fitted a little: what is tested here holds for any weights."""
    return {name: train_prior(curved_hand(8), name, QUICK, seed=1)[0] for name in INTERFACES}


@pytest.fixture(scope='module')
def windows():
    return hand_windows(curved_hand(2, seed=5))


def _core(interface, count: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.4 * torch.randn((count, interface.core_dim), generator=generator)


def _context(interface, windows, count: int = 16) -> torch.Tensor:
    return interface.context(windows.history.flatten(1)[:count])


@pytest.mark.parametrize('name', INTERFACES)
def test_projecting_what_was_decoded_decodes_to_the_same(name, fitted, windows):
    interface = fitted[name]
    context = _context(interface, windows)
    action = interface.decode(_core(interface), context)
    again = interface.decode(interface.project(action, context), context)
    assert action.shape == (16, 12)
    assert torch.allclose(again, action, atol=1e-3)


@pytest.mark.parametrize('name', INTERFACES)
def test_decoding_passes_gradients_to_every_core_dimension(name, fitted, windows):
    interface = fitted[name]
    core = (0.3 * _core(interface)).requires_grad_()
    interface.decode(core, _context(interface, windows)).square().sum().backward()
    assert torch.isfinite(core.grad).all()
    assert (core.grad.abs().amax(0) > 0).all()
    assert all(parameter.grad is None for parameter in interface.parameters())


@pytest.mark.parametrize('name', INTERFACES)
def test_residual_scales_are_positive_and_move_the_hand_no_further_than_allowed(name, fitted, windows):
    interface = fitted[name]
    scale = interface.residual_scale()
    assert scale.shape == (interface.core_dim,) and (scale > 0).all()
    assert torch.allclose(scale[:6], torch.tensor(QUICK.arm_residual))
    points, context = interface.base_points(windows)
    direction = torch.nn.functional.normalize(torch.randn(points.shape, generator=torch.Generator().manual_seed(0)))
    moved = interface.decode_hand(points + scale[6:] * direction, context) - interface.decode_hand(points, context)
    assert float(moved.norm(dim=1).mean()) < 1.3 * QUICK.residual_displacement


def test_clipping_is_an_option(fitted):
    interface = fitted['raw']
    core, context = torch.full((1, 12), 3.0), torch.zeros(1, 0)
    assert float(interface.decode(core, context).max()) > 2.9
    assert float(interface.decode(core, context, clip=True).max()) == 1


def test_dimensions_follow_the_paper():
    dims = {name: create_interface(name) for name in INTERFACES}
    assert {name: (i.core_dim, i.context_dim) for name, i in dims.items()} == {
        'latent_prior': (8, 4), 'raw': (12, 0), 'pca': (8, 0), 'vq': (7, 0),
        'latent_prior_no_bottleneck': (12, 12), 'latent_prior_no_history': (8, 0),
    }  # fmt: skip
    prior = dims['latent_prior']
    assert sum(p.numel() for p in prior.encoder.parameters()) == 79_364
    assert sum(p.numel() for p in prior.decoder.parameters()) == 68_102
    assert dims['latent_prior_no_bottleneck'].kl_weight == 0


def test_context_is_mean_then_deviation_and_the_core_is_an_offset(fitted, windows):
    prior = fitted['latent_prior']
    history = windows.history.flatten(1)[:4]
    mean, logvar = prior.posterior(history)
    assert torch.allclose(prior.context(history), torch.cat([mean, (logvar / 2).exp()], 1))
    decoded = prior.decode_hand(torch.zeros(4, 2), prior.context(history))
    assert torch.allclose(decoded, prior.decoder(mean), atol=1e-6)


def test_kl_equals_its_definition():
    mean, std = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, 1.5]])
    closed = float(kl_to_standard_normal(mean, 2 * std.log()).sum())
    assert closed == pytest.approx(1.97397, abs=1e-4)
    sample = mean + std * torch.randn((400_000, 2), generator=torch.Generator().manual_seed(0))
    here, normal = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    assert float((here.log_prob(sample) - normal.log_prob(sample)).sum(1).mean()) == pytest.approx(closed, abs=0.02)
    assert float(kl_to_standard_normal(torch.zeros(1, 2), torch.zeros(1, 2)).sum()) == 0


def test_sampling_passes_gradients_to_mean_and_variance_and_the_error_is_summed():
    mean, logvar = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    latent = mean + (0.5 * logvar).exp() * torch.ones(3, 2)
    loss = prior_loss(latent, torch.zeros(3, 2), mean, logvar, kl_weight=0.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.0)  # two dimensions of error 1, not their mean
    assert (mean.grad != 0).all() and (logvar.grad != 0).all()


def test_linear_model_reaches_the_known_optimum_of_the_loss():
    # Linear, data variance .04, beta .001: posterior variance (beta / 2) / .04, weight^2 = .04 - beta / 2
    generator = torch.Generator().manual_seed(0)
    weight, encode = torch.tensor(0.15, requires_grad=True), torch.tensor(6.0, requires_grad=True)
    logvar = torch.tensor(-3.5, requires_grad=True)
    optimiser = torch.optim.Adam([weight, encode, logvar], lr=0.02)
    averaged = []
    for step in range(1500):
        for group in optimiser.param_groups:
            group['lr'] = 0.02 * (1 - step / 1500)
        data = 0.2 * torch.randn((1024, 1), generator=generator)
        mean = encode * data
        latent = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        loss = prior_loss(weight * latent, data, mean, logvar.expand_as(mean), kl_weight=1e-3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.append([logvar.detach().exp().item(), weight.detach().square().item()])
    variance, squared = np.mean(averaged[-200:], axis=0)
    assert variance == pytest.approx(0.0125, rel=0.1)
    assert squared == pytest.approx(0.0395, rel=0.05)


def test_quantised_codes_are_sorted_distinct_and_addressed_by_their_index(fitted):
    vq = fitted['vq']
    table = vq.table
    assert table.shape == (16, 6)
    assert torch.cdist(table, table).add(torch.eye(16)).min() > 1e-4
    index = torch.arange(16)
    core = (2 * index / 15 - 1)[:, None]
    assert torch.allclose(vq.decode_hand(core, torch.zeros(16, 0)), table)
    assert torch.equal(((vq.project_hand(table, torch.zeros(16, 0))[:, 0] + 1) / 2 * 15).round().long(), index)
    nudged = vq.decode_hand(core + 0.4 / 15, torch.zeros(16, 0))
    assert torch.allclose(nudged, table)  # a relaxed index is rounded


def test_an_index_beyond_the_codes_is_the_last_code_and_finds_back(fitted):
    core = torch.tensor([[-3.0], [3.0]], requires_grad=True)
    hand = fitted['vq'].decode_hand(core, torch.zeros(2, 0))
    assert torch.allclose(fitted['vq'].normalise(hand), fitted['vq'].table[[0, 15]], atol=1e-5)
    hand.sum().backward()
    assert (core.grad.abs() > 0).all()


def test_interfaces_survive_saving(fitted, tmp_path, windows):
    for name, interface in fitted.items():
        path = tmp_path / f'{name}.safetensors'
        save_interface(path, interface, QUICK, {'hand': 'ruiyan', 'task': 'pull_tissue'})
        loaded = load_interface(path, name=name, hand='ruiyan', task='pull_tissue')
        assert loaded.identity == interface.identity
        core, context = _core(interface), _context(interface, windows)
        assert torch.equal(loaded.decode(core, context), interface.decode(core, context))
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    'wanted, message',
    [
        ({'name': 'pca'}, 'fitted for interface raw, not pca'),
        ({'hand': 'inspire'}, 'fitted for hand ruiyan, not inspire'),
        ({'task': 'open_drawer'}, 'fitted for task pull_tissue, not open_drawer'),
        ({'joints': 16}, 'fitted for joints 6, not 16'),
    ],
)
def test_interfaces_of_something_else_are_refused_by_name(fitted, tmp_path, wanted, message):
    path = tmp_path / 'prior.safetensors'
    save_interface(path, fitted['raw'], QUICK, {'hand': 'ruiyan', 'task': 'pull_tissue'})
    with pytest.raises(UserError, match=message):
        load_interface(path, **wanted)


def test_unknown_interface_names_the_valid_ones():
    with pytest.raises(UserError, match='unknown interface "vae"; choose one of: latent_prior, raw'):
        create_interface('vae')


def test_windows_repeat_the_first_target_and_predict_the_next():
    sequence = np.arange(12, dtype=np.float32)[:, None] / 12
    windows = hand_windows([sequence])
    assert windows.history.shape == (11, 8, 1)
    assert torch.equal(windows.history[0, :, 0], torch.zeros(8))
    assert torch.equal(windows.history[-1, :, 0], torch.from_numpy(sequence[3:11, 0]))
    assert torch.equal(windows.target[:, 0], torch.from_numpy(sequence[1:, 0]))


def test_any_number_of_joints_and_latent_dimensions():
    settings = QUICK.model_copy(update={'latent_dim': 3, 'steps': 20})
    prior = LatentPrior(16, settings)
    assert prior.context(torch.rand(5, 8 * 16)).shape == (5, 6)
    assert prior.decode(torch.zeros(5, 9), torch.zeros(5, 6)).shape == (5, 22)
