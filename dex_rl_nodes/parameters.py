"""Node parameters, each declared once: nodes, launch files and the README tables read these declarations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dex_rl_nodes.config import INTERFACES
from dex_rl_nodes.errors import UserError

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node, fixed when the node starts. Its type is that of the default."""

    name: str
    default: Value
    description: str
    unit: str = ''
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def refusal(self, value: Value) -> str:
        """Why the value is not allowed, one clause; empty when it is."""
        kind = type(self.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            return f'{self.name} must be {_KINDS[kind]}, not "{value}"'
        if self.choices and value not in self.choices:
            return f'{self.name} must be one of {", ".join(self.choices)}, not "{value}"'
        if kind in (int, float):
            unit = f' {self.unit}' if self.unit else ''
            # written so that NaN is refused too
            if self.minimum is not None and not value >= self.minimum:
                return f'{self.name} must be at least {self.minimum:g}{unit}, not {value:g}'
            if self.maximum is not None and not value <= self.maximum:
                return f'{self.name} must be at most {self.maximum:g}{unit}, not {value:g}'
        return ''

    def parse(self, text: str) -> Value:
        """Value of a text that a person typed; UserError says what is allowed."""
        kind = type(self.default)
        value: Value = text
        if kind is bool and text.lower() in ('true', 'false'):
            value = text.lower() == 'true'
        elif kind in (int, float):
            try:
                value = kind(text)
            except ValueError:
                pass
        if refusal := self.refusal(value):
            raise UserError(refusal)
        return value


def parse_all(owner: str, parameters: Iterable[Parameter], texts: Mapping[str, str]) -> dict[str, Value]:
    """Values of all parameters from what a person typed, with defaults.

    Args:
        owner: what has these parameters, to be named in an error.

    Raises:
        UserError: an unknown name (lists the valid ones) or a value that is not allowed.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in texts:
        if name not in known:
            raise UserError(f'{owner} has no argument "{name}"; it has: {", ".join(known)}')
    return {name: known[name].parse(texts[name]) if name in texts else known[name].default for name in known}


def split_argument(text: str) -> tuple[str, str]:
    """Name and value of `name:=value`; UserError when it is written differently."""
    name, separator, value = text.partition(':=')
    if not separator or not name:
        raise UserError(f'"{text}" is not an argument; write name:=value')
    return name, value


_KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}

DEFAULT_RUN = 'default'
COMMON = (
    Parameter('run', DEFAULT_RUN, 'name of the run directory below runs/'),
    Parameter('task', 'pull_tissue', 'task, a file of config/tasks/'),
    Parameter('robot', 'sim', 'robot, a file of config/robots/'),
    Parameter('interface', 'latent_prior', 'action interface of the hand', choices=INTERFACES),
    Parameter('method', 'lamp', 'learning method, a file of config/methods/'),
    Parameter('seed', 0, 'seed of the run', minimum=0, maximum=999),
    Parameter(
        'lockstep',
        False,
        'the simulation waits for every command and runs as fast as the machine; nobody waits for a learner, so only '
        'graphs without one are repeatable',
    ),
)


def settings_words(run: str, settings: object) -> str:
    """Arguments of a command that is meant for a run: task and name, and what is not as usual."""
    usual = {parameter.name: parameter.default for parameter in COMMON}
    names = [name for name in ('robot', 'interface', 'method', 'seed') if getattr(settings, name) != usual[name]]
    return ' '.join(f'{name}:={getattr(settings, name)}' for name in ('task', *names)) + f' run:={run}'
