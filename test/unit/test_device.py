"""Training on a graphics card: everything that meets there is there, and what comes back is what the processor has."""

import os

import pytest
import torch
from pretend_card import CARD, PretendCard
from test_encoder import blob_episodes
from test_learner import DEMONSTRATIONS, SMALL, online
from test_reward_classifier import SETTINGS, SHAPE, examples
from toy_reach import toy_interface

from dex_rl_nodes import diagnosis
from dex_rl_nodes.learning import device, schedule
from dex_rl_nodes.learning.demo_encoder import DemoEncoderSettings, train_demo_encoder
from dex_rl_nodes.learning.device import CPU, device_name, take_card, training_device
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


@pytest.fixture
def asked(monkeypatch):
    """`training_device` anew, and everything as it was afterwards."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', False)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', True)
    training_device.cache_clear()
    yield training_device
    training_device.cache_clear()


def test_without_a_card_the_processor_trains(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert asked() == CPU and device_name() == 'cpu'


def test_with_a_card_it_trains_with_kernels_that_repeat(asked, card, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'H1')
    assert asked() == CARD and device_name() == 'H1'
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32


def test_a_card_that_is_listed_and_cannot_multiply_is_not_used(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)

    def ones(*_size, **_options):
        raise RuntimeError('CUDA error: no kernel image is available for execution on the device\nCUDA kernel')

    monkeypatch.setattr(torch, 'ones', ones)
    with pytest.warns(match='the processor trains: CUDA error: no kernel image is available'):
        assert asked() == CPU


@pytest.mark.parametrize(
    ('visible', 'taken'),
    [('', ['0', '1', '0']), ('2,5', ['2', '5', '2']), ('GPU-a,GPU-b', ['GPU-a', 'GPU-b', 'GPU-a'])],
)
def test_processes_side_by_side_take_turns_with_the_cards(monkeypatch, visible, taken):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for number, name in enumerate(taken):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
        take_card(number)
        assert os.environ['CUDA_VISIBLE_DEVICES'] == name


@pytest.mark.parametrize(
    ('driver', 'cuda', 'usable', 'level', 'said'),
    [
        (0, None, False, 'good', 'no NVIDIA card'),
        (570, None, False, 'warning', 'driver of the NVIDIA card is 570'),
        (580, None, False, 'warning', 'build without CUDA'),
        (580, '13.0', False, 'warning', 'cannot use the NVIDIA card'),
        (580, '13.0', True, 'good', 'on H1;'),
    ],
)
def test_the_doctor_says_where_networks_are_trained(monkeypatch, driver, cuda, usable, level, said):
    monkeypatch.setattr(places, 'card_driver', lambda: driver)
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    monkeypatch.setattr(device, 'training_device', lambda: CARD if usable else CPU)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'H1')
    [row] = diagnosis.training()
    assert row[0] == level and said in row[2]
    assert bool(row[3]) == (level == 'warning')


def test_a_learner_on_a_card_learns_what_it_learns_on_the_processor(card, tmp_path):
    settings = SMALL.model_copy(update={'precision': 'float32'})
    weights = []
    for place in (CPU, CARD):
        learner = Learner(settings, toy_interface().to(place), DEMONSTRATIONS, 0, place)
        learner.extend(online(40))
        for _ in range(5):
            learner.update()
        path = learner.save(tmp_path / place.type)
        again = Learner(settings, toy_interface().to(place), DEMONSTRATIONS, 0, place)
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
    for place in (CPU, CARD):
        policy, _ = train_policy(blob_episodes(3), encoder.to(place), interface, settings, 0, device=place)
        policies.append(policy)
    assert card.operations > 500
    assert same(*policies)


def test_an_encoder_trained_on_a_card_is_the_same(card):
    settings = DemoEncoderSettings(steps=4, passes=0, batch_size=8)
    encoders = [
        train_demo_encoder(blob_episodes(4), blob_episodes(2, seed=9), settings, 0, device=place)[0]
        for place in (CPU, CARD)
    ]
    assert card.operations > 200
    assert same(*encoders)


def test_a_classifier_trained_on_a_card_is_the_same(card):
    settings = SETTINGS.model_copy(update={'steps': 30, 'look_every': 10})
    models, measured = zip(*(train_reward(examples(), SHAPE, settings, 0, device=d) for d in (CPU, CARD)), strict=True)
    assert card.operations > 500
    assert same(*models) and measured[0] == measured[1]
