"""Raw joint targets: no compression."""

import torch
from torch import Tensor

from dex_rl_nodes.learning.interfaces.base import ActionInterface, HandWindows
from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.schedule import Progress, no_progress


class Raw(ActionInterface):
    """The hand coordinates are the hand command, 2 h - 1 (LAMP Table B.3)."""

    name = 'raw'

    def __init__(self, hand_dim: int, settings: PriorSettings):
        super().__init__(hand_dim, hand_dim, 0)

    def fit(
        self,
        windows: HandWindows,
        settings: PriorSettings,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> None:
        """Nothing to learn but the scale of the residual."""
        context = self.context(windows.history.flatten(1))
        scale = torch.full((self.hand_dim,), settings.raw_residual)
        self.fit_residual(scale, self.project_hand(windows.target, context), context, settings)
        progress(1, 1)

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        return self.denormalise((hand_core + 1) / 2)

    def project_hand(self, hand: Tensor, context: Tensor) -> Tensor:
        return 2 * self.normalise(hand) - 1
