"""Finding and reading pretrained weights without ever executing what a file says."""

import collections
import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.resnet import ResNet, resnet10, resnet18
from dex_rl_nodes.run_directory import file_hash

NETWORKS = {'resnet18': resnet18, 'resnet10': resnet10}
_FILES = {
    'resnet18': ('resnet18-f37072fd.pth', 'resnet18.safetensors'),
    'resnet10': ('resnet10_params.pkl', 'resnet10_pretrained.pt', 'resnet10.safetensors'),
}
_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip
# Files whose content is known: SHA-256 or the beginning of it.
_HASHES = {'resnet10_params.pkl': '175745d43d30233eb01b5369465d1c24c11b8ee71ccb734cc1c1bca13e07f57b'}

_RECONSTRUCT = np.array(0).__reduce__()[0]  # its module has another name in NumPy 1 and 2


def weight_folders() -> list[Path]:
    """Where pretrained files are looked for: $DEXRL_WEIGHTS, torch's cache, SERL's folder."""
    torch_home = os.environ.get('TORCH_HOME', '~/.cache/torch')
    named = [os.environ['DEXRL_WEIGHTS']] if os.environ.get('DEXRL_WEIGHTS') else []
    return [Path(name).expanduser() for name in (*named, f'{torch_home}/hub/checkpoints', '~/.serl')]


def find_pretrained(network: str) -> Path | None:
    """File with the pretrained weights of `resnet18` or `resnet10`, or None."""
    candidates = (folder / name for folder in weight_folders() for name in _FILES[network])
    return next((path for path in candidates if path.is_file()), None)


def load_pretrained(network: str, path: Path) -> ResNet:
    """Convolutional part of a pretrained network.

    Args:
        network: resnet18 | resnet10.
        path: .pth or .pt (state dict), .safetensors, or SERL's .pkl.

    Raises:
        UserError: missing, damaged, of another network, or holding anything but arrays.
    """
    if not path.is_file():
        raise UserError(f'there is no {path}; leave the path empty to use an encoder trained on the demonstrations')
    _check_hash(path)
    tensors = {name: tensor for name, tensor in _read(path).items() if not name.startswith('fc.')}
    model = NETWORKS[network]()
    expected = model.state_dict()
    if unknown := sorted(set(tensors) - set(expected)):
        raise UserError(f'{path} is not a {network}: "{unknown[0]}" is unknown')
    for name in expected:
        if name not in tensors and not name.endswith('num_batches_tracked'):
            raise UserError(f'{path} is not a {network}: "{name}" is missing')
        if name in tensors and tensors[name].shape != expected[name].shape:
            raise UserError(f'{path} is not a {network}: "{name}" has shape {tuple(tensors[name].shape)}')
    model.load_state_dict({name: tensors.get(name, value) for name, value in expected.items()})
    return model


def _check_hash(path: Path) -> None:
    """torchvision puts the beginning of the SHA-256 into the name of the file."""
    in_name = re.search(r'-([0-9a-f]{8,})\.pth$', path.name)
    expected = in_name[1] if in_name else _HASHES.get(path.name)
    if expected and not file_hash(path).startswith(expected):
        raise UserError(f'{path} is damaged (its SHA-256 does not start with {expected[:12]}); download it again')


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        if path.suffix == '.pkl':
            return _from_flax(load_arrays(path.read_bytes()), path)
        content = torch.load(path, map_location='cpu', weights_only=True)
        if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
            raise ValueError('not a state dict')
        return dict(content)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f'cannot read weights from {path} ({" ".join(str(error).split())[:120]})') from None


def _rebuild_jax_array(rebuild: Any, arguments: tuple, state: tuple, _aval: Any) -> np.ndarray:
    """A pickled JAX array is a NumPy array and what JAX adds to it."""
    array = rebuild(*arguments)
    array.__setstate__(state)
    return array


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dicts, tuples, numbers and NumPy arrays; every other name in the file is refused."""

    _ALLOWED = {
        ('collections', 'OrderedDict'): collections.OrderedDict,
        ('flax.core.frozen_dict', 'FrozenDict'): dict,
        ('jax._src.array', '_reconstruct_array'): _rebuild_jax_array,
        ('numpy', 'dtype'): np.dtype,
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy.core.multiarray', '_reconstruct'): _RECONSTRUCT,
        ('numpy._core.multiarray', '_reconstruct'): _RECONSTRUCT,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f'it names {module}.{name}, which is not an array') from None


def load_arrays(data: bytes) -> Any:
    """Nested dict of arrays from a pickle that holds nothing else; pickle.UnpicklingError otherwise."""
    try:
        return _ArrayUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its broken opcodes lead to
        raise pickle.UnpicklingError(f'damaged: {error}') from None


def _from_flax(tree: Any, path: Path) -> dict[str, Tensor]:
    """SERL's parameters under torchvision's names; kernels (h, w, in, out) become (out, in, h, w)."""
    if not isinstance(tree, Mapping):
        raise UserError(f'{path} does not hold the parameters of a network')
    tensors = {'conv1.weight': _kernel(tree['conv_init']), **_norm('bn1', tree['norm_init'])}
    for stage in range(4):
        block, prefix = tree[f'ResNetBlock_{stage}'], f'layer{stage + 1}.0'
        for index in range(2):
            tensors[f'{prefix}.conv{index + 1}.weight'] = _kernel(block[f'Conv_{index}'])
            tensors |= _norm(f'{prefix}.bn{index + 1}', block[f'MyGroupNorm_{index}'])
        if 'conv_proj' in block:
            tensors[f'{prefix}.downsample.0.weight'] = _kernel(block['conv_proj'])
            tensors |= _norm(f'{prefix}.downsample.1', block['norm_proj'])
    return tensors


def _kernel(layer: Mapping) -> Tensor:
    return torch.from_numpy(np.array(layer['kernel'], np.float32).transpose(3, 2, 0, 1).copy())


def _norm(prefix: str, layer: Mapping) -> dict[str, Tensor]:
    flat = {name: torch.from_numpy(np.array(layer[key], np.float32).reshape(-1)) for name, key in
            (('weight', 'scale'), ('bias', 'bias'))}  # fmt: skip
    return {f'{prefix}.{name}': tensor for name, tensor in flat.items()}
