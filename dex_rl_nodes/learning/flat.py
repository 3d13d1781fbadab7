"""Parameters of small networks as one vector: their book-keeping costs as much as their matrix products."""

import torch
from torch import Tensor, nn

from dex_rl_nodes.errors import UserError


class FlatParameters:
    """All parameters of some modules as one vector, so that optimiser, clipping and averaging are one operation each.

    Args:
        modules: their parameters become views of `vector`, and their gradients views of its gradient; `zero_grad` of
            a module would cut that tie.
        trained: False: nothing here gets a gradient.
    """

    def __init__(self, *modules: nn.Module, trained: bool = True):
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]), trained)
        self.vector.grad = torch.zeros_like(self.vector) if trained else None
        at = 0
        for parameter in self.parameters:
            part = slice(at, at + parameter.numel())
            parameter.data = self.vector.data[part].view_as(parameter)
            parameter.requires_grad_(trained)
            parameter.grad = self.vector.grad[part].view_as(parameter) if trained else None
            at = part.stop

    def backward(self, loss: Tensor, clip: float | None = None) -> bool:
        """Set the gradient to that of `loss`, shortened to the norm `clip`; False where it is not finite."""
        gradient = self.vector.grad.zero_()
        loss.backward()
        norm = float(gradient.norm())
        if clip is not None and norm > clip:
            gradient.mul_(clip / norm)
        return norm < float('inf')

    def descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, what: str, clip: float | None = None) -> None:
        """One step of supervised training of `what`, as `backward` and `optimiser` do it.

        Raises:
            UserError: the gradient is not finite, so the step would spoil the weights of `what`.
        """
        if not self.backward(loss, clip):
            raise UserError(
                f'the training of {what} has diverged: its gradient is not finite; lower its learning_rate in the '
                'method file, or look for numbers far out of range in the demonstrations'
            )
        optimiser.step()

    def require_gradients(self, on: bool) -> None:
        """Whether the parameters get gradients from now on."""
        for parameter in self.parameters:
            parameter.requires_grad_(on)
