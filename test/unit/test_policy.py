"""Behaviour cloning: loss, training, run time, files."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_encoder import blob_episodes

from dex_rl_nodes.config import INTERFACES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.demonstrations import is_idle
from dex_rl_nodes.learning.encoder import DemoEncoder, ResNetEncoder
from dex_rl_nodes.learning.interfaces import create_interface
from dex_rl_nodes.learning.policy import (
    BCPolicy,
    PolicyRunner,
    PolicySettings,
    load_policy,
    policy_loss,
    save_policy,
    train_policy,
)
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, HISTORY_LENGTH, HandPrior, Observation

QUICK = PolicySettings(steps=150, batch_size=32, warmup_steps=20, hidden=[64, 64], image_copies=1)


@pytest.fixture(scope='module')
def encoder():
    torch.manual_seed(0)
    return DemoEncoder().freeze()


@pytest.fixture(scope='module')
def raw():
    return create_interface('raw').freeze()


@pytest.fixture(scope='module')
def trained(encoder, raw):
    before = [copy.deepcopy(frozen.state_dict()) for frozen in (encoder, raw)]
    result = train_policy(blob_episodes(10), encoder, raw, QUICK, seed=0)
    for frozen, state in zip((encoder, raw), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in frozen.state_dict().items()), 'T28'
    return result


def test_dimensions_follow_the_paper():
    policy = BCPolicy(1024, 4, 8, PolicySettings())
    assert sum(p.numel() for p in policy.parameters()) == 953_608  # input 1088, head [512, 512, 256] to 8


def test_loss_is_arm_plus_decoded_hand_plus_offset():
    prior = create_interface('latent_prior').freeze()
    context = prior.context(torch.rand(5, 48))
    core = torch.randn(5, 8)
    action = prior.decode(core, context)
    exact = policy_loss(core, action, context, prior, PolicySettings(offset_weight=0.0))
    assert float(exact) == pytest.approx(0, abs=1e-9)
    offset = policy_loss(core, action, context, prior, PolicySettings(offset_weight=0.5))
    assert float(offset) == pytest.approx(0.5 * float(core[:, 6:].square().sum(1).mean()), rel=1e-5)
    wrong = action.clone()
    wrong[:, 0] += 1  # one arm coordinate, unit command
    wrong[:, 6] += 2  # one joint by its full travel
    both = policy_loss(core, wrong, context, prior, PolicySettings(offset_weight=0.0, hand_weight=3.0))
    assert float(both) == pytest.approx(1 + 3, rel=1e-5)


@pytest.mark.parametrize('name', INTERFACES)
def test_loss_reaches_every_output_through_the_frozen_interface(name):
    interface = create_interface(name).freeze()
    if name == 'vq':
        interface.table.copy_(torch.linspace(0, 1, 16)[:, None].expand(16, 6))
    core = (0.3 * torch.randn(6, interface.core_dim)).requires_grad_()
    context = interface.context(torch.rand(6, 48))
    policy_loss(core, torch.rand(6, 12), context, interface, PolicySettings()).backward()
    assert (core.grad.abs().amax(0) > 0).all()
    assert all(parameter.grad is None for parameter in interface.parameters())


def test_training_lowers_the_error_and_says_what_it_rests_on(trained, encoder, raw):
    policy, metrics = trained
    curve = metrics['loss_curve']
    assert metrics['train']['arm_rmse'] < 0.25  # commands have an RMS of about 0.35
    assert curve[-1][0] == QUICK.steps
    assert metrics['encoder'] == encoder.identity == type(encoder).identity.fget(_copy_of(encoder))
    assert metrics['interface'] == raw.identity
    assert not policy.training and not any(parameter.requires_grad for parameter in policy.parameters())


def _copy_of(encoder):
    copy = DemoEncoder()
    copy.load_state_dict(encoder.state_dict())
    return copy


def test_training_is_repeatable(encoder, raw):
    quick = QUICK.model_copy(update={'steps': 10})
    policies = [train_policy(blob_episodes(3), encoder, raw, quick, seed=3)[0] for _ in range(2)]
    first, second = (policy.state_dict() for policy in policies)
    assert all(torch.equal(first[name], second[name]) for name in first)


def paused(episode, tick: int, ticks: int):
    """The episode of a person who commands nothing for some ticks, before one of them."""
    idle = np.float32([0] * ARM_DIM + [*(2 * episode.hand_history[tick, -HAND_DIM:] - 1)])
    observations = np.r_[: tick + 1, [tick] * ticks, tick + 1 : len(episode) + 1]
    return replace(
        episode,
        images={view: frames[observations] for view, frames in episode.images.items()},
        **{name: getattr(episode, name)[observations] for name in ('state', 'hand_history', 'success')},
        action=np.insert(episode.action, [tick] * ticks, idle, axis=0),
        source=np.insert(episode.source, [tick] * ticks, 0),
    )


def test_where_a_person_commands_nothing_there_is_nothing_to_clone(encoder, raw):
    quick = QUICK.model_copy(update={'steps': 10})
    episodes = blob_episodes(3)
    pauses = [paused(episode, tick, ticks=4) for episode, tick in zip(episodes, (0, 3, 0), strict=True)]
    assert [len(episode) for episode in pauses] == [16, 16, 16]
    (policy, metrics), (other, others) = (
        train_policy(part, encoder, raw, quick, seed=3) for part in (episodes, pauses)
    )
    assert metrics['train_ticks'] == others['train_ticks']
    assert all(
        torch.equal(*pair) for pair in zip(policy.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_hand_that_moves_is_cloned_though_the_arm_rests():
    history = np.full((3, HISTORY_LENGTH * HAND_DIM), 0.5, np.float32)
    action = np.zeros((3, ARM_DIM + HAND_DIM), np.float32)
    action[0, -1], action[1, -1], action[2, 2] = 0.01, 0.03, -0.05
    assert is_idle(action, history[:, -HAND_DIM:]).tolist() == [True, False, False]
    assert is_idle(torch.from_numpy(action), torch.from_numpy(history[:, -HAND_DIM:])).tolist() == [True, False, False]


def test_demonstrations_that_command_nothing_are_refused(encoder, raw):
    episodes = [replace(episode, action=np.zeros_like(episode.action)) for episode in blob_episodes(3)]
    with pytest.raises(UserError, match=r'nothing is commanded.*collect_demos'):
        train_policy(episodes, encoder, raw, QUICK)


def test_constant_inputs_do_not_blow_up(encoder):
    policy = BCPolicy(4, 0, 8, QUICK)
    policy.fit_normaliser(
        torch.ones(50, 4) + torch.tensor([0.0, 0.0, 0.0, 1.0]) * torch.randn(50, 1), torch.zeros(50, 12)
    )
    assert float(policy.feature_std.min()) > 0.01 and float(policy.state_std.min()) > 0.009
    core = policy(torch.ones(1, 4), torch.full((1, 12), 0.001), torch.zeros(1, 48), torch.zeros(1, 0))
    assert torch.isfinite(core).all()


def _observation(step: int = 4) -> tuple[Observation, HandPrior]:
    episode = blob_episodes(1, seed=3)[0]
    images = {view: frames[step] for view, frames in episode.images.items()}
    prior = HandPrior(stamp=7, episode=1, step=step, hand_history=episode.hand_history[step])
    return Observation(7, 1, step, images, episode.state[step]), prior


def test_runner_is_deterministic_and_says_what_it_used(trained, encoder):
    runner = PolicyRunner(encoder, trained[0])
    observation, prior = _observation()
    first, second = runner.step(observation, prior), runner.step(observation, prior)
    assert np.array_equal(first.base_core, second.base_core) and first.base_core.shape == (12,)
    assert (first.stamp, first.episode, first.step, first.encoder) == (7, 1, 4, encoder.identity)
    assert np.array_equal(first.features, encoder.encode(observation.images))
    assert np.array_equal(first.hand_history, prior.hand_history)
    assert first.base_core.dtype == first.features.dtype == np.float32


def test_policy_survives_saving_and_is_bound_to_encoder_and_interface(trained, encoder, raw, tmp_path):
    policy, metrics = trained
    path = tmp_path / 'policy.safetensors'
    save_policy(path, policy, QUICK, metrics)
    loaded = load_policy(path, encoder, raw)
    observation, prior = _observation()
    before, after = (PolicyRunner(encoder, p).step(observation, prior).base_core for p in (policy, loaded))
    assert np.array_equal(before, after)
    with pytest.raises(UserError, match='trained with encoder demo:'):
        load_policy(path, DemoEncoder().freeze(), raw)
    with pytest.raises(UserError, match='trained with interface raw:'):
        load_policy(path, encoder, create_interface('pca').freeze())
    with pytest.raises(UserError, match='visual features but the encoder resnet10'):
        PolicyRunner(ResNetEncoder('resnet10').freeze(), loaded)


def test_one_demonstration_is_too_few(encoder, raw):
    with pytest.raises(UserError, match='cannot be split 9:1'):
        train_policy(blob_episodes(1), encoder, raw, QUICK)
