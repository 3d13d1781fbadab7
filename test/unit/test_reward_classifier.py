"""The reward classifier learns, measures itself on other episodes, and holds before it calls a success (T30)."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import LATE_TICKS, Episode
from dex_rl_nodes.learning.encoder import DemoEncoder
from dex_rl_nodes.learning.reward import (
    RewardExamples,
    RewardModel,
    RewardRunner,
    RewardSettings,
    SpatialEmbedding,
    choose_held_out,
    load_reward,
    save_reward,
    scores,
    train_reward,
)
from dex_rl_nodes.records import ACTION_DIM, STATE_DIM, Outcome, PolicyStep
from dex_rl_nodes.stages.train import reward_examples

SHAPE = (4, 2, 2)
FEATURES = 2 * 16
SETTINGS = RewardSettings(bottleneck=16, hidden=16, blocks=2, batch=32, steps=400, look_every=50, learning_rate=3e-3)
ENCODER = SimpleNamespace(
    identity='demo:1', spatial_shape=SHAPE, encode=lambda images: images['front'].astype(np.float32)
)


def examples(episodes: int = 40, steps: int = 20, seed: int = 0) -> RewardExamples:
    """The last quarter of every other episode is a success, visible in the features of the wrist view."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(episodes, steps, FEATURES))
    success = np.zeros((episodes, steps), bool)
    success[::2, -steps // 4 :] = True
    features[success, 20] += 6
    episode = np.repeat(np.arange(episodes), steps)
    rows = features.reshape(-1, FEATURES).astype(np.float16)
    held = episode % 10 < 2  # one with and one without success
    return RewardExamples(rows, success.reshape(-1), episode, *np.zeros((2, len(rows)), bool), held)


def shown_episode(number: int, random: np.random.Generator, ticks: int = 6) -> Episode:
    """Random images; every other episode is a success from its first frame on."""
    return Episode(
        episode=number,
        seed=number,
        outcome=Outcome.SUCCESS,
        images={view: random.integers(0, 255, (ticks + 1, 128, 128, 3), np.uint8) for view in ('front', 'wrist')},
        state=np.zeros((ticks + 1, STATE_DIM), np.float32),
        hand_history=np.zeros((ticks + 1, 48), np.float32),
        success=np.full(ticks + 1, number % 2 == 0),
        action=np.zeros((ticks, ACTION_DIM), np.float32),
        source=np.zeros(ticks, np.uint8),
    )


@pytest.fixture(scope='module')
def trained():
    return train_reward(examples(), SHAPE, SETTINGS, seed=0)


def test_learns_and_reports_held_out_episodes(trained):
    model, measured = trained
    assert measured['precision'] >= 0.85 and measured['recall'] >= 0.85
    assert measured['held_out_episodes'] == 8 and measured['held_out_positives'] == 20
    assert [check['steps'] for check in measured['checks']] == list(range(50, 401, 50)) and measured['steps'] == 400
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_stricter_thresholds_never_call_more(trained):
    """T30: recall falls monotonically along the curve."""
    recalls = [point['recall'] for point in trained[1]['curve']]
    assert recalls == sorted(recalls, reverse=True)


def test_overfits_eight_and_eight():
    random = np.random.default_rng(0)
    few = RewardExamples(
        random.normal(size=(32, FEATURES)), np.arange(32) % 2 == 0, np.arange(32) // 8, *np.zeros((3, 32), bool)
    )
    few.held[:8] = True
    model, _ = train_reward(few, SHAPE, SETTINGS, seed=0)
    logit = model(torch.from_numpy(few.features[8:].astype(np.float32)))
    assert ((logit > 0).numpy() == few.success[8:]).mean() > 0.95


def test_sessions_to_measure_on_are_of_both_kinds_and_each_is_chosen_by_its_number():
    random = np.random.default_rng(0)
    sessions = [shown_episode(number, random, ticks=1) for number in range(100)]
    held = choose_held_out(sessions, 0.2, seed=3)
    assert 10 < held.sum() < 30 and held[::2].any() and held[1::2].any()
    some = sessions[::3] + sessions[1::3]
    assert choose_held_out(some, 0.2, seed=3).tolist() == held[::3].tolist() + held[1::3].tolist()
    assert choose_held_out(sessions, 0.2, seed=4).tolist() != held.tolist()


@pytest.mark.parametrize(('held_out', 'expected'), [(1e-6, 2), (1 - 1e-6, 4)])
def test_of_each_kind_one_session_at_least_is_measured_on_and_one_learned_from(held_out, expected):
    sessions = [shown_episode(number, np.random.default_rng(0), ticks=1) for number in range(6)]
    held = choose_held_out(sessions, held_out, seed=3)
    assert held.sum() == expected and held[::2].sum() == held[1::2].sum() == expected // 2


def test_a_single_session_of_a_kind_is_learned_from():
    sessions = [shown_episode(number, np.random.default_rng(0), ticks=1) for number in (0, 1, 3)]
    assert not choose_held_out(sessions, 1 - 1e-6, seed=3)[0]
    assert choose_held_out([], 0.2, seed=3).tolist() == []


def test_changed_copies_are_trained_on_and_never_measured_on():
    some = replace(examples(), changed=np.arange(800) % 3 == 0)
    measured = train_reward(some, SHAPE, SETTINGS.model_copy(update={'steps': 50}), seed=0)[1]
    assert measured['positives'] + measured['negatives'] == int((~some.changed).sum())
    assert measured['held_out_positives'] + measured['held_out_negatives'] == int((some.held & ~some.changed).sum())


def test_sessions_to_measure_on_get_no_changed_copies_and_demonstrations_are_not_measured_on():
    random = np.random.default_rng(0)
    sessions = [shown_episode(number, random) for number in range(10)]
    demos = [shown_episode(number, random) for number in range(4)]
    settings = SETTINGS.model_copy(update={'copies': 2})
    made = reward_examples(DemoEncoder().freeze(), sessions, demos, settings, seed=3)
    assert set(made.episode[made.held]) == set(np.flatnonzero(choose_held_out(sessions, settings.held_out, seed=3)))
    assert made.held.sum() == len(set(made.episode[made.held])) * 7 and not made.changed[made.held].any()
    assert (~made.held).sum() == (14 - len(set(made.episode[made.held]))) * 7 * 3


def test_nothing_is_known_of_the_moments_before_a_time_limit():
    """The operator may have been making sure of a success when the time was up."""
    random = np.random.default_rng(0)
    episodes = [shown_episode(number, random, ticks=29) for number in range(10)]
    short, long = (shown_episode(number, random, ticks) for number, ticks in ((11, 5), (13, 29)))
    episodes += [replace(episode, outcome=Outcome.TIMEOUT) for episode in (short, long)]
    made = reward_examples(
        DemoEncoder().freeze(), episodes, [], SETTINGS.model_copy(update={'final_ticks': LATE_TICKS + 3}), seed=3
    )
    final = made.final[(made.episode == 10) & ~made.changed]
    assert final.tolist() == [False] * (27 - LATE_TICKS) + [True] * 3  # of 30, without the late ones
    assert made.episode.max() == 10  # of the short one nothing is left


def test_the_last_ticks_of_failed_attempts_count_more():
    random = np.random.default_rng(0)
    episodes = [shown_episode(number, random) for number in range(10)]
    settings = SETTINGS.model_copy(update={'copies': 1, 'final_ticks': 2})
    made = reward_examples(DemoEncoder().freeze(), episodes, [], settings, seed=3)
    for number in range(10):
        of_episode = made.final[(made.episode == number) & ~made.changed]
        assert of_episode.tolist() == [False] * 5 + [number % 2 == 1] * 2
    assert np.array_equal(
        made.final[made.changed].reshape(-1, 7).any(1), ~made.success[made.changed].reshape(-1, 7).any(1)
    )
    # one frame in twenty of the failed episodes is nearly a success
    some = examples()
    some.final[:] = ~some.success & (some.episode % 2 == 1) & (np.arange(800) % 20 == 19)
    some.features[some.final, 20] += 3
    probability = []
    for weight in (1, 20):
        settings = SETTINGS.model_copy(update={'final_weight': weight, 'steps': 100})
        model, _ = train_reward(some, SHAPE, settings, seed=0)
        features = torch.from_numpy(some.features[some.final].astype(np.float32))
        probability.append(float(torch.sigmoid(model(features)).mean()))
    assert probability[1] < 0.7 * probability[0]


def test_training_repeats_itself(trained):
    model, _ = train_reward(examples(), SHAPE, SETTINGS, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained[0].parameters(), strict=True))


