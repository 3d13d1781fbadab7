"""Demonstrations as the arrays that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from torch import Tensor

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.vision import VIEWS
from dex_rl_nodes.records import ARM_DIM, HAND_DIM

Array = TypeVar('Array', np.ndarray, Tensor)
# of a full command, less than a dead zone lets through; normalised travel, more than a glove held still jitters
_ARM_STILL, _HAND_STILL = 0.02, 0.01


def is_idle(action: Array, last_hand_target: Array) -> Array:
    """Where nothing is done, bool (N,): while a person thinks, waits for something, or is held by the safety filter.

    Whoever imitates that stands still for good: a policy without a clock cannot tell how long it has been waiting.

    Args:
        action: executed actions (N, 12), [-1, 1].
        last_hand_target: target of the hand in the tick before (N, 6), normalised travel.
    """
    step = (action[:, ARM_DIM:] + 1) / 2 - last_hand_target
    return (abs(action[:, :ARM_DIM]) < _ARM_STILL).all(1) & (abs(step) < _HAND_STILL).all(1)


@dataclass(frozen=True)
class Steps:
    """All control ticks of some episodes, one after the other; the last observation of an episode is left out."""

    images: dict[str, np.ndarray]  # per view uint8 (N, S, S, 3)
    state: np.ndarray  # (N, 12)
    hand_history: np.ndarray  # (N, 48)
    action: np.ndarray  # (N, 12)
    episode: np.ndarray  # int (N,), position in the list

    def __len__(self) -> int:
        return len(self.action)

    def moving(self) -> 'Steps':
        """Those in which something is commanded; UserError where there is none."""
        kept = ~is_idle(self.action, self.hand_history[:, -HAND_DIM:])
        if not kept.any():
            raise UserError('nothing is commanded in these demonstrations; record others with collect_demos.launch.py')
        columns = {field.name: getattr(self, field.name)[kept] for field in fields(self) if field.name != 'images'}
        return Steps(images={view: frames[kept] for view, frames in self.images.items()}, **columns)


def stack_steps(episodes: Sequence[Episode], views: Sequence[str] = VIEWS) -> Steps:
    """Concatenate the ticks of episodes, with the images of some views; UserError when there is none."""
    if not episodes:
        raise UserError('there are no demonstrations; run collect_demos.launch.py first')
    lengths = [len(episode.action) for episode in episodes]

    def joined(arrays: list[np.ndarray], dtype: type = np.float32) -> np.ndarray:
        return np.concatenate([np.asarray(array[:count], dtype) for array, count in zip(arrays, lengths, strict=True)])

    return Steps(
        images={view: joined([episode.images[view] for episode in episodes], np.uint8) for view in views},
        state=joined([episode.state for episode in episodes]),
        hand_history=joined([episode.hand_history for episode in episodes]),
        action=joined([episode.action for episode in episodes]),
        episode=np.repeat(np.arange(len(episodes)), lengths),
    )
