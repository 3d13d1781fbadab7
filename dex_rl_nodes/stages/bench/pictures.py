"""Pictures of one run: an episode as film and strip, its latent action flow, the learning curve, the jitter barcode."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dex_rl_nodes.config import Robot
from dex_rl_nodes.evaluation import figures
from dex_rl_nodes.evaluation.report import FILES
from dex_rl_nodes.learning.interfaces import LatentPrior
from dex_rl_nodes.records import ARM_DIM
from dex_rl_nodes.run_directory import read_json
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.hand_picture import HandPainter
from dex_rl_nodes.sim.robot import SimRobot
from dex_rl_nodes.stages.bench.table import learning_curve
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop, Tick

_FILM = (344, 256)  # px, width and height
_HANDS = 5  # pictures of the hand in the latent space
_AFTER = 8  # frames after the last tick


@dataclass
class _Notes:
    """What is noted of an episode, tick by tick."""

    centre: list[np.ndarray] = field(default_factory=list)
    imitation: list[np.ndarray] = field(default_factory=list)
    final: list[np.ndarray] = field(default_factory=list)
    executed: list = field(default_factory=list)

    def add(self, interface, tick: Tick) -> None:
        """Note a tick that was acted on."""
        if tick.executed is None:
            return
        with torch.inference_mode():
            centre = interface.prior_center(torch.from_numpy(np.array(tick.step.context))[None])[0].numpy()
        self.centre.append(centre)
        self.imitation.append(centre + tick.step.base_core[ARM_DIM:])
        self.final.append(centre + tick.core.core[ARM_DIM:])
        self.executed.append(tick.executed)


def draw_run(job: Job, residual: str, folder: Path) -> list[Path]:
    """Draw all pictures of a run into a folder; the episode is the first successful one of its evaluation."""
    scores = {name: read_json(job.run.file(file)) for name, file in FILES.items() if job.run.file(file).exists()}
    rows = scores.get(residual, {}).get('episodes', [])
    number = next((row['episode'] for row in rows if row['success']), 0)
    brain, notes = job.brain(residual=residual), _Notes()
    loop = Loop(job.task, job.robot, brain, ticks=lambda tick: notes.add(brain.prior.interface, tick))
    seed = start_seed(job.task, 'evaluation', job.settings.seed, number)
    loop.episode(number, seed, 'evaluation')
    loop.close()
    name = f'{job.task.name}_{job.settings.interface}'
    drawn = _film(job, seed, notes, folder, name)
    interface = brain.prior.interface
    if isinstance(interface, LatentPrior) and interface.hand_core_dim == 2:
        drawn.append(_flow(notes, folder / f'{name}_latent_flow.png', f'{job.task.name}, start {number}'))
    curve = learning_curve(job.run.file('metrics.jsonl'))
    if curve:
        label = f'{job.settings.interface}, seed {job.settings.seed}'
        line = figures.Curve(label, job.settings.interface, *zip(*curve, strict=True))
        drawn.append(figures.learning_curves([line], folder / f'{name}_learning.png', job.task.name))
    titles = {'none': 'imitation', 'learned': 'after RL'}
    panels = {titles[key]: [row['hand_targets'] for row in scores[key]['episodes']] for key in titles if key in scores}
    if panels:
        drawn.append(figures.jitter_barcode(panels, folder / f'{name}_jitter.png'))
    return drawn


def _film(job: Job, seed: int, notes: _Notes, folder: Path, name: str) -> list[Path]:
    """The executed motion once more, in front of larger cameras: the same seed and targets give the same episode."""
    sim = SimRobot(job.task, _with_cameras(job.robot, *_FILM))
    sim.reset(seed)
    frames = [sim.render('front')]
    last = notes.executed[-1]
    for executed in [*notes.executed, *[last] * _AFTER]:
        sim.step(executed.target_pose, executed.hand_target)
        frames.append(sim.render('front'))
    sim.close()
    times = [f'{number / job.robot.control_rate:.1f} s' for number in range(len(frames))]
    return [
        figures.animation(frames, folder / f'{name}.gif', job.robot.control_rate),
        figures.image_sequence(frames, folder / f'{name}_strip.png', 8, times),
    ]


def _with_cameras(robot: Robot, width: int, height: int) -> Robot:
    cameras = {
        view: camera.model_copy(update={'width': width, 'height': height}) for view, camera in robot.cameras.items()
    }
    return robot.model_copy(update={'cameras': cameras})


def _flow(notes: _Notes, path: Path, title: str) -> Path:
    flow = figures.LatentFlow(*(np.array(part) for part in (notes.centre, notes.imitation, notes.final)))
    painter = HandPainter()
    ticks = np.linspace(0, len(notes.executed) - 1, min(_HANDS, len(notes.executed))).round().astype(int)
    pictures = {int(tick): painter.draw(notes.executed[tick].hand_target) for tick in ticks}
    painter.close()
    return figures.latent_flow(flow, pictures, path, title)
