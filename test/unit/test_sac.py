"""Parts of the residual SAC against closed forms, plain torch and finite differences (T4 to T7, T19, T25, T28)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_reach import toy_interface

from dex_rl_nodes.learning.interfaces import create_interface
from dex_rl_nodes.learning.networks import Actor, Critic, Hidden, Motion, Standardiser, squash
from dex_rl_nodes.learning.replay import Batch, Dimensions, MixedSampler, ReplayBuffer
from dex_rl_nodes.learning.sac import ResidualSac, ResidualSettings
from dex_rl_nodes.learning.speed import random_transitions
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, HISTORY_LENGTH, STATE_DIM, Origin

SMALL = {'width': 32, 'projection': 8, 'actor_projection': 12, 'batch': 32, 'precision': 'float32'}


def make(interface=None, context=0, seed=0, **settings) -> tuple[ResidualSac, Batch]:
    interface = interface or toy_interface()
    transitions = random_transitions(200, 5, context, interface.core_dim, seed)
    dimensions = Dimensions.of(transitions[0])
    buffer, shown = ReplayBuffer(dimensions, 1000), ReplayBuffer(dimensions, 1000)
    buffer.extend(transitions)
    shown.extend([replace(transition, source=Origin.DEMONSTRATION) for transition in transitions])
    standardiser = Standardiser(dimensions.features, dimensions.proprioception)
    sac = ResidualSac(ResidualSettings(**SMALL | settings), interface, dimensions, standardiser, seed)
    batch = MixedSampler(buffer, shown).sample(32, np.random.default_rng(seed))
    batch.worth[batch.online :] = 1
    return sac, batch


def make_imitator(**settings) -> tuple[ResidualSac, Batch]:
    """An agent that does nothing but imitate: its critic says 0 whatever is done."""
    usual = {'imitation_weight': 5.0, 'residual_penalty': 0.0, 'learning_rate': 3e-3, 'initial_temperature': 1e-6}
    sac, batch = make(**usual | settings)
    with torch.no_grad():
        for member in sac.critic.members:
            member.head.weight.zero_()
    return sac, batch


def test_tanh_normal_is_a_density():
    """T4: integrates to one; log-probability exact where the naive form breaks."""
    grid = torch.linspace(-1 + 1e-5, 1 - 1e-5, 400_001, dtype=torch.float64)
    mean, log_std = torch.tensor(0.3).double(), torch.tensor(0.7).double().log()
    noise = ((grid.atanh() - mean) / log_std.exp())[:, None]
    u, log_probability = squash(mean.expand(len(grid), 1), log_std.expand(len(grid), 1), noise)
    assert torch.allclose(u[:, 0], grid)
    assert torch.trapezoid(log_probability.exp(), grid).item() == pytest.approx(1, abs=1e-3)
    for x in (0.0, 2.0, -2.0, 10.0, -10.0, 20.0, -20.0):
        value = torch.full((1, 1), x)
        _, found = squash(value, torch.zeros(1, 1), torch.zeros(1, 1))
        exact = -0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(x) + 2 * math.log1p(math.exp(-2 * abs(x)))
        assert found.item() == pytest.approx(exact, rel=1e-5)


def test_entropy_of_a_spread():
    """T5: sigma 0.15 has -0.5 nats per dimension."""
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    _, log_probability = squash(torch.zeros_like(noise), torch.full_like(noise, math.log(0.15)), noise)
    assert -log_probability.mean().item() / 2 == pytest.approx(-0.5, abs=0.01)
    actor = Actor(3, 4, 5, 16, initial_std=0.15)
    mean, log_std = actor(torch.randn(64, 3), torch.randn(64, 4))
    assert mean.abs().max() < 0.1 and (log_std.exp() - 0.15).abs().max() < 0.02


@pytest.mark.parametrize('aimed, sign', [(-3.0, -1), (3.0, 1)])
def test_temperature_moves_towards_the_target_entropy(aimed, sign):
    """T6: more entropy than wanted lowers the temperature, less raises it."""
    sac, batch = make(target_entropy=aimed)
    before = sac.temperature
    for _ in range(5):
        sac.update([batch, batch])
    assert sac.temperature < before if sign < 0 else sac.temperature > before


def test_hidden_layer_is_linear_layernorm_tanh():
    """T7: against the formula, with an input in two parts."""
    torch.manual_seed(0)
    layer = Hidden(10, 16).double()
    for parameter in (layer.norm.weight, layer.norm.bias, layer.linear.bias):
        nn.init.normal_(parameter)
    x, extra = torch.randn(5, 7).double(), torch.randn(5, 3).double()
    linear = torch.cat((x, extra), 1) @ layer.linear.weight.T + layer.linear.bias
    normed = (linear - linear.mean(1, keepdim=True)) / (linear.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = (normed * layer.norm.weight + layer.norm.bias).tanh()
    assert torch.allclose(layer(x, extra), expected, atol=1e-12)


@pytest.mark.parametrize('low', [False, True])
def test_an_input_that_is_learned_through_gives_the_same_as_one_that_is_data(low):
    torch.manual_seed(0)
    layer = Hidden(10, 16, low=low)
    parameters = list(layer.parameters())
    for parameter in parameters[1:]:
        nn.init.normal_(parameter)
    x, extra = torch.randn(5, 7), torch.randn(5, 3)
    whole = torch.cat((x, extra), 1).requires_grad_()
    learned = extra.clone().requires_grad_()
    outputs = [layer(x, extra), layer(x, learned), layer(whole)]
    tolerance = 0.03 if low else 1e-5
    assert all(torch.allclose(outputs[0], other, atol=tolerance) for other in outputs[1:])
    through, *split = torch.autograd.grad(outputs[1].square().sum(), (learned, *parameters))
    expected, *joint = torch.autograd.grad(outputs[2].square().sum(), (whole, *parameters))
    for found, wanted in zip((through, *split), (expected[:, 7:], *joint), strict=True):
        assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_low_precision_stays_near_full_precision():
    torch.manual_seed(0)
    full = Critic(20, 10, 12, 8, 32, 2, low=False)
    low = Critic(20, 10, 12, 8, 32, 2, low=True)
    low.load_state_dict(full.state_dict())
    inputs = torch.randn(64, 20), torch.randn(64, 10), torch.randn(64, 12)
    values, gradients = [], []
    for critic in (full, low):
        value = critic(critic.embed(*inputs[:2]), inputs[2])
        value.square().sum().backward()
        values.append(value.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in critic.parameters()]))
    assert (values[0] - values[1]).abs().max() < 0.02
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_the_critic_reads_arm_commands_and_steps_of_the_hand_in_units_of_the_demonstrations():
    generator = torch.Generator().manual_seed(0)
    arm, before = 0.4 * torch.randn((500, 6), generator=generator), torch.rand((500, 6), generator=generator) / 2
    action = torch.cat((arm, 2 * (before + 0.1) - 1), 1)
    motion = Motion()
    plain = motion(action, before)
    assert torch.equal(plain[:, :6], arm) and torch.allclose(plain[:, 6:], torch.full((500, 6), 0.1), atol=1e-6)
    motion.fit(action, before)
    seen = motion(action, before)
    assert torch.allclose(seen[:, :6].std(0), torch.ones(6), atol=0.01)
    further = motion(action + torch.tensor([0.0] * 6 + [0.08] * 6), before)
    assert torch.allclose(further[:, 6:] - seen[:, 6:], torch.full((500, 6), 2.0), atol=1e-3)  # 0.04 of travel


def test_the_critic_subtracts_the_newest_hand_target_of_the_right_observation():
    sac, batch = make()
    sac.motion.fit(batch.action, batch.last_hand_target(following=False))
    end = STATE_DIM + HISTORY_LENGTH * HAND_DIM
    newest = slice(end - HAND_DIM, end)
    with torch.no_grad():
        for member in sac.critic.members:
            member.first.linear.weight[:, : sac.settings.projection + batch.dimensions.proprioception] = 0
        by_motion = sac.values(batch)
        batch.action[:, ARM_DIM:] += 0.2  # with the target before 0.1 further, the same step
        batch.proprioception[:, newest] += 0.1
        assert torch.allclose(sac.values(batch), by_motion, atol=1e-4)
        batch.proprioception[:, newest] += 0.1
        assert not torch.allclose(sac.values(batch), by_motion, atol=1e-4)


def test_members_are_independent():
    sac, batch = make()
    embedding = sac.critic.embed(batch.features, batch.proprioception).detach()
    values = sac.critic(embedding, batch.action)
    assert not torch.allclose(values[0], values[1])
    values[0].sum().backward()
    first, second = sac.critic.members
    assert first.second.linear.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None or parameter.grad.abs().sum() == 0 for parameter in second.parameters())


def test_target_is_the_moving_average_of_the_critic():
    """T7: with a critic that stands still, 1 - (1 - 0.005)^k of the way after k steps."""
    sac, batch = make(learning_rate=1e-12)
    start = torch.cat([p.detach().flatten() for p in sac.target.parameters()])
    with torch.no_grad():
        for parameter in sac.critic.parameters():
            parameter.add_(1)
    for _ in range(20):
        sac.update([batch], train_actor=False)
    moved = torch.cat([p.detach().flatten() for p in sac.target.parameters()]) - start
    assert torch.allclose(moved, torch.full_like(moved, 1 - 0.995**20), atol=1e-4)


def test_target_value_masks_terminal_steps_and_takes_the_minimum():
    sac, batch = make(clip_target=False)
    batch.reward = torch.linspace(0, 1, 32)
    batch.mask = torch.zeros(32)
    assert torch.equal(sac.target_values(batch), batch.reward)
    batch.mask = torch.ones(32)
    with torch.no_grad():
        for member, offset in zip(sac.target.members, (-3.0, -1.0), strict=True):
            member.head.bias.fill_(offset)
    targets = sac.target_values(batch)
    assert torch.allclose(targets, batch.reward + 0.97 * -3, atol=0.3)
    clipped, _ = make(clip_target=True)
    assert clipped.target_values(batch).amin() >= 0


def test_an_entropy_bonus_is_not_cut_out_of_the_target():
    sac, batch = make(backup_entropy=True, clip_target=True, initial_temperature=1.0)
    assert sac.target_values(batch).amax() > 1


def test_value_of_a_chain_is_the_discounted_reward():
    """T25: three steps to the reward; success ends the chain, truncation does not. The smaller critic counts."""
    sac, batch = make(discount=0.9, learning_rate=3e-3, target_rate=0.05)
    state = torch.eye(4)[torch.arange(32) % 3]
    following = torch.eye(4)[torch.arange(32) % 3 + 1]
    for rows, at in ((batch.proprioception, state), (batch.next_proprioception, following)):
        rows.zero_()
        rows[:, :4] = at
    batch.features.zero_(), batch.next_features.zero_()
    last = torch.arange(32) % 3 == 2
    batch.reward, batch.mask = last.float(), (~last).float()
    for _ in range(900):
        sac.update([batch], train_actor=False)
    with torch.no_grad():
        values = sac.values(batch).mean(0)
    for step, expected in enumerate((0.81, 0.9, 1.0)):  # the smaller of two is a little low
        assert values[torch.arange(32) % 3 == step].mean().item() == pytest.approx(expected, abs=0.06)


def test_actor_gradient_reaches_the_residual_through_the_decoder():
    """The gradient with respect to the latent residual is s_z * J_D^T * dQ/dh: the chain rule through LAMP Eq. 8."""
    torch.manual_seed(0)
    interface = create_interface('latent_prior').freeze()
    sac, batch = make(interface, context=4)
    before = batch.last_hand_target(following=False)
    sac.motion.fit(batch.action, before)
    base, context = (0.1 * part for part in batch.interface_inputs(following=False))
    embedding = sac.critic.embed(batch.features, batch.proprioception).detach()

    def value(residual):
        action = interface.decode(base + sac.scale * residual, context)
        return sac.critic(embedding, sac.motion(action, before)).mean(0).sum()

    residual = torch.zeros(32, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(residual), residual)
    for dimension in (0, 6, 7):
        step = torch.zeros(32, 8)
        step[:, dimension] = 1e-2
        with torch.no_grad():
            difference = (value(step) - value(-step)) / 2e-2
        assert gradient[:, dimension].sum().item() == pytest.approx(difference.item(), rel=0.05, abs=2e-4)


@pytest.mark.parametrize('direction', [1.0, -1.0])
@pytest.mark.parametrize('axis', [0, 3])
def test_the_actor_goes_where_the_critic_sees_more_value(axis, direction, monkeypatch):
    settings = {'imitation_weight': 0.0, 'residual_penalty': 0.0, 'learning_rate': 3e-3, 'initial_temperature': 1e-6}
    sac, batch = make(**settings)
    batch.interface_inputs(following=False)[0].zero_()
    monkeypatch.setattr(sac.critic, 'forward', lambda _, motion: direction * motion[:, axis].expand(2, -1))
    for _ in range(150):
        sac._update_actor(batch)
    mean, _ = sac.policy.actor(
        sac.policy.project(batch.features), sac.standardiser.proprioception(batch.proprioception)
    )
    found = mean.tanh().detach()
    assert (direction * found[:, axis]).min() > 0.8
    assert found[:, [other for other in range(6) if other != axis]].abs().mean() < 0.3


def test_updates_leave_interface_and_inputs_alone():
    """T28: the frozen parts are the same after 100 updates; the actor does not move while the critic warms up."""
    interface = create_interface('latent_prior').freeze()
    sac, batch = make(interface, context=4)
    before = {name: tensor.clone() for name, tensor in interface.state_dict().items()}
    actor = [p.detach().clone() for p in sac.policy.actor.parameters()]
    for _ in range(20):
        sac.update([batch, batch], train_actor=False)
    assert all(torch.equal(a, b) for a, b in zip(actor, sac.policy.actor.parameters(), strict=True))
    for _ in range(100):
        sac.update([batch, batch])
    assert all(torch.equal(before[name], tensor) for name, tensor in interface.state_dict().items())
    assert all(p.grad is None for p in interface.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(actor, sac.policy.actor.parameters(), strict=True))


def test_the_projection_of_the_actor_is_its_own_and_learns_with_it():
    sac, batch = make()
    mine, critics = (parts.linear.weight for parts in (sac.policy.project, sac.critic.project))
    assert mine.shape == (sac.settings.actor_projection, batch.features.shape[1]) and mine.shape != critics.shape
    before = mine.detach().clone(), critics.detach().clone()
    sac.update([batch, batch], train_actor=False)
    assert torch.equal(mine, before[0]) and not torch.equal(critics, before[1])
    critic = critics.detach().clone()
    sac._update_actor(batch)
    assert not torch.equal(mine, before[0]) and torch.equal(critics, critic)
    other, _ = make(seed=1)
    other.load_state(sac.state())
    assert torch.equal(other.policy.project.linear.weight, mine)


def test_a_gradient_that_is_not_finite_changes_nothing():
    sac, batch = make()
    sac.update([batch])
    before = [p.detach().clone() for p in sac.critic.parameters()]
    batch.reward = torch.full((32,), float('nan'))
    sac.update([batch], train_actor=False)
    assert sac.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, sac.critic.parameters(), strict=True))


@pytest.mark.parametrize('weight', [0.0, 5.0])
def test_the_mean_residual_goes_to_what_a_person_did_where_one_acted(weight):
    """T19: with no other term the residual fits the shown correction as far as it reaches."""
    sac, batch = make_imitator(imitation_weight=weight)
    base, context = batch.interface_inputs(following=False)
    base.clamp_(-0.3, 0.3)
    wanted = torch.full((32, 7), 0.5)
    wanted[:, 1] = 3.0  # further than a residual reaches
    wanted[: batch.online] *= -1
    batch.action = sac.interface.decode(base + sac.scale * wanted, context)
    for _ in range(400):
        metrics = sac._update_actor(batch)
    mean, _ = sac.policy.actor(
        sac.policy.project(batch.features), sac.standardiser.proprioception(batch.proprioception)
    )
    found = mean[batch.online :].tanh().detach()
    if weight:
        assert (found[:, [0, 2, 3, 4, 5]] - 0.5).abs().mean() < 0.05 and found[:, 1].min() > 0.95
        assert metrics['imitation_error'] < 0.05 * sac.scale[1].item() ** 2
    else:
        assert found.abs().mean() < 0.2


@pytest.mark.parametrize('further', [1.0, 2.0, 0.5])
def test_of_what_the_arm_did_as_much_is_imitated_as_a_residual_reaches(further):
    """A correction beyond the reach teaches the same as one right at it, bit for bit; one within it another thing."""
    actors = []
    for wanted in (1.0, further):
        sac, batch = make()
        batch.worth[:] = 1
        base, context = batch.interface_inputs(following=False)
        base.clamp_(-0.3, 0.3)
        residual = torch.zeros(32, 7)
        residual[:, 1] = 1.5 * wanted
        batch.action = sac.interface.decode(base + sac.scale * residual, context)
        sac._update_actor(batch)
        actors.append(torch.cat([p.detach().flatten() for p in sac.policy.actor.parameters()]))
    assert torch.equal(*actors) == (1.5 * further >= 1)


def test_noise_keeps_imitation_from_relying_on_what_was_done_before():
    """What is to be done is seen as well as told by the last hand target; with noise on this the actor looks."""
    relied = []
    for noise in (0.0, 3.0):
        sac, batch = make_imitator(imitation_noise=noise)
        sign = torch.where(torch.arange(32) % 2 == 0, 1.0, -1.0)
        told = STATE_DIM + HISTORY_LENGTH * HAND_DIM - 1
        batch.features.mul_(0.1)[:, 0] = sign
        batch.proprioception.mul_(0.1)[:, told] = sign
        base, context = batch.interface_inputs(following=False)
        batch.action = sac.interface.decode(base + sac.scale * 0.5 * sign[:, None], context)
        for _ in range(300):
            sac._update_actor(batch)
        projected, reads = sac.policy.project(batch.features), sac.standardiser.proprioception(batch.proprioception)
        mean = sac.policy.actor(projected, reads)[0].tanh().detach()
        assert (mean[batch.online :] - 0.5 * sign[batch.online :, None]).abs().mean() < 0.15
        reads[:, told] *= -1
        relied.append((sac.policy.actor(projected, reads)[0].tanh() - mean).abs().mean().item())
    assert relied[1] < 0.5 * relied[0], relied


def test_noise_on_the_features_keeps_imitation_from_learning_frames_by_heart():
    """The action is told by one feature, and every frame had its own mistake on top; frames never seen have none."""
    wrong = []
    for noise in (0.0, 1.0):
        sac, batch = make_imitator(feature_noise=noise)
        sign = torch.where(torch.arange(32) % 2 == 0, 1.0, -1.0)[:, None]
        batch.features[:, :1], batch.proprioception[:] = sign, 0
        base, context = batch.interface_inputs(following=False)
        mistakes = 0.3 * torch.randn(32, sac.interface.core_dim, generator=torch.Generator().manual_seed(0))
        batch.action = sac.interface.decode(base + sac.scale * (0.5 * sign + mistakes), context)
        for _ in range(300):
            sac._update_actor(batch)
        unseen = torch.randn(batch.features.shape, generator=torch.Generator().manual_seed(1))
        unseen[:, :1] = sign
        mean = sac.policy.actor(sac.policy.project(unseen), sac.standardiser.proprioception(batch.proprioception))[0]
        wrong.append((mean.tanh() - 0.5 * sign).square().mean().sqrt().item())
    assert wrong[1] < 0.7 * wrong[0], wrong


@pytest.mark.parametrize('moved', [slice(0, ARM_DIM), slice(ARM_DIM, None)], ids=['arm', 'hand'])
@pytest.mark.parametrize('worth', [(0.0, 0.0), (1.0, 0.0), (0.0, 0.3)])
def test_only_the_part_that_is_worth_it_is_imitated(moved, worth):
    """Other actions of a part without worth leave the actor as it is, bit for bit; of a part with worth they do not."""
    actors = []
    for changed in (False, True):
        sac, batch = make()
        batch.worth[:] = torch.tensor(worth)
        batch.action[:, moved] += 0.1 * changed
        sac._update_actor(batch)
        actors.append(torch.cat([p.detach().flatten() for p in sac.policy.actor.parameters()]))
    assert torch.equal(*actors) == (not worth[moved.start // ARM_DIM])


def test_where_a_person_commands_nothing_there_is_nothing_to_imitate():
    sac, batch = make()
    batch.worth[:] = 1
    rests = torch.arange(len(batch.action)) % 2 == 0
    batch.action[rests, :ARM_DIM] = 0
    batch.action[rests, ARM_DIM:] = 2 * batch.last_hand_target(following=False)[rests] - 1
    assert torch.equal(batch.idle, rests)
    twin, other = make()
    other.worth[:], other.action = ~rests[:, None], batch.action
    assert sac._update_actor(batch)['imitation_error'] == twin._update_actor(other)['imitation_error'] > 0


def test_a_batch_in_which_nothing_is_worth_imitating_has_no_imitation_error():
    sac, batch = make()
    batch.worth.zero_()
    batch.online = len(batch.action)
    assert sac._update_actor(batch)['imitation_error'] == 0 and sac.skipped == 0
