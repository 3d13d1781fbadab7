"""Residual vector quantisation of single hand targets, after DQ-RISE (arXiv 2509.17450).

Two quantisers of four codes give 16 joint codes. They are sorted along the first principal component
of the hand targets they decode to, so that one number in [-1, 1] can address them: the *relaxed index*,
which a policy regresses and which is rounded when it is executed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dex_rl_nodes.learning.flat import FlatParameters
from dex_rl_nodes.learning.interfaces.base import ActionInterface, HandWindows
from dex_rl_nodes.learning.interfaces.latent_prior import mlp
from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.schedule import Progress, no_progress

_LEVELS = 2


class Quantiser(nn.Module):
    """One codebook with running means, k-means start and replacement of dead codes."""

    def __init__(self, codes: int, dim: int, decay: float, dead_count: float):
        super().__init__()
        self.decay, self.dead_count = decay, dead_count
        self.register_buffer('codes', torch.zeros(codes, dim))
        self.register_buffer('counts', torch.ones(codes))
        self.register_buffer('sums', torch.zeros(codes, dim))

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """k-means++ and ten rounds of k-means on a batch."""
        chosen = [vectors[torch.randint(len(vectors), (1,), generator=generator)]]
        while len(chosen) < len(self.codes):
            distance = torch.cdist(vectors, torch.cat(chosen)).amin(1).square() + 1e-12
            chosen.append(vectors[torch.multinomial(distance, 1, generator=generator)])
        codes = torch.cat(chosen)
        for _ in range(10):
            nearest = torch.cdist(vectors, codes).argmin(1)
            for code in nearest.unique():
                codes[code] = vectors[nearest == code].mean(0)
        nearest = torch.cdist(vectors, codes).argmin(1)
        self.codes.copy_(codes)
        self.counts.copy_(torch.bincount(nearest, minlength=len(codes)).clamp_min(1))
        self.sums.copy_(self.codes * self.counts[:, None])

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest code of every vector."""
        return torch.cdist(vectors, self.codes).argmin(1)

    @torch.no_grad()
    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Move the codes to the running means of their vectors; give dead codes a new place."""
        used = F.one_hot(indices, len(self.codes)).to(vectors.dtype)
        self.counts.mul_(self.decay).add_(used.sum(0), alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(used.T @ vectors, alpha=1 - self.decay)
        self.codes.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        dead = (self.counts < self.dead_count).nonzero().flatten()
        if len(dead):
            fresh = vectors[torch.randint(len(vectors), (len(dead),), generator=generator)]
            self.codes[dead] = fresh
            self.counts[dead] = self.dead_count * 2
            self.sums[dead] = fresh * self.dead_count * 2


class ResidualVq(ActionInterface):
    """The hand coordinate is the relaxed index of one of 16 codes (LAMP Table B.3)."""

    name = 'vq'
    matched_displacement = False
    penalty_weight = 1.0  # DQ-RISE regresses the index itself

    def __init__(self, hand_dim: int, settings: PriorSettings):
        super().__init__(hand_dim, 1, 0)
        self.encoder = mlp(hand_dim, settings.hidden, settings.layers, settings.vq_latent_dim)
        self.decoder = mlp(settings.vq_latent_dim, settings.hidden, settings.layers, hand_dim)
        self.levels = nn.ModuleList(
            Quantiser(settings.vq_codes, settings.vq_latent_dim, settings.vq_decay, settings.vq_dead_count)
            for _ in range(_LEVELS)
        )
        self.register_buffer('table', torch.zeros(settings.vq_codes**_LEVELS, hand_dim))

    def fit(
        self,
        windows: HandWindows,
        settings: PriorSettings,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> None:
        """Train the residual VQ-VAE, then tabulate and sort its codes."""
        target = self.normalise(windows.target)
        parameters = FlatParameters(self.encoder, self.decoder)
        optimiser = torch.optim.Adam([parameters.vector], lr=settings.vq_learning_rate, fused=True)
        for step in range(settings.vq_steps):
            rows = torch.randint(len(target), (settings.batch_size,), generator=generator)
            latent = self.encoder(target[rows])
            quantised = self._quantise(latent, generator, start=step == 0)
            decoded = self.decoder(latent + (quantised - latent).detach())
            loss = F.mse_loss(decoded, target[rows]) + settings.vq_commitment * F.mse_loss(latent, quantised)
            parameters.descend(optimiser, loss, 'the residual VQ-VAE', settings.gradient_clip)
            if step % 200 == 199 or step + 1 == settings.vq_steps:
                progress(step + 1, settings.vq_steps)
        self._tabulate(target)
        context = self.context(windows.history.flatten(1))
        points = self.project_hand(windows.target, context)
        self.fit_residual(self.spread_scale(points, settings), points, context, settings)

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        """The code at the rounded index; the gradient is that of the line between neighbouring codes.

        Beyond the ends it is that of the last piece, so that an index which strays there finds back.
        """
        last = len(self.table) - 1
        position = (hand_core[:, 0] + 1) / 2 * last
        position = position + (position.clamp(0, last) - position).detach()
        below = position.detach().floor().long().clamp(max=last - 1)
        share = (position - below)[:, None]
        between = self.table[below] * (1 - share) + self.table[below + 1] * share
        rounded = self.table[position.detach().round().long()]
        return self.denormalise(between + (rounded - between).detach())

    def project_hand(self, hand: Tensor, context: Tensor) -> Tensor:
        index = torch.cdist(self.normalise(hand), self.table).argmin(1)
        return (2 * index / (len(self.table) - 1) - 1)[:, None]

    def hand_penalty(self, hand_core: Tensor, hand: Tensor, context: Tensor) -> Tensor:
        """Squared error of the relaxed index, what DQ-RISE regresses."""
        return (hand_core - self.project_hand(hand, context)).square().sum(1)

    def _quantise(self, latent: Tensor, generator: torch.Generator, start: bool) -> Tensor:
        """Sum of the nearest codes, level by level; updates the codebooks."""
        rest, total = latent.detach(), torch.zeros_like(latent)
        for level in self.levels:
            if start:
                level.start(rest, generator)
            indices = level.nearest(rest)
            chosen = level.codes[indices]
            total, rest_before, rest = total + chosen, rest, rest - chosen
            level.update(rest_before, indices, generator)
        return total

    def perplexity(self, hand: Tensor) -> float:
        """How many of the codes hand targets (N, D) use: the exponential of the entropy of their shares."""
        used = torch.cdist(self.normalise(hand), self.table).argmin(1)
        share = torch.bincount(used, minlength=len(self.table)) / len(used)
        return float(torch.special.entr(share).sum().exp())

    @torch.no_grad()
    def _tabulate(self, target: Tensor) -> None:
        """Decode every joint code and sort by the first principal component of the targets."""
        first, second = self.levels[0].codes, self.levels[1].codes
        poses = self.decoder((first[:, None] + second[None]).flatten(0, 1))
        direction = torch.linalg.svd(target - target.mean(0), full_matrices=False).Vh[0]
        direction = direction * torch.sign(direction.sum())  # towards closed
        self.table.copy_(poses[(poses @ direction).argsort()])
