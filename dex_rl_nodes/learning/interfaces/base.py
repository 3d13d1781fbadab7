"""What every action interface promises: core action <-> executed action.

A core action is the arm command (6) followed by hand coordinates whose meaning the interface decides
(LAMP Table B.3). Hands may have any number of joints; the robot's has six.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.schedule import Progress, no_progress
from dex_rl_nodes.records import ARM_DIM, HISTORY_LENGTH

MIN_SPAN = 0.1  # of the widest joint: a joint that hardly moves is not blown up to full range


@dataclass(frozen=True)
class HandWindows:
    """Histories and the targets that followed them."""

    history: Tensor  # float32 (N, HISTORY_LENGTH, D), oldest first
    target: Tensor  # float32 (N, D)

    def __len__(self) -> int:
        return len(self.target)


def hand_windows(sequences: list[np.ndarray]) -> HandWindows:
    """All windows (H_t, h_{t+1}) of the sequences; the start is padded with the first target.

    Args:
        sequences: hand targets (T, D) of each episode.
    """
    histories, targets = [], []
    for sequence in sequences:
        sequence = np.asarray(sequence, np.float32)
        if len(sequence) < 2:
            continue
        padded = np.concatenate([np.repeat(sequence[:1], HISTORY_LENGTH - 1, axis=0), sequence])
        view = np.lib.stride_tricks.sliding_window_view(padded, HISTORY_LENGTH, axis=0)
        histories.append(np.moveaxis(view, -1, 1)[:-1])
        targets.append(sequence[1:])
    return HandWindows(
        torch.from_numpy(np.concatenate(histories).copy()), torch.from_numpy(np.concatenate(targets).copy())
    )


class ActionInterface(nn.Module):
    """Base of the interfaces.

    `decode` and `project` work on batches: core (B, core_dim), context (B, context_dim), executed action
    (B, 6 + D) with the hand as 2 h - 1. Decoding is differentiable and clips only when asked to.
    """

    name: str
    matched_displacement = True  # a small step in core space can be made as small as one likes
    penalty_weight: float | None = None  # of `hand_penalty` in policy training; None: lambda_z of Eq. 6

    def __init__(self, hand_dim: int, hand_core_dim: int, context_dim: int):
        super().__init__()
        self.hand_dim = hand_dim
        self.hand_core_dim = hand_core_dim
        self.core_dim = ARM_DIM + hand_core_dim
        self.context_dim = context_dim
        self.register_buffer('low', torch.zeros(hand_dim))
        self.register_buffer('span', torch.ones(hand_dim))
        self.register_buffer('arm_residual', torch.full((ARM_DIM,), 0.2))
        self.register_buffer('hand_residual', torch.ones(hand_core_dim))

    # What an interface implements.

    def fit(
        self,
        windows: HandWindows,
        settings: PriorSettings,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> None:
        """Learn from the training windows (units of the hand)."""
        raise NotImplementedError

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        """Hand target (B, D) in the units of the hand ([0, 1] travel) of hand coordinates (B, hand_core_dim)."""
        raise NotImplementedError

    def project_hand(self, hand: Tensor, context: Tensor) -> Tensor:
        """Hand coordinates whose decoding is nearest to a hand target (B, D)."""
        raise NotImplementedError

    def context(self, history: Tensor) -> Tensor:
        """What the interface derives from the history (B, HISTORY_LENGTH * D): (B, context_dim)."""
        return history.new_zeros(len(history), 0)

    def hand_penalty(self, hand_core: Tensor, hand: Tensor, context: Tensor) -> Tensor:
        """What policy training adds, weighted, to the error of the decoded hand (Eq. 6): (B,)."""
        return hand_core.new_zeros(len(hand_core))

    # What they share.

    @staticmethod
    def spread_scale(points: Tensor, settings: PriorSettings) -> Tensor:
        """Residual scale as a share of the RMS of every coordinate of `points` (N, hand_core_dim)."""
        return settings.hand_residual * points.square().mean(0).sqrt().clamp_min(settings.hand_residual_floor)

    def decode(self, core: Tensor, context: Tensor, clip: bool = False) -> Tensor:
        """Executed action (B, 6 + D) of a core action; `clip` limits it to [-1, 1]."""
        hand = self.decode_hand(core[:, ARM_DIM:], context)
        action = torch.cat([core[:, :ARM_DIM], 2 * hand - 1], dim=1)
        return action.clamp(-1, 1) if clip else action

    def project(self, action: Tensor, context: Tensor) -> Tensor:
        """Core action whose decoding is nearest to an executed action."""
        hand_core = self.project_hand((action[:, ARM_DIM:] + 1) / 2, context)
        return torch.cat([action[:, :ARM_DIM], hand_core], dim=1)

    def residual_scale(self) -> Tensor:
        """Scale of a unit residual for every core dimension (s_arm, s_z of Eq. 8)."""
        return torch.cat([self.arm_residual, self.hand_residual])

    def reconstruct(self, windows: HandWindows) -> Tensor:
        """The interface's best guess of the next target: what the test error is measured on."""
        context = self.context(windows.history.flatten(1))
        return self.decode_hand(self.project_hand(windows.target, context), context)

    def base_points(self, windows: HandWindows) -> tuple[Tensor, Tensor]:
        """Hand coordinates and contexts of demonstrated motion, about which a residual acts."""
        context = self.context(windows.history.flatten(1))
        return self.project_hand(windows.target, context), context

    def fit_scale(self, windows: HandWindows) -> None:
        """Set the unit of every joint to its range in the training windows."""
        both = torch.cat([windows.history.flatten(0, 1), windows.target])
        low, high = both.amin(0), both.amax(0)
        span = (high - low).clamp_min(MIN_SPAN * float((high - low).max().clamp_min(1e-6)))
        self.low.copy_((low + high - span) / 2)
        self.span.copy_(span)

    def normalise(self, hand: Tensor) -> Tensor:
        """Hand (..., D) in units of the training range."""
        return (hand - self.low) / self.span

    def denormalise(self, unit: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        return unit * self.span + self.low

    def fit_residual(self, scale: Tensor, coordinates: Tensor, context: Tensor, settings: PriorSettings) -> None:
        """Set the scale of the residual; that of the hand is capped by the displacement it causes.

        Args:
            scale: wanted scale per hand coordinate.
            coordinates: hand coordinates of the training targets (N, hand_core_dim), as decoded with `context`.
        """
        self.arm_residual.fill_(settings.arm_residual)
        self.hand_residual.copy_(scale)
        moved = self._residual_displacement(coordinates, context)
        if moved > settings.residual_displacement:
            self.hand_residual.mul_(settings.residual_displacement / moved)

    def prior_center(self, context: Tensor) -> Tensor:
        """Hand coordinates of the prior's mean (B, hand_core_dim); zeros without a prior."""
        return context.new_zeros(len(context), self.hand_core_dim)

    def _residual_displacement(self, coordinates: Tensor, context: Tensor) -> float:
        """Mean displacement of the decoded hand by a full residual (unit of the training range, L2)."""
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(coordinates.shape, generator=generator)
        direction = direction / direction.norm(dim=1, keepdim=True) * self.hand_residual
        with torch.no_grad():
            moved = self.decode_hand(coordinates + direction, context) - self.decode_hand(coordinates, context)
        return float((moved / self.span).norm(dim=1).mean())

    @property
    def identity(self) -> str:
        """`name:hash` of everything that decides what the interface does."""
        digest = hashlib.sha256(f'{self.name} {self.hand_dim} {self.hand_core_dim}'.encode())
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f'{self.name}:{digest.hexdigest()[:12]}'

    def freeze(self) -> 'ActionInterface':
        """Never to be trained again."""
        self.eval().zero_grad()
        return self.requires_grad_(False)
