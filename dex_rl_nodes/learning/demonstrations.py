"""Demonstrations as the arrays that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.vision import VIEWS


@dataclass(frozen=True)
class Steps:
    """All control ticks of some episodes, one after the other; the last observation of an episode is left out."""

    images: dict[str, np.ndarray]  # per view uint8 (N, S, S, 3)
    state: np.ndarray  # (N, 12)
    hand_history: np.ndarray  # (N, 48)
    action: np.ndarray  # (N, 12)
    episode: np.ndarray  # int (N,), position in the list
    tick: np.ndarray  # int (N,), within the episode
    length: np.ndarray  # int (N,), ticks of the episode

    def __len__(self) -> int:
        return len(self.action)


def stack_steps(episodes: Sequence[Episode]) -> Steps:
    """Concatenate the ticks of episodes; UserError when there is none."""
    if not episodes:
        raise UserError('there are no demonstrations; run collect_demos.launch.py first')
    lengths = [len(episode.action) for episode in episodes]

    def joined(arrays: list[np.ndarray], dtype: type = np.float32) -> np.ndarray:
        return np.concatenate([np.asarray(array[:count], dtype) for array, count in zip(arrays, lengths, strict=True)])

    return Steps(
        images={view: joined([episode.images[view] for episode in episodes], np.uint8) for view in VIEWS},
        state=joined([episode.state for episode in episodes]),
        hand_history=joined([episode.hand_history for episode in episodes]),
        action=joined([episode.action for episode in episodes]),
        episode=np.repeat(np.arange(len(episodes)), lengths),
        tick=np.concatenate([np.arange(count) for count in lengths]),
        length=np.repeat(lengths, lengths),
    )
