"""How often the scripted person does a task: what demonstrations and help are worth, and what is possible at all."""

import numpy as np

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.evaluation.metrics import wilson_interval
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.robot import SimRobot
from dex_rl_nodes.stages.bench.measurement import Measurement
from dex_rl_nodes.stages.loop import Loop
from dex_rl_nodes.stages.progress import ProgressBoard

_FIRST_SEED = 2000  # of the starts


class _Unseen(SimRobot):
    """A simulated robot whose images nobody looks at: the scripted person sees the scene itself."""

    def render(self, view: str, state=None) -> np.ndarray:
        camera = self.robot.cameras[view]
        return np.zeros((camera.height, camera.width, 3), np.uint8)


def scripted_person(task: str = 'pull_tissue', seed: int = 0, episodes: int = 100) -> Measurement:
    """Share of demonstrations that succeed, by the simulation, within the time limit of the task."""
    settings, robot, board = load_task(task), load_robot('sim'), ProgressBoard()
    operator = ScriptedOperator(settings, robot, 'demonstrate')
    loop = Loop(settings, robot, operator=operator, sim=_Unseen(settings, robot))
    first, rows = _FIRST_SEED + 1000 * seed, []
    try:
        for number in range(episodes):
            rows.append(loop.episode(number, first + number, 'demos'))
            board.update('operator', number + 1, episodes, f'{sum(row.success for row in rows)} successful')
    finally:
        board.close()
        loop.close()
    successes = sum(row.success and bool(row.sim_success) for row in rows)
    low, high = wilson_interval(successes, episodes)
    ticks = float(np.median([row.steps for row in rows if row.success])) if successes else 0.0
    measured = f'{successes} of {episodes} ({low:.0%} to {high:.0%}), {ticks:.0f} ticks (median)'
    return Measurement(
        f'operator_{task}', f'demonstrations of {task} by the scripted person that succeed, by mark and simulation',
        f'dexrl bench operator task:={task} seed:={seed} episodes:={episodes}', measured, '95 % or more',
        successes >= 0.95 * episodes, episodes, seed,
        {'successes': successes, 'wilson_low': low, 'wilson_high': high, 'ticks': ticks},
    )  # fmt: skip
