"""Networks of the residual agent: actor and critic ensemble over frozen visual features (Table B.2).

Every hidden layer is Linear, LayerNorm, tanh: few and large operations, because at batch 256 the others cost as much as
the matrix products. Those run in bfloat16 where the processor multiplies it natively; everything else stays float32.
"""

import math

import torch
from torch import Tensor, nn

from dex_rl_nodes.records import ACTION_DIM, ARM_DIM, HAND_DIM

LOG_STD_RANGE = (-5.0, 2.0)
_ARM_FLOOR, _HAND_FLOOR = 0.1, 0.02  # smallest spread of an arm command, and of a step of the hand (normalised travel)


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _tanh(x: Tensor) -> Tensor:
    """tanh by way of the sigmoid, for which PyTorch has a kernel of its own.

    Its tanh is that of MKL, which takes longer than the matrix product before it where the processor is not Intel's.
    """
    return x.tanh() if x.is_cuda else torch.sigmoid(2 * x) * 2 - 1


class Hidden(nn.Module):
    """One hidden layer: Linear, LayerNorm, tanh.

    Args:
        inputs, width: lengths.
        low: matrix products in bfloat16.
    """

    def __init__(self, inputs: int, width: int, low: bool = False):
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.low = low

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """(B, inputs) -> (B, width); `extra` is appended to the inputs."""
        weight, bias = self.linear.weight, self.linear.bias
        if extra is not None and extra.requires_grad:  # often the only gradient that is wanted, and a short product
            weight, bias = weight[:, : x.shape[1]], self._affine(extra, weight[:, x.shape[1] :], bias)
        elif extra is not None:
            x = torch.cat((x, extra), 1)
        return _tanh(self.norm(self._affine(x, weight, bias)))

    def _affine(self, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.low:
            return nn.functional.linear(inputs.bfloat16(), weight.bfloat16()) + bias  # float32 again
        return torch.addmm(bias, inputs, weight.t())


class Standardiser(nn.Module):
    """Scales observations by mean and spread over the demonstrations, which never change afterwards."""

    def __init__(self, features: int, proprioception: int):
        super().__init__()
        for name, length in (('features', features), ('proprioception', proprioception)):
            self.register_buffer(f'{name}_mean', torch.zeros(length))
            self.register_buffer(f'{name}_scale', torch.ones(length))

    def fit(self, name: str, rows: Tensor, floor: float) -> None:
        """Take mean and standard deviation from rows (N, D); a spread below `floor` counts as `floor`."""
        getattr(self, f'{name}_mean').copy_(rows.mean(0))
        getattr(self, f'{name}_scale').copy_(rows.std(0, correction=0).clamp(min=floor))

    def features(self, rows: Tensor) -> Tensor:
        return ((rows - self.features_mean) / self.features_scale).clamp_(-10, 10)

    def proprioception(self, rows: Tensor) -> Tensor:
        return ((rows - self.proprioception_mean) / self.proprioception_scale).clamp_(-10, 10)


class Motion(nn.Module):
    """Executed actions as the critic reads them: the arm's command, and the hand's target as the step from the last.

    Both are scaled by mean and spread over the demonstrations. As targets in [-1, 1] the steps of a closing hand are so
    small that the critic hardly sees them.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer('mean', torch.zeros(ACTION_DIM))
        self.register_buffer('scale', torch.ones(ACTION_DIM))

    def fit(self, action: Tensor, last_hand_target: Tensor) -> None:
        """Take mean and spread from executed actions (N, 12) and the hand targets before them (N, 6)."""
        rows = self._rows(action, last_hand_target)
        floor = torch.tensor([_ARM_FLOOR] * ARM_DIM + [_HAND_FLOOR] * HAND_DIM)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(torch.maximum(rows.std(0, correction=0), floor))

    def forward(self, action: Tensor, last_hand_target: Tensor) -> Tensor:
        """Actions (B, 12) in [-1, 1] and the hand targets before them (B, 6) in normalised travel -> (B, 12)."""
        return (self._rows(action, last_hand_target) - self.mean) / self.scale

    @staticmethod
    def _rows(action: Tensor, last_hand_target: Tensor) -> Tensor:
        step = (action[:, ARM_DIM:] + 1) / 2 - last_hand_target
        return torch.cat((action[:, :ARM_DIM], step), 1)


class ActionValue(nn.Module):
    """One member of the critic: two hidden layers and a value that starts near zero."""

    def __init__(self, inputs: int, width: int, low: bool):
        super().__init__()
        self.first = Hidden(inputs, width, low)
        self.second = Hidden(width, width, low)
        self.head = nn.Linear(width, 1)
        nn.init.uniform_(self.head.weight, -0.03, 0.03)
        nn.init.zeros_(self.head.bias)

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """(B, projection + P), standardised motion (B, action) -> values (B,)."""
        return self.head(self.second(self.first(embedding, action))).squeeze(1)


class Critic(nn.Module):
    """Ensemble of action values Q(s, a) of the executed action, with the feature projection it trains.

    Its members are computed one after another: what one of them works on stays in the processor's cache, which it does
    not when all go in step through batched products.

    Args:
        features, proprioception, action: lengths of the inputs.
        projection: length of the projected visual features.
        width: of the two hidden layers.
        members: size of the ensemble.
        low: matrix products in bfloat16.
    """

    def __init__(
        self, features: int, proprioception: int, action: int, projection: int, width: int, members: int, low: bool
    ):
        super().__init__()
        self.project = Hidden(features, projection, low)
        inputs = projection + proprioception + action
        self.members = nn.ModuleList([ActionValue(inputs, width, low) for _ in range(members)])

    def embed(self, features: Tensor, proprioception: Tensor) -> Tensor:
        """Standardised (B, F), (B, P) -> (B, projection + P)."""
        return torch.cat((self.project(features), proprioception), 1)

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """(B, projection + P), standardised motion (B, action) -> values (E, B)."""
        return torch.stack([member(embedding, action) for member in self.members])


class Actor(nn.Module):
    """Tanh-Gaussian over the unit residual, on projected features and proprioception.

    Small initial residual: the last layer is scaled by 0.01, and the spread starts at `initial_std`.
    """

    def __init__(
        self, projection: int, proprioception: int, residual: int, width: int, initial_std: float, low: bool = False
    ):
        super().__init__()
        self.first = Hidden(projection + proprioception, width, low)
        self.second = Hidden(width, width, low)
        self.head = nn.Linear(width, 2 * residual)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()
            self.head.bias[residual:] = math.log(initial_std)

    def forward(self, projected: Tensor, proprioception: Tensor) -> tuple[Tensor, Tensor]:
        """(B, projection), standardised (B, P) -> mean and log standard deviation before tanh, (B, d) each."""
        hidden = self.second(self.first(torch.cat((projected, proprioception), 1)))
        mean, log_std = self.head(hidden).chunk(2, 1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample u = tanh(mean + std * noise) and its log-probability.

    The change of variables is 2 (ln 2 - x - softplus(-2 x)), exact for any x.

    Args:
        mean, log_std, noise: (B, d), noise standard normal.

    Returns:
        u (B, d) in (-1, 1), log-probability (B,).
    """
    x = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    jacobian = 2 * (math.log(2) - x - nn.functional.softplus(-2 * x))
    return x.tanh(), (gaussian - jacobian).sum(1)


class ResidualPolicy(nn.Module):
    """What the robot needs of the agent: standardiser, feature projection, actor, and how far its residual reaches.

    `reach` (d,), in (0, 1], multiplies the scale of the interface: the residual hardly turns an axis that people hardly
    use, which the base policy would not bring back.
    """

    def __init__(self, standardiser: Standardiser, project: Hidden, actor: Actor):
        super().__init__()
        self.register_buffer('reach', torch.ones(actor.head.out_features // 2))
        self.standardiser = standardiser
        self.project = project
        self.actor = actor

    def forward(self, features: Tensor, proprioception: Tensor) -> tuple[Tensor, Tensor]:
        """Raw (B, F), (B, P) -> mean and log standard deviation before tanh, (B, d) each."""
        projected = self.project(self.standardiser.features(features))
        return self.actor(projected, self.standardiser.proprioception(proprioception))
