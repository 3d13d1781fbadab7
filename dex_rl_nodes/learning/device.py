"""Where networks are trained: on an NVIDIA card where PyTorch can use one, else on the processor.

The control loop computes on the processor everywhere: its networks are small, its bounds are met there, and a tick must
not wait for a card that the learner keeps busy. Weights on disk and on the wire are those of the processor too.
"""

import os

import torch

CPU = torch.device('cpu')


def training_device() -> torch.device:
    """The device for training. `CUDA_VISIBLE_DEVICES` chooses among several cards; empty, it hides all of them.

    Results repeat bit for bit on one machine, as on the processor: PyTorch is told to use the kernels that do, which
    changes nothing else in this process.
    """
    if not torch.cuda.is_available():
        return CPU
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when the first product is computed
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return torch.device('cuda')
