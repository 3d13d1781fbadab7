"""Parameters as one vector: views, steps and clipping."""

import pytest
import torch
from torch import nn

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.flat import FlatParameters


def network(width: int = 700) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def loss_of(module: nn.Module) -> torch.Tensor:
    rows = torch.randn((64, 40), generator=torch.Generator().manual_seed(1))
    return module(rows).square().sum()


def test_an_optimiser_step_on_the_vector_is_one_on_every_parameter():
    flat, plain = network(), network()
    vector = FlatParameters(flat)
    for optimiser, parameters in (
        (torch.optim.AdamW([vector.vector], 1e-3), None),
        (torch.optim.AdamW(plain.parameters(), 1e-3), list(plain.parameters())),
    ):
        for _ in range(3):
            if parameters is None:
                vector.backward(loss_of(flat), clip=1.0)
            else:
                optimiser.zero_grad()
                loss_of(plain).backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
    for a, b in zip(flat.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_are_clipped_to_the_norm_and_short_ones_left_alone():
    module = network()
    vector = FlatParameters(module)
    vector.backward(loss_of(module))
    norm = float(vector.vector.grad.norm())
    vector.backward(loss_of(module), clip=norm / 2)
    assert abs(float(vector.vector.grad.norm()) - norm / 2) < 1e-4 * norm
    vector.backward(loss_of(module), clip=2 * norm)
    assert abs(float(vector.vector.grad.norm()) - norm) < 1e-4 * norm


def test_a_gradient_that_is_not_finite_is_told():
    module = network()
    vector = FlatParameters(module)
    assert vector.backward(loss_of(module))
    assert not vector.backward(loss_of(module) * float('nan'))


def test_training_that_diverges_is_one_sentence_and_leaves_the_weights():
    module = network()
    vector = FlatParameters(module)
    optimiser, before = torch.optim.AdamW([vector.vector], 1e-3), vector.vector.detach().clone()
    with pytest.raises(UserError, match='training of the policy has diverged'):
        vector.descend(optimiser, loss_of(module) * float('inf'), 'the policy', 1.0)
    assert torch.equal(vector.vector, before)
    vector.descend(optimiser, loss_of(module), 'the policy', 1.0)
    assert vector.vector.isfinite().all() and not torch.equal(vector.vector, before)


def test_parameters_that_are_not_trained_get_no_gradient():
    module = network()
    vector = FlatParameters(module, trained=False)
    assert vector.vector.grad is None and not any(p.requires_grad for p in module.parameters())
    vector.vector.data.zero_()
    assert all(not parameter.any() for parameter in module.parameters())
