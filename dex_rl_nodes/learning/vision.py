"""From camera images to what the networks see: task crop, scaling, augmentation."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dex_rl_nodes.config import VIEWS, Model
from dex_rl_nodes.learning.device import CPU

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


def to_tensor(images: np.ndarray | Tensor, device: torch.device = CPU) -> Tensor:
    """uint8 images (B, H, W, 3) as float32 (B, 3, H, W) on a device, normalised with the statistics of ImageNet."""
    mean, std = (torch.tensor(numbers).mul_(255).to(device) for numbers in (_IMAGENET_MEAN, _IMAGENET_STD))
    return torch.as_tensor(images).to(device).float().sub_(mean).mul_(1 / std).permute(0, 3, 1, 2)


class Augmentation(Model):
    """Random changes of an image that do not change what it shows."""

    shift: int = Field(4, ge=0, description='largest shift in x and y (px); the border is repeated')
    jitter: float = Field(
        0.05, ge=0, description='brightness gain and offset (std, relative to full range), tint a third'
    )


def augment(images: np.ndarray, settings: Augmentation, generator: torch.Generator) -> np.ndarray:
    """Changed copies of images uint8 (N, S, S, 3)."""
    count, size = images.shape[:2]
    shift = torch.randint(-settings.shift, settings.shift + 1, (count, 2), generator=generator).numpy()
    common, tint = (torch.randn((count, 2, channels), generator=generator) for channels in (1, 3))
    gain, offset = (settings.jitter * (common + tint / 3)).unbind(1)
    values = torch.arange(256)[None, :, None] * (1 + gain[:, None]) + 255 * offset[:, None]
    tables = values.clamp(0, 255).byte().numpy()
    result = np.empty((count, size, size, 3), np.uint8)
    for index, image in enumerate(images):
        matrix = np.float32([[1, 0, shift[index, 0]], [0, 1, shift[index, 1]]])
        moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        cv2.LUT(moved, tables[index][None], dst=result[index])
    return result


def resize(batch: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) scaled to a square with antialiasing; unchanged when they have that size."""
    if batch.shape[-2:] == (size, size):
        return batch
    return F.interpolate(batch, (size, size), mode='bilinear', antialias=True, align_corners=False)


def stack_views(images: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Images per view in the fixed order front, wrist."""
    return [images[view] for view in VIEWS]