@pytest.mark.parametrize('kind', ['positive', 'negative'])
def test_missing_examples_are_named(kind):
    some = examples()
    with pytest.raises(UserError, match=f'no {kind} examples'):
        train_reward(some.where(some.success == (kind == 'negative')), SHAPE, SETTINGS, seed=0)


def test_scores_by_hand():
    found = scores(np.array([0.95, 0.2, 0.97, 0.92]), np.array([True, True, False, True]), 0.9)
    assert found['precision'] == pytest.approx(2 / 3) and found['recall'] == pytest.approx(2 / 3)
    assert (found['false_positives'], found['false_negatives']) == (1, 1)
    assert scores(np.array([0.1]), np.array([False]), 0.9)['precision'] is None


def test_spatial_embedding_of_table_c1():
    """T29: 512 channels of 4 x 4 and 8 blocks give 4096 numbers from 65,536 parameters."""
    embedding = SpatialEmbedding((512, 4, 4), 8)
    assert embedding(torch.randn(3, 512 * 16)).shape == (3, 4096)
    assert sum(p.numel() for p in embedding.parameters()) == 65_536
    maps = torch.randn(1, 512, 4, 4)
    by_hand = sum(maps[0, 7, i, j] * embedding.kernel[7, 4 * i + j, 2] for i in range(4) for j in range(4))
    assert embedding(maps.flatten(1))[0, 7 * 8 + 2].item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_round_trip_and_foreign_encoder(tmp_path, trained):
    path = tmp_path / 'reward.safetensors'
    save_reward(path, trained[0], ENCODER, SETTINGS, trained[1])
    model, settings = load_reward(path, ENCODER)
    features = torch.randn(5, FEATURES)
    assert torch.equal(model(features), trained[0](features)) and settings == SETTINGS
    with pytest.raises(UserError, match='demo:2'):
        load_reward(path, SimpleNamespace(identity='demo:2', spatial_shape=SHAPE))


