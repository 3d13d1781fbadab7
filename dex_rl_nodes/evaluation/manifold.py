"""How far exploration leaves the demonstrated hand motion (LAMP appendix A)."""

from collections.abc import Callable

import torch
from torch import Tensor

_SAMPLES = 2_000
_BISECTIONS = 40


def nearest_distance(points: Tensor, reference: Tensor) -> Tensor:
    """Distance of every point (N, D) to the nearest reference point (M, D)."""
    return torch.cat([torch.cdist(part, reference).amin(1) for part in points.split(1024)])


@torch.no_grad()
def off_manifold_ratio(
    decode: Callable[[Tensor, Tensor], Tensor],
    points: Tensor,
    context: Tensor,
    demonstrated: Tensor,
    displacement: float = 0.2,
    seed: int = 0,
) -> float:
    """Share of a random step in core space that leads away from demonstrated hand targets: dNN / Disp.

    Every base point is perturbed in random directions; the radius, one for all, is found so that the decoded
    hand moves by `displacement` on average (L2, unit of the targets).

    Args:
        decode: hand coordinates (N, d) and context (N, c) to hand targets (N, D).
        points: hand coordinates of held-out demonstrated targets (n, d).
        context: their contexts (n, c).
        demonstrated: training targets (M, D).

    Returns:
        E[increase of the distance to the nearest demonstrated target] / E[displacement]; nan if no radius
        moves the hand that far.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(max(_SAMPLES, len(points))) % len(points)
    points, context = points[rows], context[rows]
    direction = torch.randn(points.shape, generator=generator)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
    base = decode(points, context)

    def moved(radius: float) -> Tensor:
        return decode(points + radius * direction, context)

    low, high = 0.0, 1.0
    while float((moved(high) - base).norm(dim=1).mean()) < displacement:
        high *= 2
        if high > 1e4:
            return float('nan')
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_short = float((moved(middle) - base).norm(dim=1).mean()) < displacement
        low, high = (middle, high) if too_short else (low, middle)
    perturbed = moved(high)
    increase = nearest_distance(perturbed, demonstrated) - nearest_distance(base, demonstrated)
    return float(increase.mean() / (perturbed - base).norm(dim=1).mean())
