"""From camera images to what the networks see: task crop, scaling, augmentation."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

VIEWS = ('front', 'wrist')
IMAGE_SIZE = 128  # px; side of the processed views of policy and classifier
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def crop_view(image: np.ndarray, crop: Sequence[float], size: int = IMAGE_SIZE) -> np.ndarray:
    """Task crop of a camera image, scaled to a square.

    Args:
        image: uint8 (height, width, 3) RGB.
        crop: top, left, bottom, right as fractions of the image.
        size: side of the result (px).

    Returns:
        uint8 (size, size, 3), contiguous.
    """
    height, width = image.shape[:2]
    top, bottom = round(crop[0] * height), round(crop[2] * height)
    left, right = round(crop[1] * width), round(crop[3] * width)
    view = image[top:bottom, left:right]
    if view.shape[:2] != (size, size):
        shrinks = min(view.shape[:2]) > size
        view = cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(view)


def to_tensor(images: np.ndarray | Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) as float32 (B, 3, H, W), normalised with the statistics of ImageNet."""
    batch = torch.as_tensor(images).permute(0, 3, 1, 2).float()
    mean = torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1) * 255
    std = torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1) * 255
    return (batch - mean) / std


def random_shift(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Every image (B, H, W, 3) moved by up to `pad` pixels in x and y; the border is repeated."""
    batch, height, width, _ = images.shape
    offset = torch.randint(-pad, pad + 1, (batch, 2), generator=generator)
    rows = (torch.arange(height) + offset[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width) + offset[:, 1:]).clamp(0, width - 1)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def colour_jitter(batch: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random brightness and tint of normalised images (B, 3, H, W): a gain and an offset per colour channel."""
    shape = (len(batch), 3, 1, 1)
    common = torch.randn((len(batch), 1, 1, 1), generator=generator)
    gain = 1 + strength * (common + 0.3 * torch.randn(shape, generator=generator))
    offset = strength * (torch.randn((len(batch), 1, 1, 1), generator=generator)
                         + 0.3 * torch.randn(shape, generator=generator))
    return batch * gain + offset


def resize(batch: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) scaled to a square with antialiasing; unchanged when they have that size."""
    if batch.shape[-2:] == (size, size):
        return batch
    return F.interpolate(batch, (size, size), mode='bilinear', antialias=True, align_corners=False)


def stack_views(images: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Images per view in the fixed order front, wrist."""
    return [images[view] for view in VIEWS]
