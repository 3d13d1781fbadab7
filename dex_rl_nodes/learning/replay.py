"""Replay of transitions with cached features, for symmetric sampling from online and demonstration data.

An observation is stored once: features as float16, everything else as float32. The next observation of a
transition lies in the slot behind it, so an episode of T steps takes T + 1 slots. The arrays are mapped at once
and take memory as they fill.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dex_rl_nodes.learning.demonstrations import is_idle
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.records import ACTION_DIM, HAND_DIM, HISTORY_LENGTH, STATE_DIM, Origin, Transition

_DRAWS = 10_000  # of a minibatch of slots, before there is too little to sample
_ARM_SHOWN = (Origin.INTERVENTION, Origin.INTERVENTION_ARM)
_HAND_SHOWN = (Origin.INTERVENTION, Origin.INTERVENTION_HAND)


@dataclass(frozen=True)
class Dimensions:
    """Lengths of the arrays of a transition."""

    features: int
    context: int
    core: int

    @property
    def proprioception(self) -> int:
        """State, hand history, context and base core action behind each other."""
        return STATE_DIM + HISTORY_LENGTH * HAND_DIM + self.context + self.core

    @staticmethod
    def of(transition: Transition) -> 'Dimensions':
        return Dimensions(len(transition.features), len(transition.context), len(transition.base_core))


@dataclass
class Batch:
    """A minibatch of B transitions, float32.

    Attributes:
        features, next_features: (B, F) visual features.
        proprioception, next_proprioception: (B, P) state, hand history, context, base core action.
        action: (B, 12) executed action, [-1, 1].
        reward, mask: (B,); mask 0 where there is nothing to bootstrap from.
        dimensions: how the proprioception is made up.
        online: number of online transitions; they come first, then those of demonstrations and interventions.
        worth: (B, 2) how much the actions of arm and hand are worth imitating, [0, 1]; see `ReplayBuffer.praise`.
    """

    features: Tensor
    proprioception: Tensor
    next_features: Tensor
    next_proprioception: Tensor
    action: Tensor
    reward: Tensor
    mask: Tensor
    dimensions: Dimensions
    online: int
    worth: Tensor

    def interface_inputs(self, following: bool) -> tuple[Tensor, Tensor]:
        """Base core action (B, core) and context (B, context) of the observation, or of the one following."""
        rows = self.next_proprioception if following else self.proprioception
        start = STATE_DIM + HISTORY_LENGTH * HAND_DIM
        return rows[:, start + self.dimensions.context :], rows[:, start : start + self.dimensions.context]

    def last_hand_target(self, following: bool) -> Tensor:
        """Newest target (B, 6) of the hand history of the observation, or of the one following; normalised travel."""
        rows = self.next_proprioception if following else self.proprioception
        end = STATE_DIM + HISTORY_LENGTH * HAND_DIM
        return rows[:, end - HAND_DIM : end]

    @property
    def idle(self) -> Tensor:
        """Where nothing was commanded, bool (B,)."""
        return is_idle(self.action, self.last_hand_target(following=False))


@dataclass(frozen=True)
class Returns:
    """How far ahead rewards are summed before the value of an observation is used.

    The batch holds r_n + ... + discount^(k-1) r_(n+k-1) as reward, mask * discount^(k-1) as mask and observation n + k
    as the next one, with k = ticks, or less at the end of an episode.
    """

    ticks: int = 1
    discount: float = 1.0  # per tick; matters for more than one tick


class ReplayBuffer:
    """Ring of the newest transitions.

    Args:
        dimensions: lengths of the arrays.
        capacity: slots, one per observation; more than are kept for good.
        own_worth: how much an agent's own action is worth imitating after a success, [0, 1]; a person's: 1.
        shown_worth: how much an action of a demonstration is, (0, 1].
    """

    def __init__(self, dimensions: Dimensions, capacity: int, own_worth: float = 0.0, shown_worth: float = 1.0):
        if capacity < 2:
            raise ValueError(capacity)
        self.dimensions = dimensions
        self.capacity = capacity
        self._features = np.zeros((capacity, dimensions.features), np.float16)
        self._proprioception = np.zeros((capacity, dimensions.proprioception), np.float32)
        self._outcome = np.zeros((capacity, ACTION_DIM + 2), np.float32)  # action, reward, mask
        self._own_worth, self._shown_worth = own_worth, shown_worth
        self._worth = np.zeros((capacity, 2), np.float32)  # of arm and hand, to be imitated
        self._origin = np.zeros(capacity, np.uint8)
        self._valid = np.zeros(capacity, bool)  # the slot starts a transition
        self._episode = np.full(capacity, -1)  # online episode of that transition; -1: of a demonstration
        self._head = 0  # slot of the newest observation, which has no transition yet
        self._used = 0  # slots ever written, at most the capacity
        self._kept = 0  # slots at the front that are never written again
        self._count = 0
        self._open: tuple[int, int] | None = None  # episode and step of the observation at the head

    def __len__(self) -> int:
        return self._count

    @property
    def bytes_per_transition(self) -> float:
        """Memory of a slot."""
        arrays = (self._features, self._proprioception, self._outcome, self._valid, self._episode)
        arrays += (self._worth, self._origin)
        return sum(array.nbytes for array in arrays) / self.capacity

    def add(self, transition: Transition) -> None:
        """Append one transition; consecutive steps of an episode share observations."""
        if self._open != (transition.episode, transition.step):
            self._advance()
            t = transition
            self._write(t.features, (t.state, t.hand_history, t.context, t.base_core))
        slot = self._head
        outcome = self._outcome[slot]
        outcome[:ACTION_DIM] = transition.action
        outcome[ACTION_DIM] = transition.reward
        outcome[ACTION_DIM + 1] = transition.mask
        self._advance()
        t = transition
        self._write(t.next_features, (t.next_state, t.next_hand_history, t.next_context, t.next_base_core))
        self._valid[slot] = True
        shown = t.source == Origin.DEMONSTRATION
        self._episode[slot] = -1 if shown else t.episode
        self._origin[slot] = t.source
        self._worth[slot] = self._shown_worth if shown else 0.0
        self._count += 1
        ended = transition.truncated or transition.mask == 0
        self._open = None if ended else (transition.episode, transition.step + 1)

    def extend(self, transitions: Iterable[Transition]) -> None:
        """Append transitions in order."""
        for transition in transitions:
            self.add(transition)

    def keep(self) -> None:
        """What was added so far, which ended with its episode, is never dropped: the ring goes round behind it."""
        self._kept = self._used

    def forget(self, episode: int) -> int:
        """Never sample the transitions of an online episode again; returns how many there were."""
        gone = self._valid & (self._episode == episode)
        self._valid[gone] = False
        count = int(gone.sum())
        self._count -= count
        return count

    def praise(self, episode: int) -> None:
        """An online episode ended in success: what was done in it becomes worth imitating, part by part.

        A person's action counts 1 and an agent's own `own_worth`; 0 what the agent did alone before the last time that
        somebody had to help, as for all of an episode that is not praised.
        """
        slots = np.flatnonzero(self._valid & (self._episode == episode))
        slots = slots[np.argsort((slots - self._head - 1) % self.capacity)]  # oldest first
        origin = self._origin[slots]
        alone = origin == Origin.POLICY
        last_help = np.flatnonzero(~alone)[-1:]
        good = ~alone | (np.arange(len(slots)) > (last_help if len(last_help) else -1))
        for part, shown in enumerate((_ARM_SHOWN, _HAND_SHOWN)):
            self._worth[slots, part] = np.where(np.isin(origin, shown), 1.0, self._own_worth * good)

    def _advance(self) -> None:
        """Move the head to a free slot, dropping the oldest transition where the ring is full."""
        if self._used < self.capacity:
            self._head = self._used
            self._used += 1
        else:
            self._head = int(self._after(self._head))
        if self._valid[self._head]:
            self._valid[self._head] = False
            self._count -= 1

    def _after(self, slots: np.ndarray | int) -> np.ndarray:
        """The slots behind these."""
        return np.where(np.equal(slots, self.capacity - 1), self._kept, np.add(slots, 1))

    def _write(self, features: np.ndarray, parts: tuple[np.ndarray, ...]) -> None:
        self._features[self._head] = features
        np.concatenate(parts, out=self._proprioception[self._head])

    def slots(self, count: int, random: np.random.Generator, worthy: bool = False) -> np.ndarray:
        """Slots of `count` transitions, uniform with replacement; `worthy`: of those worth imitating."""
        if count and not self._count:
            raise ValueError('the replay buffer is empty')
        found = np.empty(0, np.int64)
        for _ in range(_DRAWS):
            if len(found) >= count:
                return found[:count]
            drawn = random.integers(0, self._used, count + 32)
            wanted = self._valid[drawn] & (self._worth[drawn] > 0).any(1) if worthy else self._valid[drawn]
            found = np.concatenate((found, drawn[wanted]))
        raise ValueError('hardly anything in the replay buffer can be sampled')

    def gather(self, slots: np.ndarray, into: '_Columns', rows: slice, returns: Returns) -> None:
        """Copy the transitions that start at `slots`, with the returns of the following ticks, to rows of a batch.

        The returns of what an agent did end where a person takes over: what the person achieved is not its merit.
        """
        outcome = into.outcome[rows]
        np.take(self._worth, slots, axis=0, out=into.worth[rows], mode='clip')
        np.take(self._outcome, slots, axis=0, out=outcome, mode='clip')  # clip: writes straight to out
        following = self._after(slots)
        alone = self._origin[slots] == Origin.POLICY
        for _ in range(returns.ticks - 1):
            # behind the last transition of an episode lies its last observation, which starts none
            taken_over = alone & (self._origin[following] != Origin.POLICY)
            goes_on = self._valid[following] & (outcome[:, -1] > 0) & ~taken_over
            reward, mask = self._outcome[following, ACTION_DIM:].T
            outcome[:, -2] += np.where(goes_on, outcome[:, -1] * returns.discount * reward, 0)
            outcome[:, -1] *= np.where(goes_on, returns.discount * mask, 1)
            following = np.where(goes_on, self._after(following), following)
        for source, index, target in (
            (self._features, slots, into.features),
            (self._features, following, into.next_features),
            (self._proprioception, slots, into.proprioception),
            (self._proprioception, following, into.next_proprioception),
        ):
            np.take(source, index, axis=0, out=target[rows], mode='clip')


class _Columns:
    """The arrays of a batch before they become tensors."""

    def __init__(self, size: int, dimensions: Dimensions):
        self.features = np.empty((size, dimensions.features), np.float16)
        self.next_features = np.empty_like(self.features)
        self.proprioception = np.empty((size, dimensions.proprioception), np.float32)
        self.next_proprioception = np.empty_like(self.proprioception)
        self.outcome = np.empty((size, ACTION_DIM + 2), np.float32)
        self.worth = np.empty((size, 2), np.float32)

    def batch(self, dimensions: Dimensions, online: int, device: torch.device) -> Batch:
        arrays = self.features, self.next_features, self.proprioception, self.next_proprioception, self.outcome
        features, following, proprioception, next_proprioception, outcome = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        return Batch(
            features=features.float(),
            proprioception=proprioception,
            next_features=following.float(),
            next_proprioception=next_proprioception,
            action=outcome[:, :ACTION_DIM],
            reward=outcome[:, ACTION_DIM],
            mask=outcome[:, ACTION_DIM + 1],
            dimensions=dimensions,
            online=online,
            worth=torch.from_numpy(self.worth).to(device),
        )


class MixedSampler:
    """Minibatches with a fixed share of online transitions, each source drawn for itself (RLPD)."""

    def __init__(
        self,
        online: ReplayBuffer,
        demonstrations: ReplayBuffer,
        online_share: float = 0.5,
        returns: Returns = Returns(),  # noqa: B008  (frozen)
        device: torch.device = CPU,
    ):
        if online.dimensions != demonstrations.dimensions:
            raise ValueError('online transitions and demonstrations differ in their dimensions')
        self.online = online
        self.demonstrations = demonstrations
        self.online_share = online_share
        self.returns = returns
        self.device = device

    def sample(self, size: int, random: np.random.Generator) -> Batch:
        """A minibatch, online transitions first; of people only what led to a success, the rest is online anyway."""
        online = round(size * self.online_share)
        columns = _Columns(size, self.online.dimensions)
        self.online.gather(self.online.slots(online, random), columns, slice(0, online), self.returns)
        demonstrations = self.demonstrations
        slots = demonstrations.slots(size - online, random, worthy=True)
        demonstrations.gather(slots, columns, slice(online, size), self.returns)
        return columns.batch(self.online.dimensions, online, self.device)
