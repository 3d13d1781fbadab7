"""Where networks are trained: on an NVIDIA card where PyTorch can use one, else on the processor.

The control loop computes on the processor everywhere: its networks are small, its bounds are met there, and a tick must
not wait for a card that the learner keeps busy. Weights on disk and on the wire are those of the processor too.
"""

import os
import warnings
from functools import cache

import torch

CPU = torch.device('cpu')


@cache
def training_device() -> torch.device:
    """The device for training; a card that cannot multiply is said once and not used.

    `CUDA_VISIBLE_DEVICES` chooses among several cards; empty, it hides all of them. Results repeat bit for bit on one
    machine, as on the processor: PyTorch is told to use kernels that do, in float32.
    """
    if not torch.cuda.is_available():
        return CPU
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when the first product is computed
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    try:  # PyTorch lists cards for which it has no kernels, and full ones
        torch.ones(8, 8, device='cuda').mm(torch.ones(8, 8, device='cuda')).sum().item()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f'the NVIDIA card cannot be used, so the processor trains: {reason}', stacklevel=2)
        return CPU
    return torch.device('cuda')


def device_name() -> str:
    """What trains, for whoever compares results: `cpu`, or the name of the card."""
    return 'cpu' if training_device() == CPU else torch.cuda.get_device_name()


def take_card(number: int) -> None:
    """Let this process see one card alone, the processes of a machine taking turns; before it uses any."""
    if (count := torch.cuda.device_count()) > 1:
        chosen = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(str(index) for index in range(count))
        os.environ['CUDA_VISIBLE_DEVICES'] = chosen.split(',')[number % count]
