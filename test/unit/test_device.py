"""Training on a graphics card: everything that meets there is there, and what comes back is what the processor has."""

import pytest
import torch
from pretend_card import CARD, PretendCard
from test_encoder import blob_episodes
from test_learner import DEMONSTRATIONS, SMALL, online
from test_reward_classifier import SETTINGS, SHAPE, examples
from toy_reach import toy_interface

from dex_rl_nodes import diagnosis
from dex_rl_nodes.learning import schedule
from dex_rl_nodes.learning.demo_encoder import DemoEncoderSettings, train_demo_encoder
from dex_rl_nodes.learning.device import CPU, training_device
from dex_rl_nodes.learning.encoder import DemoEncoder
from dex_rl_nodes.learning.interfaces import create_interface
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.policy import PolicySettings, train_policy
from dex_rl_nodes.learning.reward import train_reward
from dex_rl_nodes.setup import places


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(schedule, 'native_bfloat16', lambda: False)  # the processor shall compute like a card
    with PretendCard() as card:
        yield card


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(a.device == b.device == CPU and torch.equal(a, b) for a, b in pairs)


def test_the_pretended_card_refuses_what_a_card_refuses(card):
    here, there = torch.ones(3), torch.ones(3).to(CARD)
    assert there.device == CARD and (there + 1).device == CARD and (there + 1).cpu().device == CPU
    for wrong in (lambda: here + there, lambda: here[there.long()], lambda: torch.cat((here, there)), there.numpy):
        with pytest.raises((RuntimeError, TypeError), match='cuda'):
            wrong()


def test_without_a_card_the_processor_trains(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert training_device() == CPU


def test_with_a_card_it_trains_with_kernels_that_repeat(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', False)
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    assert training_device() == CARD
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ('card', 'cuda', 'usable', 'level', 'said'),
    [
        (False, None, False, 'good', 'no NVIDIA card'),
        (True, None, False, 'warning', 'build without CUDA'),
        (True, '13.0', False, 'warning', 'cannot use the NVIDIA card'),
        (True, '13.0', True, 'good', 'on H1;'),
    ],
)
def test_the_doctor_says_where_networks_are_trained(monkeypatch, card, cuda, usable, level, said):
    monkeypatch.setattr(places, 'has_card', lambda: card)
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: usable)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'H1')
    [row] = diagnosis.training()
    assert row[0] == level and said in row[2]
    assert bool(row[3]) == (level == 'warning')


def test_a_learner_on_a_card_learns_what_it_learns_on_the_processor(card, tmp_path):
    settings = SMALL.model_copy(update={'precision': 'float32'})
    weights = []
    for device in (CPU, CARD):
        learner = Learner(settings, toy_interface().to(device), DEMONSTRATIONS, 0, device)
        learner.extend(online(40))
        for _ in range(5):
            learner.update()
        path = learner.save(tmp_path / device.type)
        again = Learner(settings, toy_interface().to(device), DEMONSTRATIONS, 0, device)
        again.extend(online(40))
        again.load(path)
        again.update(), learner.update()
        assert again.weights() == learner.weights()
        weights.append(learner.weights())
    assert card.operations > 1000
    assert weights[0] == weights[1]


def test_a_policy_trained_on_a_card_is_the_same(card):
    settings = PolicySettings(steps=20, batch_size=16, warmup_steps=5, hidden=[32], image_copies=1)
    encoder, interface = DemoEncoder().freeze(), create_interface('latent_prior').freeze()
    policies = []
    for device in (CPU, CARD):
        policy, _ = train_policy(blob_episodes(3), encoder.to(device), interface, settings, 0, device=device)
        policies.append(policy)
    assert card.operations > 500
    assert same(*policies)


def test_an_encoder_trained_on_a_card_is_the_same(card):
    settings = DemoEncoderSettings(steps=4, passes=0, batch_size=8)
    encoders = [
        train_demo_encoder(blob_episodes(4), blob_episodes(2, seed=9), settings, 0, device=device)[0]
        for device in (CPU, CARD)
    ]
    assert card.operations > 200
    assert same(*encoders)


def test_a_classifier_trained_on_a_card_is_the_same(card):
    settings = SETTINGS.model_copy(update={'steps': 30, 'look_every': 10})
    models, measured = zip(*(train_reward(examples(), SHAPE, settings, 0, device=d) for d in (CPU, CARD)), strict=True)
    assert card.operations > 500
    assert same(*models) and measured[0] == measured[1]
