"""Linear compression of the hand targets."""

import torch
from torch import Tensor

from dex_rl_nodes.learning.interfaces.base import ActionInterface, HandWindows
from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.schedule import Progress, no_progress

_MIN_STD = 1e-3


class Pca(ActionInterface):
    """The hand coordinates are whitened principal components of the training targets (LAMP Table B.3)."""

    name = 'pca'

    def __init__(self, hand_dim: int, settings: PriorSettings):
        components = min(settings.latent_dim, hand_dim)
        super().__init__(hand_dim, components, 0)
        self.register_buffer('mean', torch.zeros(hand_dim))
        self.register_buffer('directions', torch.eye(hand_dim)[:components].clone())
        self.register_buffer('std', torch.ones(components))

    def fit(
        self,
        windows: HandWindows,
        settings: PriorSettings,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> None:
        """Principal components of the training targets."""
        targets = self.normalise(windows.target).double()
        mean = targets.mean(0)
        _, singular, directions = torch.linalg.svd(targets - mean, full_matrices=True)
        std = torch.zeros(self.hand_core_dim, dtype=torch.float64)
        std[: len(singular)] = singular[: self.hand_core_dim] / len(targets) ** 0.5
        self.mean.copy_(mean)
        self.directions.copy_(directions[: self.hand_core_dim])
        self.std.copy_(std.clamp_min(_MIN_STD))
        context = self.context(windows.history.flatten(1))
        points = self.project_hand(windows.target, context)
        self.fit_residual(self.spread_scale(points, settings), points, context, settings)
        progress(1, 1)

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        return self.denormalise(self.mean + (hand_core * self.std) @ self.directions)

    def project_hand(self, hand: Tensor, context: Tensor) -> Tensor:
        return (self.normalise(hand) - self.mean) @ self.directions.T / self.std
