"""Checkpoints survive what happens to files, and say what is wrong with them."""

import json

import pytest
import torch
from torch import nn

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import (
    from_bytes,
    keep_newest,
    load_checkpoint,
    module_shapes,
    numbered,
    save_checkpoint,
    to_bytes,
)
from dex_rl_nodes.run_directory import write_atomic


@pytest.fixture
def saved(tmp_path):
    tensors = {'weight': torch.randn(3, 4), 'step': torch.tensor(7)}
    path = tmp_path / 'policy.safetensors'
    save_checkpoint(path, tensors, {'trained_from': 'abc', 'rmse': 0.5})
    return path, tensors


def test_a_written_file_can_be_read_by_everybody_the_umask_allows(tmp_path):
    write_atomic(tmp_path / 'run.json', b'{}')
    (tmp_path / 'other').touch(0o666)
    assert (tmp_path / 'run.json').stat().st_mode == (tmp_path / 'other').stat().st_mode


def test_round_trip_keeps_numbers_and_meta(saved):
    path, tensors = saved
    checkpoint = load_checkpoint(path, {'weight': (3, 4), 'step': ()})
    assert all(torch.equal(checkpoint.tensors[name], tensors[name]) for name in tensors)
    assert checkpoint.meta['trained_from'] == 'abc'
    assert json.loads(path.with_suffix('.json').read_text())['shapes'] == {'weight': [3, 4], 'step': []}


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty'])
def test_damaged_weights_are_refused(saved, damage):
    path, _ = saved
    data = bytearray(path.read_bytes())
    if damage == 'flip':
        data[-1] ^= 1
    path.write_bytes({'flip': data, 'cut': data[: len(data) // 2], 'empty': b''}[damage])
    with pytest.raises(UserError, match='checksum'):
        load_checkpoint(path)


@pytest.mark.parametrize(
    'shapes, message',
    [
        ({'weight': (3, 5), 'step': ()}, r'"weight" has shape \(3, 4\) where \(3, 5\) is expected'),
        ({'weight': (3, 4), 'step': (), 'bias': (4,)}, '"bias" is missing'),
        ({'weight': (3, 4)}, '"step" is unknown'),
    ],
)
def test_other_networks_are_refused(saved, shapes, message):
    with pytest.raises(UserError, match=message):
        load_checkpoint(saved[0], shapes)


def test_missing_files_are_named(saved, tmp_path):
    with pytest.raises(UserError, match='nothing.safetensors'):
        load_checkpoint(tmp_path / 'nothing.safetensors')
    path, _ = saved
    path.with_suffix('.json').write_text('{}')
    with pytest.raises(UserError, match='sha256'):
        load_checkpoint(path)
    path.with_suffix('.json').write_text('{"sha')
    with pytest.raises(UserError, match='no JSON object'):
        load_checkpoint(path)


def test_bytes_round_trip_and_reject_garbage():
    module = nn.Linear(2, 3)
    data, sha256 = to_bytes(module.state_dict())
    tensors = from_bytes(data, sha256, module_shapes(module))
    assert torch.equal(tensors['weight'], module.weight)
    for garbage in (b'', b'garbage', data[:-1]):
        with pytest.raises(UserError):
            from_bytes(garbage)
    with pytest.raises(UserError, match='checksum'):
        from_bytes(data, '0' * 64)


def test_only_the_newest_complete_checkpoints_are_kept(tmp_path):
    for step in (50, 100, 1000, 200, 999):
        save_checkpoint(tmp_path / f'step_{step}.safetensors', {'x': torch.zeros(1)}, {})
    (tmp_path / 'step_5000.safetensors').write_bytes(b'interrupted: no JSON')
    keep_newest(tmp_path, 3)
    assert [path.stem for path in numbered(tmp_path)] == ['step_200', 'step_999', 'step_1000']