class Fixed(RewardModel):
    """Logit = first feature."""

    def forward(self, features):
        return features[:, 0]


def tick(value: float, episode: int, step: int) -> PolicyStep:
    return PolicyStep(episode=episode, step=step, encoder='demo:1', features=np.full(FEATURES, value, np.float32))


def test_success_needs_consecutive_ticks_within_an_episode():
    runner = RewardRunner(Fixed(SHAPE, SETTINGS), ENCODER, threshold=0.9, hold=2)
    logits = [(0, 5.0), (0, -5.0), (0, 5.0), (0, 5.0), (0, 5.0), (1, 5.0), (1, 5.0)]
    verdicts = [runner.step(tick(value, episode, step)) for step, (episode, value) in enumerate(logits)]
    assert [verdict.success for verdict in verdicts] == [False, False, False, True, True, False, True]
    assert verdicts[0].probability == pytest.approx(1 / (1 + np.exp(-5)), rel=1e-5)


def test_features_of_another_encoder_are_refused():
    runner = RewardRunner(Fixed(SHAPE, SETTINGS), ENCODER, threshold=0.9, hold=1)
    with pytest.raises(UserError, match='reads encoder demo:1, the policy sends features of "resnet18:9"'):
        runner.step(PolicyStep(encoder='resnet18:9', features=np.full(FEATURES, 4, np.float32)))


def test_nothing_is_measured_where_nothing_is_held_out():
    some = examples()
    some.held[:] = False
    metrics = train_reward(some, SHAPE, SETTINGS, seed=0)[1]
    assert metrics['precision'] is metrics['recall'] is metrics['loss'] is None
    assert metrics['held_out_episodes'] == 0 and 'NaN' not in json.dumps(metrics)
