"""Weights on disk and on the wire: safetensors for the numbers, JSON for what they are.

A checkpoint is two files, `x.safetensors` and `x.json`. The JSON is written last and holds the SHA-256
of the weights, so a checkpoint without JSON is one whose writing was interrupted.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.run_directory import read_json, write_atomic, write_json

Shapes = Mapping[str, tuple[int, ...]]
POLICY_PREFIX = 'policy.'  # in the checkpoints of the learner: what the residual actor needs


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what is known about them."""

    tensors: dict[str, Tensor]
    meta: dict


def to_bytes(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Weights as a safetensors file in memory, and its SHA-256 (hexadecimal)."""
    # clone: safetensors refuses tensors that are views of one another
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(own)
    return data, hashlib.sha256(data).hexdigest()


def from_bytes(
    data: bytes, sha256: str | None = None, shapes: Shapes | None = None, name: str = 'these weights'
) -> dict[str, Tensor]:
    """Weights from a safetensors file in memory.

    Args:
        data: the file.
        sha256: expected checksum; None: not checked.
        shapes: expected name and shape of every tensor; None: not checked.
        name: what to call the weights in an error.

    Raises:
        UserError: wrong checksum, other shapes, or damaged.
    """
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f'{name}: the checksum does not match, so the weights are damaged or mixed up; make them again')
    try:
        tensors = safetensors.torch.load(bytes(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f'{name}: not a whole safetensors file ({error}); make it again') from None
    if shapes is not None:
        check_shapes(tensors, shapes, name)
    return tensors


def check_shapes(tensors: Mapping[str, Tensor], shapes: Shapes, name: str) -> None:
    """UserError naming the first tensor that is not as expected."""
    if missing := sorted(set(shapes) - set(tensors)):
        raise UserError(f'{name}: "{missing[0]}" is missing, so it belongs to another network; train it again')
    if unknown := sorted(set(tensors) - set(shapes)):
        raise UserError(f'{name}: "{unknown[0]}" is unknown, so it belongs to another network; train it again')
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != tuple(shape):
            raise UserError(
                f'{name}: "{key}" has shape {tuple(tensors[key].shape)} where {tuple(shape)} is expected, '
                'so it belongs to another network; train it again'
            )


def module_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter and buffer of a module."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: dict) -> str:
    """Write a checkpoint atomically; returns the SHA-256 of the weights.

    Args:
        path: ends in .safetensors; the JSON goes beside it.
        tensors: the weights.
        meta: JSON-serialisable: what was measured, what it was trained from.

    Raises:
        UserError: the files cannot be written, or the weights are not finite.
    """
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f'{path}: "{broken[0]}" would hold numbers that are not finite; look at what it was trained on')
    data, sha256 = to_bytes(tensors)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_atomic(path, data)
    write_json(path.with_suffix('.json'), {**meta, 'sha256': sha256, 'shapes': shapes})
    return sha256


def load_checkpoint(path: Path, shapes: Shapes | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: ends in .safetensors.
        shapes: expected name and shape of every tensor; None: those the JSON promises.

    Raises:
        UserError: missing, damaged, wrong checksum, or other shapes.
    """
    if not path.exists():
        raise UserError(f'there is no {path}; run the stage that makes it')
    meta = read_json(path.with_suffix('.json'))
    if not isinstance(meta, dict) or not isinstance(meta.get('sha256'), str):
        raise UserError(f'{path.with_suffix(".json")} is damaged (no sha256); run the stage that makes it again')
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}') from None
    if shapes is None:
        promised = meta.get('shapes', {})
        if not isinstance(promised, dict):
            raise UserError(f'{path.with_suffix(".json")} is damaged (shapes); run the stage that makes it again')
        shapes = {name: tuple(shape) for name, shape in promised.items()}
    return Checkpoint(from_bytes(data, meta['sha256'], shapes, str(path)), meta)


def load_numbered(path: Path) -> Checkpoint:
    """As `load_checkpoint`, of one that others of the same folder stand beside; the error says how to go on."""
    try:
        return load_checkpoint(path)
    except UserError as error:
        raise UserError(
            f'{str(error).partition(";")[0]}; delete {path.name} and {path.with_suffix(".json").name} in {path.parent} '
            'to go on from the checkpoint before it, or from the recorded transitions where there is none'
        ) from None


def numbered(folder: Path, prefix: str = 'step_') -> list[Path]:
    """Complete checkpoints `<prefix><number>.safetensors` of a folder, oldest first."""
    found = []
    for path in folder.glob(f'{prefix}*.safetensors'):
        match = re.fullmatch(re.escape(prefix) + r'(\d+)', path.stem)
        if match and path.with_suffix('.json').exists():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def keep_newest(folder: Path, count: int = 3, prefix: str = 'step_') -> None:
    """Delete all but the newest `count` numbered checkpoints."""
    for path in numbered(folder, prefix)[:-count]:
        path.with_suffix('.json').unlink(missing_ok=True)
        path.unlink(missing_ok=True)
