"""Frozen visual encoders: two camera views in, one feature vector out.

Features are rounded to half precision where they leave the encoder, so that a cached feature (float16) and a
live one are the same number.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import load_checkpoint, save_checkpoint
from dex_rl_nodes.learning.pretrained import NETWORKS, load_pretrained
from dex_rl_nodes.learning.vision import IMAGE_SIZE, VIEWS, resize, stack_views, to_tensor

_CHUNK = 64  # images encoded at once
_THREADS = 2  # that encode batches side by side
CHANNELS = (32, 64, 64, 32)  # of a DemoEncoder unless it is told others


class VisualEncoder(nn.Module):
    """Base of the encoders. Subclasses say their `name`, `spatial_shape` and how a batch of one view is encoded."""

    name: str
    spatial_shape: tuple[int, int, int]  # channels, height, width of one view's feature map before flattening
    input_size: int = IMAGE_SIZE  # px; images of another size are scaled
    _identity: str | None = None

    @property
    def view_feature_dim(self) -> int:
        """Features of one view."""
        channels, height, width = self.spatial_shape
        return channels * height * width

    @property
    def feature_dim(self) -> int:
        """Features of both views, front then wrist."""
        return len(VIEWS) * self.view_feature_dim

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """`name:hash` of network and weights; stored with everything computed from the features."""
        if self._identity is None:
            digest = hashlib.sha256(f'{self.name} {self.input_size} {self.spatial_shape}'.encode())
            for key, tensor in sorted(self.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._identity = f'{self.name}:{digest.hexdigest()[:12]}'
        return self._identity

    def view_features(self, views: list[Tensor]) -> list[Tensor]:
        """Feature maps flattened to (B, view_feature_dim) of normalised images (B, 3, S, S), one entry per view."""
        raise NotImplementedError

    def encode(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features float32 (feature_dim,) of one observation.

        Args:
            images: uint8 (S, S, 3) per view, the task crop.
        """
        return self._encode([view[None] for view in stack_views(images)])[0].numpy()

    def encode_batch(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features float32 (N, feature_dim) of many observations, uint8 (N, S, S, 3) per view."""
        views = stack_views(images)
        parts = [
            self._encode([view[start : start + _CHUNK] for view in views]) for start in range(0, len(views[0]), _CHUNK)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.feature_dim), np.float32)

    @torch.inference_mode()
    def _encode(self, views: list[np.ndarray]) -> Tensor:
        batches = [resize(to_tensor(view, self.device), self.input_size) for view in views]
        return torch.cat(self.view_features(batches), dim=1).half().cpu().float()

    def freeze(self) -> 'VisualEncoder':
        """Never to be trained again."""
        self.train(False)
        return self.requires_grad_(False).to(memory_format=torch.channels_last)


def encode_batches(encoder: VisualEncoder, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """Features of each batch as `encode_batch` gives them, in order; the next batches are made meanwhile.

    Never more than a few batches are kept, for images are large. Whoever stops waits for a few images at most.
    """
    waiting: deque[list[Future]] = deque()
    pool = ThreadPoolExecutor(_THREADS, 'encoding', torch.set_num_threads, (torch.get_num_threads(),))
    try:
        for images in batches:
            starts = range(0, max(1, len(images[VIEWS[0]])), _CHUNK)
            parts = [{view: frames[start : start + _CHUNK] for view, frames in images.items()} for start in starts]
            waiting.append([pool.submit(encoder.encode_batch, part) for part in parts])
            if len(waiting) > _THREADS:
                yield np.concatenate([part.result() for part in waiting.popleft()])
        while waiting:
            yield np.concatenate([part.result() for part in waiting.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


class ResNetEncoder(VisualEncoder):
    """A pretrained ResNet, the same for both views.

    `resnet18`: 512 globally averaged features per view (Table B.1). `resnet10`: the 512 x 4 x 4 map before
    pooling, for spatial learned embeddings (Table C.1).
    """

    def __init__(self, network: str, input_size: int = IMAGE_SIZE):
        super().__init__()
        self.name, self.input_size = network, input_size
        self.pooled = network == 'resnet18'
        self.spatial_shape = (512, 1, 1) if self.pooled else (512, input_size // 32, input_size // 32)
        self.network = NETWORKS[network]()

    def view_features(self, views: list[Tensor]) -> list[Tensor]:
        maps = self.network(torch.cat(views))  # one pass: both views share the weights
        flat = maps.mean((2, 3)) if self.pooled else maps.flatten(1)
        return list(flat.split(len(views[0])))

    @classmethod
    def pretrained(cls, network: str, path: Path, input_size: int = IMAGE_SIZE) -> 'ResNetEncoder':
        """With weights from a file, frozen; UserError when the file is not what it should be."""
        encoder = cls(network, input_size)
        encoder.network = load_pretrained(network, path)
        return encoder.freeze()


class DemoEncoder(VisualEncoder):
    """A small convolutional network per view, trained on the run's demonstrations (see demo_encoder.py).

    Args:
        channels: of the four convolutions; the last ones are the channels of the feature map.
    """

    name = 'demo'

    def __init__(self, channels: Sequence[int] = CHANNELS):
        super().__init__()
        self.channels = tuple(channels)
        self.spatial_shape = (self.channels[3], 4, 4)
        self.views = nn.ModuleDict({view: self._tower(*self.channels) for view in VIEWS})

    @staticmethod
    def _tower(first: int, second: int, third: int, last: int) -> nn.Sequential:
        """About 14 million multiply-adds per image of 128 x 128; the wide first stride keeps training quick."""
        return nn.Sequential(
            nn.Conv2d(3, first, 8, 4, 2), nn.ReLU(),
            nn.Conv2d(first, second, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(second, third, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(third, last, 3, 2, 1), nn.ReLU(),
        )  # fmt: skip

    def view_features(self, views: list[Tensor]) -> list[Tensor]:
        return [tower(batch).flatten(1) for tower, batch in zip(self.views.values(), views, strict=True)]


def save_encoder(path: Path, encoder: VisualEncoder, meta: dict) -> None:
    """Write an encoder with what is known about it; `path` ends in .safetensors."""
    about = {'encoder': encoder.name, 'identity': encoder.identity, 'input_size': encoder.input_size}
    if isinstance(encoder, DemoEncoder):
        about['channels'] = list(encoder.channels)
    save_checkpoint(path, encoder.state_dict(), {**about, **meta})


def load_encoder(path: Path) -> VisualEncoder:
    """Read an encoder, frozen; UserError when it is missing or damaged."""
    checkpoint = load_checkpoint(path)
    name = checkpoint.meta.get('encoder')
    if name != DemoEncoder.name and name not in NETWORKS:
        raise UserError(f'{path.with_suffix(".json")} names no known encoder ("{name}"); run "train encoder" again')
    try:
        if name == DemoEncoder.name:
            encoder: VisualEncoder = DemoEncoder(checkpoint.meta.get('channels', CHANNELS))
        else:
            encoder = ResNetEncoder(name, int(checkpoint.meta.get('input_size', IMAGE_SIZE)))
        encoder.load_state_dict(checkpoint.tensors)
    except (RuntimeError, TypeError, ValueError, IndexError):
        raise UserError(f'{path} holds another network than its JSON describes; run "train encoder" again') from None
    return encoder.freeze()
