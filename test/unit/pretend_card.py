"""A graphics card that is not there: tensors "on cuda" live in memory, and what a card would refuse is refused.

It cannot say what a kernel computes or how fast. It does find a tensor that was left behind on the processor, and
that is what goes wrong first where nobody has a card.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CARD = torch.device('cuda')


class _Memory:
    """Which storages are on the card. They are kept alive, for the address of one that is freed is used again."""

    def __init__(self):
        self._storages = {}
        self.either = {}  # zeros that the backward pass makes of the shape alone: on a card they would be there

    @staticmethod
    def _address(tensor):
        return tensor.untyped_storage()._cdata

    def has(self, tensor) -> bool:
        """Whether it is on the card."""
        return self._address(tensor) in self._storages

    def counts(self, tensor) -> bool:
        """Whether it matters where it is; a single number may be on the processor."""
        return self.has(tensor) or (tensor.dim() > 0 and self._address(tensor) not in self.either)

    def make(self, tensor):
        """It was made in the backward pass of nothing."""
        self.either[self._address(tensor)] = tensor.untyped_storage()

    def take(self, tensor):
        """It is on the card from now on."""
        self._storages[self._address(tensor)] = tensor.untyped_storage()
        return tensor

    def release(self, tensor):
        """It is not."""
        self._storages.pop(self._address(tensor), None)
        return tensor


class _Mixing(TorchDispatchMode):
    """Refuses operations on tensors of both places, and puts results where the operands are."""

    def __init__(self, memory):
        super().__init__()
        self._memory = memory
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {self._memory.has(tensor) for tensor in tensors if self._memory.counts(tensor)}
        name = func._schema.name
        if name.startswith('aten::index') and args[0] is not None and self._memory.has(args[0]):
            places.discard(False)  # a card reads indices from either place
        if len(places) > 1 and name != 'aten::copy_':
            raise RuntimeError(f'{name}: expected all tensors to be on the same device, found cuda and cpu')
        result = func(*args, **kwargs)
        if True in places and name != 'aten::copy_':
            self.operations += 1
            tree_map_only(torch.Tensor, self._memory.take, result)
        elif not tensors and torch._C._current_graph_task_id() >= 0:
            tree_map_only(torch.Tensor, self._memory.make, result)
        return result


class PretendCard(TorchFunctionMode):
    """While this is entered, `tensor.to('cuda')` works."""

    def __init__(self):
        super().__init__()
        self._memory = _Memory()
        self._mixing = _Mixing(self._memory)

    @property
    def operations(self) -> int:
        """How many operations had an operand on the card."""
        return self._mixing.operations

    def __enter__(self):
        self._mixing.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._mixing.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__ and self._memory.has(args[0]):
            return CARD
        if func is torch.Tensor.numpy and self._memory.has(args[0]):
            raise TypeError("can't convert cuda device type tensor to numpy; use Tensor.cpu()")
        if func is torch.Tensor.cpu:
            return self._move(args[0], torch.device('cpu'))
        if func is torch.Tensor.to:
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args[1:], **kwargs)
            options = {'memory_format': memory_format} if memory_format else {}
            moved = args[0].to(dtype=dtype or args[0].dtype, **options)
            return self._move(moved, device) if device else moved
        if kwargs.get('device') is not None and torch.device(kwargs['device']).type == 'cuda':
            return self._memory.take(func(*args, **{**kwargs, 'device': 'cpu'}))
        return func(*args, **kwargs)

    def _move(self, tensor, device):
        if (device.type == 'cuda') == self._memory.has(tensor):
            return tensor
        moved = tensor.clone(memory_format=torch.preserve_format)
        return self._memory.take(moved) if device.type == 'cuda' else self._memory.release(moved)
