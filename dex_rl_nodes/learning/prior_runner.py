"""The action interface at run time: keeps the hand history, gives the prior, decodes core actions."""

import numpy as np
import torch

from dex_rl_nodes.learning.interfaces import ActionInterface
from dex_rl_nodes.records import (
    ARM_DIM,
    HISTORY_LENGTH,
    ActionCommand,
    CoreAction,
    EpisodeState,
    ExecutedAction,
    HandPrior,
)


class PriorRunner:
    """Used by the node lmpm_decoder and by the in-process loop; batch of one, no gradients."""

    def __init__(self, interface: ActionInterface):
        self.interface = interface.freeze()
        self._history = np.zeros((HISTORY_LENGTH, interface.hand_dim), np.float32)

    def reset(self, episode: EpisodeState) -> HandPrior:
        """Prior of the first tick: the history is filled with the start target."""
        self._history[:] = np.asarray(episode.hand_target, np.float32)
        return self._prior(episode.stamp, episode.episode, 0)

    def executed(self, action: ExecutedAction) -> HandPrior:
        """Prior of the tick after an executed action, whose hand target enters the history."""
        self._history = np.roll(self._history, -1, axis=0)
        self._history[-1] = np.asarray(action.hand_target, np.float32)
        return self._prior(action.stamp, action.episode, action.step + 1)

    def decode(self, core: CoreAction) -> ActionCommand:
        """Command of a core action, limited to what arm and hand can do; uses the context that came with it."""
        with torch.inference_mode():
            action = self.interface.decode(
                torch.from_numpy(np.array(core.core, np.float32))[None],
                torch.from_numpy(np.array(core.context, np.float32))[None],
                clip=True,
            )[0].numpy()
        hand = ((action[ARM_DIM:] + 1) / 2).astype(np.float32)
        return ActionCommand(core.stamp, core.episode, core.step, action[:ARM_DIM].astype(np.float32), hand)

    def _prior(self, stamp: int, episode: int, step: int) -> HandPrior:
        history = self._history.reshape(-1).copy()
        with torch.inference_mode():
            context = self.interface.context(torch.from_numpy(history)[None])[0].numpy()
        return HandPrior(stamp, episode, step, history, context)
