"""The registry of simulated tasks: the name in config/tasks/ and the class that simulates it."""

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.sim.tasks.assemble_box import AssembleBox
from dex_rl_nodes.sim.tasks.base import SimTask
from dex_rl_nodes.sim.tasks.grasp_place import GraspPlace
from dex_rl_nodes.sim.tasks.open_drawer import OpenDrawer
from dex_rl_nodes.sim.tasks.pull_tissue import PullTissue

TASKS: dict[str, type[SimTask]] = {
    'assemble_box': AssembleBox,
    'grasp_place': GraspPlace,
    'open_drawer': OpenDrawer,
    'pull_tissue': PullTissue,
}


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
