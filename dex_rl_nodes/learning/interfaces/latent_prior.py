"""The latent hand-motion prior (LMPM) of LAMP, section 3.1 and appendix B.2."""

import itertools

import torch
from torch import Tensor, nn

from dex_rl_nodes.learning.flat import FlatParameters
from dex_rl_nodes.learning.interfaces.base import ActionInterface, HandWindows
from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.schedule import Progress, low_precision, no_progress, warmup_cosine
from dex_rl_nodes.records import HISTORY_LENGTH

_LOGVAR_LOW, _LOGVAR_HIGH = -8.0, 4.0
_ANCHORS = 512  # latent points from which `project_hand` starts its search
_STARTS = 8
_REFINEMENTS = 40


def mlp(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """Linear-GELU stack with a linear output."""
    widths = [inputs] + [hidden] * layers
    stack = [module for a, b in itertools.pairwise(widths) for module in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*stack, nn.Linear(widths[-1], outputs))


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, per dimension."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def prior_loss(decoded: Tensor, target: Tensor, mean: Tensor, logvar: Tensor, kl_weight: float) -> Tensor:
    """Eq. 3: squared error and KL, each summed over dimensions, averaged over the batch."""
    error = (decoded - target).square().sum(1).mean()
    return error + kl_weight * kl_to_standard_normal(mean, logvar).sum(1).mean()


class LatentPrior(ActionInterface):
    """History-conditioned latent prior and the decoder of its points.

    The hand coordinates are the offset from the prior centre mu (Eq. 5); the context is mu, then sigma.
    Without history (ablation of section 4.3) the same decoder is used, the centre is 0 and there is no context.
    Without bottleneck (same section) the latent has as many dimensions as the hand and no KL term.
    """

    def __init__(self, hand_dim: int, settings: PriorSettings, history: bool = True, bottleneck: bool = True):
        latent_dim = settings.latent_dim if bottleneck else hand_dim
        super().__init__(hand_dim, latent_dim, 2 * latent_dim if history else 0)
        self.name = 'latent_prior' + ('' if bottleneck else '_no_bottleneck') + ('' if history else '_no_history')
        self.history = history
        self.kl_weight = settings.kl_weight if bottleneck else 0.0
        self.encoder = mlp(HISTORY_LENGTH * hand_dim, settings.hidden, settings.layers, 2 * latent_dim)
        self.decoder = mlp(latent_dim, settings.hidden, settings.layers, hand_dim)
        self.register_buffer('anchors', torch.zeros(_ANCHORS, latent_dim))

    def posterior(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | H) for histories (B, HISTORY_LENGTH * D) in units of the training range."""
        mean, logvar = self.encoder(history).float().chunk(2, dim=1)
        return mean, logvar.clamp(_LOGVAR_LOW, _LOGVAR_HIGH)

    def context(self, history: Tensor) -> Tensor:
        if not self.history:
            return super().context(history)
        mean, logvar = self.posterior(self._normalise_history(history))
        return torch.cat([mean, (0.5 * logvar).exp()], dim=1)

    def prior_center(self, context: Tensor) -> Tensor:
        return context[:, : self.hand_core_dim] if self.history else super().prior_center(context)

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        return self.denormalise(self.decoder(self.prior_center(context) + hand_core))

    def project_hand(self, hand: Tensor, context: Tensor) -> Tensor:
        """Nearest decodable target: Levenberg-Marquardt from the prior centre and the best of each anchor group."""
        hand, centre = self.normalise(hand).detach(), self.prior_center(context).detach()
        groups = self.anchors.view(-1, _STARTS, self.hand_core_dim)
        with torch.no_grad():
            distance = torch.cdist(hand, self.decoder(self.anchors)).view(len(hand), -1, _STARTS)
        starts = torch.cat([centre[:, None], groups[distance.argmin(1), torch.arange(_STARTS)]], dim=1)
        count = starts.shape[1]
        points, errors = self._refine(starts.flatten(0, 1), hand.repeat_interleave(count, 0))
        best = errors.view(-1, count).argmin(1)
        return points.view(len(hand), count, -1)[torch.arange(len(hand)), best] - centre

    def hand_penalty(self, hand_core: Tensor, hand: Tensor, context: Tensor) -> Tensor:
        """Squared length of the offset (Eq. 6)."""
        return hand_core.square().sum(1)

    def reconstruct(self, windows: HandWindows) -> Tensor:
        """Prediction from the history alone, at the prior's mean."""
        mean, _ = self.posterior(self._normalise_history(windows.history.flatten(1)))
        return self.denormalise(self.decoder(mean))

    def base_points(self, windows: HandWindows) -> tuple[Tensor, Tensor]:
        mean, _ = self.posterior(self._normalise_history(windows.history.flatten(1)))
        context = self.context(windows.history.flatten(1))
        return mean - self.prior_center(context), context

    def fit(
        self,
        windows: HandWindows,
        settings: PriorSettings,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> None:
        """Train encoder and decoder with Eq. 3 and the settings of Table B.1."""
        history, target = self._normalise_history(windows.history.flatten(1)), self.normalise(windows.target)
        parameters = FlatParameters(self.encoder, self.decoder)
        optimiser = torch.optim.AdamW(
            [parameters.vector], lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for step in range(settings.steps):
            rate = settings.learning_rate * warmup_cosine(step, settings.warmup_steps, settings.steps)
            optimiser.param_groups[0]['lr'] = rate
            rows = torch.randint(len(target), (settings.batch_size,), generator=generator)
            noise = torch.randn((settings.batch_size, history.shape[1]), generator=generator)
            with low_precision():
                mean, logvar = self.posterior(history[rows] + settings.history_noise * noise)
                latent = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
                decoded = self.decoder(latent)
            weight = self.kl_weight * min(1.0, step / settings.kl_warmup_steps)
            loss = prior_loss(decoded.float(), target[rows], mean, logvar, weight)
            parameters.descend(optimiser, loss, 'the prior', settings.gradient_clip)
            if step % 200 == 199 or step + 1 == settings.steps:
                progress(step + 1, settings.steps)
        self._fit_anchors(windows, settings, generator)

    @torch.no_grad()
    def unit_kl(self, windows: HandWindows) -> list[float]:
        """Mean KL of every latent dimension (nats); a dimension above 0.05 carries something."""
        mean, logvar = self.posterior(self._normalise_history(windows.history.flatten(1)))
        return kl_to_standard_normal(mean, logvar).mean(0).tolist()

    @torch.no_grad()
    def _fit_anchors(self, windows: HandWindows, settings: PriorSettings, generator: torch.Generator) -> None:
        points, context = self.base_points(windows)
        mean = points + self.prior_center(context)
        self.fit_residual(self.spread_scale(mean, settings), points, context, settings)
        rows = torch.randint(len(mean), (_ANCHORS,), generator=generator)
        deviation = mean.std(0, correction=int(len(mean) > 1))
        spread = 2 * deviation.clamp_min(0.5) * torch.randn((_ANCHORS, self.hand_core_dim), generator=generator)
        spread[: _ANCHORS // 2] = 0  # half on the demonstrated motion, half around it
        self.anchors.copy_(mean[rows] + spread)

    def _normalise_history(self, history: Tensor) -> Tensor:
        return self.normalise(history.unflatten(1, (-1, self.hand_dim))).flatten(1)

    def _refine(self, points: Tensor, hand: Tensor) -> tuple[Tensor, Tensor]:
        """Damped Gauss-Newton steps on ||D(z) - h||^2; returns points and squared errors."""
        decode = torch.func.vmap(torch.func.jacfwd(lambda z: (self.decoder(z),) * 2, has_aux=True))
        damping = points.new_full((len(points), 1, 1), 1e-3)
        eye = torch.eye(points.shape[1])
        with torch.no_grad():
            jacobian, decoded = decode(points)
            error = (decoded - hand).square().sum(1)
            for _ in range(_REFINEMENTS):
                normal = jacobian.mT @ jacobian + damping * eye
                step = torch.linalg.solve(normal, jacobian.mT @ (hand - decoded)[..., None])[..., 0]
                tried_jacobian, tried = decode(points + step)
                tried_error = (tried - hand).square().sum(1)
                better = tried_error < error
                points = torch.where(better[:, None], points + step, points)
                jacobian = torch.where(better[:, None, None], tried_jacobian, jacobian)
                decoded = torch.where(better[:, None], tried, decoded)
                error = torch.where(better, tried_error, error)
                damping = torch.where(better[:, None, None], damping / 3, damping * 4).clamp(1e-7, 1e4)
        return points, error
