"""The two residual networks of LAMP: torchvision's ResNet-18 and SERL's ResNet-10.

Module names are torchvision's, so its state dict loads as it is.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512)
Norm = Callable[[int], nn.Module]


class _Pad(nn.Module):
    """What TensorFlow and JAX call SAME for a 3x3 window of stride 2 on an even size: nothing before, one after."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1), value=self.value)


def _conv3(inputs: int, outputs: int, stride: int, asymmetric: bool) -> nn.Conv2d:
    padding = 0 if asymmetric and stride == 2 else 1
    return nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected when the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, asymmetric: bool):
        super().__init__()
        self.pad = _Pad() if asymmetric and stride == 2 else nn.Identity()
        self.conv1 = _conv3(inputs, outputs, stride, asymmetric)
        self.bn1 = norm(outputs)
        self.conv2 = _conv3(outputs, outputs, 1, asymmetric)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(self.pad(x))))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet(nn.Module):
    """Convolutional part of a ResNet of basic blocks: images (B, 3, S, S) to maps (B, 512, S / 32, S / 32)."""

    def __init__(self, blocks: tuple[int, int, int, int], norm: Norm, asymmetric: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        if asymmetric:
            self.maxpool = nn.Sequential(_Pad(float('-inf')), nn.MaxPool2d(3, 2))
        else:
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, (count, width) in enumerate(zip(blocks, _WIDTHS, strict=True)):
            layer = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(BasicBlock(inputs, width, stride, norm, asymmetric))
                inputs = width
            setattr(self, f'layer{stage + 1}', nn.Sequential(*layer))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def resnet18() -> ResNet:
    """ResNet-18 with batch normalisation, as trained by torchvision (IMAGENET1K_V1)."""
    return ResNet((2, 2, 2, 2), nn.BatchNorm2d, asymmetric=False)


def resnet10() -> ResNet:
    """ResNet-10 with group normalisation (4 groups), as trained by SERL; padding as in JAX."""
    return ResNet((1, 1, 1, 1), lambda width: nn.GroupNorm(4, width, eps=1e-5), asymmetric=True)
