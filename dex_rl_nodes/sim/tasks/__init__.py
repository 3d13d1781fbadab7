"""The simulated tasks: the name in config/tasks/ is that of the module here that holds the class."""

import importlib
import pkgutil

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.sim.tasks.base import SimTask


def _find() -> dict[str, type[SimTask]]:
    """The task that each module of this folder defines, by the name of the module."""
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f'{__name__}.{name}')
        own = (kind for kind in vars(module).values() if getattr(kind, '__module__', '') == module.__name__)
        for kind in own:
            if isinstance(kind, type) and issubclass(kind, SimTask) and kind is not SimTask:
                found[name] = kind
    return found


TASKS = _find()


def make(name: str, parameters: dict[str, float]) -> SimTask:
    """The simulated task of that name.

    Args:
        parameters: `scene:` of the task's configuration.

    Raises:
        UserError: nobody simulates the task, or it has no such parameter.
    """
    if name not in TASKS:
        raise UserError(f'task "{name}" has no simulation; simulated are: {", ".join(sorted(TASKS))}')
    unknown = sorted(set(parameters) - set(TASKS[name].defaults))
    if unknown:
        known = ', '.join(sorted(TASKS[name].defaults))
        raise UserError(f'config/tasks/{name}.yaml: scene.{unknown[0]} is not known; choose from: {known}')
    return TASKS[name](parameters)
