"""The replay buffer gives back what was executed, bootstraps from the right observation, and samples half and half."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dex_rl_nodes.learning.replay import Dimensions, MixedSampler, ReplayBuffer, Returns
from dex_rl_nodes.learning.speed import random_transitions
from dex_rl_nodes.records import HAND_DIM, HISTORY_LENGTH, STATE_DIM, Origin, Transition

DIMENSIONS = Dimensions(features=6, context=4, core=8)


def observation(number: int) -> dict[str, np.ndarray]:
    """An observation whose every entry is its number."""
    history = HISTORY_LENGTH * HAND_DIM
    lengths = {'features': 6, 'state': STATE_DIM, 'hand_history': history, 'context': 4, 'base_core': 8}
    return {name: np.full(length, number, np.float32) for name, length in lengths.items()}


def episode(number: int, steps: int, success: bool = False, truncated: bool = False) -> list[Transition]:
    """Observations count 100 * episode + step; so do the actions, in hundredths of a thousandth."""
    transitions = []
    for step in range(steps):
        at, last = 100 * number + step, step == steps - 1
        following = {f'next_{name}': value for name, value in observation(at + 1).items()}
        transitions.append(
            Transition(
                sequence=at,
                episode=number,
                step=step,
                action=np.full(12, at / 1e5, np.float32),
                reward=float(success and last),
                mask=0.0 if success and last else 1.0,
                success=success and last,
                truncated=truncated and last,
                **observation(at),
                **following,
            )  # fmt: skip
        )
    return transitions


def sample(buffer: ReplayBuffer, size: int = 512):
    return sampler_of(buffer).sample(size, np.random.default_rng(0))


def sampler_of(buffer: ReplayBuffer, returns: Returns = Returns()) -> MixedSampler:  # noqa: B008  (frozen)
    return MixedSampler(buffer, ReplayBuffer(DIMENSIONS, 2), online_share=1.0, returns=returns)


def test_round_trip_keeps_every_field_and_the_executed_action():
    buffer = ReplayBuffer(DIMENSIONS, 1000)
    buffer.extend(episode(1, 7, success=True))
    batch = sample(buffer)
    at = batch.features[:, 0]
    assert set(at.tolist()) == {100 + step for step in range(7)}
    for rows, offset in (
        (batch.features, 0), (batch.proprioception, 0), (batch.next_features, 1), (batch.next_proprioception, 1),
    ):  # fmt: skip
        assert torch.equal(rows, (at + offset)[:, None].expand_as(rows))
    assert torch.equal(batch.action, (at / 1e5)[:, None].expand(-1, 12))
    assert torch.equal(batch.reward, (at == 106).float())
    assert torch.equal(batch.mask, (at != 106).float())
    base, context = batch.interface_inputs(following=False)
    assert base.shape == (512, 8) and context.shape == (512, 4)


def test_rewards_of_several_ticks_stop_where_the_episode_does():
    discount, buffer = 0.5, ReplayBuffer(DIMENSIONS, 1000)
    buffer.extend(episode(1, 5, success=True) + episode(2, 4, truncated=True) + episode(3, 6)[:3])
    batch = sampler_of(buffer, Returns(3, discount)).sample(512, np.random.default_rng(0))
    found = {}
    for row in range(512):
        at, following = int(batch.features[row, 0]), int(batch.next_features[row, 0])
        found[at] = following, float(batch.reward[row]), float(batch.mask[row])
    full = discount**2  # of a mask over three ticks
    assert found == {
        100: (103, 0, full), 101: (104, 0, full), 102: (105, full, 0), 103: (105, discount, 0), 104: (105, 1, 0),
        200: (203, 0, full), 201: (204, 0, full), 202: (204, 0, discount), 203: (204, 0, 1),
        300: (303, 0, full), 301: (303, 0, discount), 302: (303, 0, 1),
    }  # fmt: skip


def test_what_a_person_achieves_is_no_merit_of_the_tick_before_the_takeover():
    sources = (Origin.POLICY, Origin.POLICY, Origin.INTERVENTION_ARM, Origin.INTERVENTION, Origin.POLICY)
    buffer = ReplayBuffer(DIMENSIONS, 100)
    shown = zip(episode(1, 5, success=True), sources, strict=True)
    buffer.extend([replace(transition, source=source) for transition, source in shown])
    batch = sampler_of(buffer, Returns(3, 0.5)).sample(256, np.random.default_rng(0))
    rows = batch.features[:, 0], batch.next_features[:, 0], batch.reward, batch.mask
    found = {int(at): tuple(rest) for at, *rest in zip(*(column.tolist() for column in rows), strict=True)}
    ends = {100: (102, 0, 0.5), 101: (102, 0, 1)}  # as far as the person, and no further
    assert found == {**ends, 102: (105, 0.25, 0), 103: (105, 0.5, 0), 104: (105, 1, 0)}


def test_of_people_only_what_led_to_a_success_is_in_the_half_of_demonstrations():
    online, people = ReplayBuffer(DIMENSIONS, 100), ReplayBuffer(DIMENSIONS, 100, shown_worth=0.5)
    online.extend(episode(1, 5, truncated=True))
    people.extend([replace(transition, source=Origin.DEMONSTRATION) for transition in episode(2, 4, success=True)])
    for number in (3, 4):
        people.extend([replace(t, source=Origin.INTERVENTION) for t in episode(number, 4, truncated=True)])
    people.praise(4)
    batch = MixedSampler(online, people).sample(512, np.random.default_rng(0))
    found = dict(zip(batch.features[256:, 0].tolist(), batch.worth[256:, 0].tolist(), strict=True))
    assert found == {**{200.0 + n: 0.5 for n in range(4)}, **{400.0 + n: 1.0 for n in range(4)}}
    with pytest.raises(ValueError, match='hardly anything'):
        online.slots(10, np.random.default_rng(0), worthy=True)


def test_history_of_the_next_observation_is_the_shifted_history_with_the_executed_target():
    """T27, on fields that differ within the row."""
    t = episode(0, 1)[0]
    target = np.arange(6, dtype=np.float32) / 10
    t.hand_history = np.random.default_rng(0).random(48).astype(np.float32)
    t.next_hand_history = np.concatenate((t.hand_history[6:], target))
    t.action[6:] = 2 * target - 1
    buffer = ReplayBuffer(DIMENSIONS, 100)
    buffer.add(t)
    batch = sample(buffer, 2)
    history, following = (rows[0, 12:60] for rows in (batch.proprioception, batch.next_proprioception))
    assert torch.allclose(following, torch.cat((history[6:], (batch.action[0, 6:] + 1) / 2)))
    assert torch.equal(batch.last_hand_target(following=False)[0], history[-6:])
    assert torch.allclose(batch.last_hand_target(following=True)[0], torch.from_numpy(target))


@pytest.mark.parametrize('capacity', [1000, 40])
def test_a_truncated_step_bootstraps_from_its_own_episode(capacity):
    """Also after the ring has gone round: the next observation is never that of another episode."""
    buffer = ReplayBuffer(DIMENSIONS, capacity)
    for number in range(12):
        buffer.extend(episode(number, 7, truncated=number % 2 == 0, success=number % 2 == 1))
    batch = sample(buffer)
    assert torch.equal(batch.next_features, batch.features + 1)
    assert torch.equal(batch.next_proprioception, batch.proprioception + 1)
    truncated = (batch.features[:, 0] % 200) == 6
    assert truncated.any() and (batch.mask[truncated] == 1).all()


def test_capacity_keeps_the_newest():
    buffer = ReplayBuffer(DIMENSIONS, 33)
    for number in range(10):
        buffer.extend(episode(number, 10, truncated=True))
    assert len(buffer) == 30  # three episodes of 10 transitions and 11 observations
    assert sample(buffer).features.min() == 700


def test_demonstrations_are_kept_however_much_people_do_later():
    people = ReplayBuffer(DIMENSIONS, 30, own_worth=0.25)
    shown = [replace(transition, source=Origin.DEMONSTRATION) for transition in episode(1, 8, success=True)]
    people.extend(shown)
    people.keep()
    for number in range(2, 12):
        people.extend([replace(t, source=Origin.INTERVENTION_ARM) for t in episode(number, 9, truncated=True)])
        people.praise(number)
        batch = sample(people, 2000)
        at = set(batch.features[:, 0].tolist())
        assert {100.0 + step for step in range(8)} <= at and 100.0 * number + 8 in at
        assert torch.equal(batch.next_features, batch.features + 1)
        assert worth_of(people)[100 * number + 8] == (1, 0.25)
    batch = sampler_of(people, Returns(3, 0.5)).sample(2000, np.random.default_rng(0))
    ahead = (batch.next_features - batch.features)[:, 0]
    assert set(ahead[batch.features[:, 0] < 106].tolist()) == {3.0} and ahead.max() == 3


def test_gaps_and_interleaved_episodes_are_kept_apart():
    buffer = ReplayBuffer(DIMENSIONS, 100)
    first, second = episode(1, 4), episode(2, 4)
    for transition in (first[0], first[1], second[0], first[2], second[3]):
        buffer.add(transition)
    batch = sample(buffer)
    assert set(batch.features[:, 0].tolist()) == {100, 101, 200, 102, 203}
    assert torch.equal(batch.next_features, batch.features + 1)


@pytest.mark.parametrize('capacity', [100, 26])
def test_a_forgotten_episode_is_never_sampled_and_its_neighbours_stay(capacity):
    buffer = ReplayBuffer(DIMENSIONS, capacity)
    for number in range(4):
        buffer.extend(episode(number, 5, truncated=number != 2))  # episode 2 has no end yet
    buffer.extend([replace(transition, source=Origin.DEMONSTRATION) for transition in episode(2, 1)])
    kept = len(buffer)
    assert buffer.forget(2) == 5 and len(buffer) == kept - 5
    assert buffer.forget(2) == 0 and buffer.forget(77) == 0
    buffer.extend(episode(5, 3))
    batch = sample(buffer, 2000)
    found = set(batch.features[:, 0].tolist())
    assert {200, *range(300, 305), *range(500, 503)} <= found
    assert found.isdisjoint(range(201, 205)) and len(found) == len(buffer)
    assert torch.equal(batch.next_features, batch.features + 1)


def worth_of(buffer: ReplayBuffer) -> dict[int, tuple[float, float]]:
    """By the number of its first observation, what a transition of the buffer is worth imitating: arm, hand."""
    batch = sample(buffer, 4000)
    return {int(at): tuple(worth) for at, worth in zip(batch.features[:, 0], batch.worth.tolist(), strict=True)}


@pytest.mark.parametrize('capacity', [1000, 13])
def test_only_a_success_makes_an_episode_worth_imitating(capacity):
    """A person's part counts 1, the agent's 0.25, and what it did alone before it needed help nothing."""
    buffer = ReplayBuffer(DIMENSIONS, capacity, own_worth=0.25)
    buffer.extend([replace(transition, source=Origin.DEMONSTRATION) for transition in episode(1, 1)])
    sources = (
        Origin.POLICY, Origin.INTERVENTION_ARM, Origin.POLICY, Origin.INTERVENTION, Origin.INTERVENTION_HAND,
        Origin.POLICY,
    )  # fmt: skip
    for number in (2, 3):  # with 13 slots the second one goes round
        shown = zip(episode(number, 6, truncated=True), sources, strict=True)
        buffer.extend([replace(transition, source=source) for transition, source in shown])
        if number == 3:
            assert set(worth_of(buffer).values()) == {(1, 1), (0, 0)} if capacity > 13 else {(0, 0)}
            buffer.praise(3)
    found = worth_of(buffer)
    assert [found[300 + n] for n in range(6)] == [(0, 0), (1, 0.25), (0, 0), (1, 1), (0.25, 1), (0.25, 0.25)]
    assert {worth for at, worth in found.items() if 200 <= at < 300} == {(0, 0)}
    buffer.extend(episode(4, 3, truncated=True))
    buffer.praise(4)
    found = worth_of(buffer)
    assert [found[400 + n] for n in range(3)] == 3 * [(0.25, 0.25)]


def test_half_of_every_batch_is_online():
    """T26."""
    online, demonstrations = ReplayBuffer(DIMENSIONS, 100), ReplayBuffer(DIMENSIONS, 100)
    online.extend(episode(1, 50, truncated=True))
    demonstrations.extend([replace(t, source=Origin.DEMONSTRATION) for t in episode(9, 5, success=True)])
    random = np.random.default_rng(0)
    for _ in range(20):
        batch = MixedSampler(online, demonstrations).sample(256, random)
        assert batch.online == 128
        assert (batch.features[:128, 0] < 900).all() and (batch.features[128:, 0] >= 900).all()


def test_sampling_is_uniform_and_repeatable():
    buffer = ReplayBuffer(DIMENSIONS, 100)
    for number in range(4):
        buffer.extend(episode(number, 5, truncated=True))
    slots = buffer.slots(20_000, np.random.default_rng(3))
    counts = np.bincount(slots, minlength=24)
    assert (counts > 0).sum() == 20 and counts[counts > 0].min() > 850
    assert np.array_equal(slots, buffer.slots(20_000, np.random.default_rng(3)))


def test_memory_per_transition_with_resnet_features():
    """At most 4 KiB, counted in what is allocated for a full buffer."""
    transitions = random_transitions(160, features=1024, context=4, core=8)
    buffer = ReplayBuffer(Dimensions.of(transitions[0]), 200)
    buffer.extend(transitions)
    assert len(buffer) == 160
    assert buffer.bytes_per_transition <= 4096
