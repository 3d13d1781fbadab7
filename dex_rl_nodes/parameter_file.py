"""A YAML file of node parameters that a person wrote: checked before anything starts.

ROS passes over a node or parameter that it does not know, so a misspelt one would change nothing without a word.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import COMMON, Parameter
from dex_rl_nodes.process import PACKAGE, Process

_KEY = 'ros__parameters'
_OF_GRAPH = [parameter.name for parameter in COMMON]
_OF_ROS = ('use_sim_time', 'start_type_description_service')  # every node has them
_PARTS = {'*': r'/\w+', '**': r'(/\w+)*'}  # as ROS reads them: one part of a name, any number of them


def check(path: Path, namespace: str, processes: Iterable[Process]) -> None:
    """Whether a file says what its writer meant.

    Args:
        path: the file.
        namespace: that of the graph.
        processes: those of the robot; the parameters of nodes of other packages are not known here.

    Raises:
        UserError: it is no file of parameters, or the first node, parameter or value in it that cannot be.
    """
    ours = {_full_name(namespace, name): name for name in NODES}
    foreign = (process for process in processes if process.is_node and process.package != PACKAGE)
    others = [_full_name(process.namespace, process.name) for process in foreign]
    for key, values in _sections(path, _read(path)):
        pattern = re.compile(''.join(_PARTS.get(part, re.escape(f'/{part}')) for part in key.split('/')[1:]))
        if nodes := [name for full, name in ours.items() if pattern.fullmatch(full)]:
            _check_values(f'{path}: {key}', nodes, values)
        elif not any(pattern.fullmatch(full) for full in others):
            raise UserError(f'{path}: there is no node {key or "(no name)"}; there are: {", ".join([*ours, *others])}')


def _full_name(namespace: str, name: str) -> str:
    return '/'.join(('', *(part for part in (namespace, name) if part)))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f'the parameter file {path} does not exist') from None
    except OSError as error:
        raise UserError(f'cannot read the parameter file {path}: {error.strerror}') from None
    except yaml.YAMLError as error:
        raise UserError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from None


def _sections(path: Path, content: Any, key: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Full names or patterns of nodes, each with its parameters."""
    if not isinstance(content, dict) or not content:
        where = f': {key}' if key else ''
        raise UserError(f'{path}{where} has no parameters; write NODE: {{{_KEY}: {{NAME: VALUE}}}}')
    for part, below in content.items():
        if part == _KEY and isinstance(below, dict):
            yield key, below
        else:
            yield from _sections(path, below, f'{key}/{str(part).strip("/")}')


def _check_values(where: str, nodes: list[str], values: dict[str, Any]) -> None:
    declared = [parameter for node in nodes for parameter in NODES[node].parameters]
    known = dict.fromkeys(parameter.name for parameter in declared)
    for name, value in values.items():
        if name in _OF_ROS:
            continue
        if name in _OF_GRAPH:  # nodes of one graph that disagree about their run or task would learn nonsense
            raise UserError(f'{where}: {name} is the same in all nodes; leave it out, and start with {name}:={value}')
        if name not in known:
            there = f'it has: {", ".join(known)}' if len(nodes) == 1 else 'the README lists those of every node'
            raise UserError(f'{where} has no parameter "{name}"; {there}')
        for parameter in declared:
            if parameter.name == name and (refusal := _refusal(parameter, value)):
                raise UserError(f'{where}: {refusal}')


def _refusal(parameter: Parameter, value: Any) -> str:
    refusal = parameter.refusal(value)
    if not refusal and type(parameter.default) is float and type(value) is int:  # a node takes no whole number for it
        return f'{parameter.name} must be written {value}.0, not {value}'
    return refusal
