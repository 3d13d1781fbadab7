"""Recorded episodes as arrays: what the offline stages learn from."""

from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.records import HAND_DIM, Outcome

UNCERTAIN_TICKS = 12  # before a success mark, a person may have hesitated: these frames have no label
LATE_TICKS = 10  # before a time limit, nobody may have had the time to mark a success that is there


@dataclass
class Episode:
    """One recorded episode: T executed actions between T + 1 observations.

    Observation t is what was seen before action t; observation T is the last one and has no action.

    Attributes:
        episode: number of the episode in its run and purpose.
        seed: seed of its start state.
        outcome: how it ended.
        images: per view, uint8 (T + 1, size, size, 3) RGB, the task crop.
        state: float32 (T + 1, 12), see PolicyStep.
        hand_history: float32 (T + 1, 48), executed hand targets before each observation, oldest first.
        success: bool (T + 1,), observations that show success: from the operator's mark on, or by the classifier.
        action: float32 (T, 12), executed, see ExecutedAction.
        source: uint8 (T,), records.Source: who moved.
    """

    episode: int
    seed: int
    outcome: Outcome
    images: dict[str, np.ndarray]
    state: np.ndarray
    hand_history: np.ndarray
    success: np.ndarray
    action: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.action)

    @property
    def success_step(self) -> int | None:
        """First observation that shows success; the task ends there, what follows is for the classifier."""
        found = np.flatnonzero(self.success)
        return int(found[0]) if len(found) else None

    @property
    def labelled(self) -> np.ndarray:
        """Which observations (T + 1,) are surely a success or surely none.

        All, but for the moments before the operator's mark, and before a time limit that may have come while the
        operator made sure of a success.
        """
        known = np.ones(len(self) + 1, bool)
        if (marked := self.success_step) is not None:
            known[max(0, marked - UNCERTAIN_TICKS) : marked] = False
        elif self.outcome == Outcome.TIMEOUT:
            known[-LATE_TICKS:] = False
        return known

    @property
    def hand_targets(self) -> np.ndarray:
        """Hand targets (T + 1, 6) in normalised travel: the one at the start, then those executed."""
        return np.concatenate((self.hand_history[:1, -HAND_DIM:], (self.action[:, -HAND_DIM:] + 1) / 2))
