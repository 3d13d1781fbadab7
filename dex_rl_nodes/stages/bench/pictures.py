"""Pictures of one run: an episode as film and strip, its latent action flow, the learning curve, the jitter barcode."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dex_rl_nodes.config import Robot
from dex_rl_nodes.evaluation import figures
from dex_rl_nodes.evaluation.report import FILES
from dex_rl_nodes.learning.interfaces import ActionInterface, LatentPrior
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


@dataclass
class _Episode:
    """An evaluation episode done once more: its number, the seed of its start, what was noted, and the interface."""

    number: int
    seed: int
    notes: _Notes
    interface: ActionInterface


def _repeat(job: Job, residual: str) -> _Episode:
    """The first successful episode of an evaluation, or the first where none was."""
    path = job.run.file(FILES[residual])
    rows = read_json(path)['episodes'] if path.exists() else []
    number = next((row['episode'] for row in rows if row['success']), 0)
    brain, notes = job.brain(residual=residual), _Notes()
    loop = Loop(job.task, job.robot, brain, ticks=lambda tick: notes.add(brain.prior.interface, tick))
    seed = start_seed(job.task, 'evaluation', job.settings.seed, number)
    loop.episode(number, seed, 'evaluation')
    loop.close()
    return _Episode(number, seed, notes, brain.prior.interface)


def draw_run(job: Job, residual: str, folder: Path) -> list[Path]:
    """Draw all pictures of a run into a folder; the episode is the first successful one of its evaluation."""
    episode, name = _repeat(job, residual), f'{job.task.name}_{job.settings.interface}'
    drawn = _film(job, episode.seed, episode.notes, folder, name)
    if _has_plane(episode.interface):
        drawn.append(_flow(episode, folder / f'{name}_latent_flow.png', job.task.name))
    curve = learning_curve(job.run.file('metrics.jsonl'))
    if curve:
        label = f'{job.settings.interface}, seed {job.settings.seed}'
        line = figures.Curve(label, job.settings.interface, *zip(*curve, strict=True))
        drawn.append(figures.learning_curves([line], folder / f'{name}_learning.png', job.task.name))
    scores = {name: read_json(job.run.file(file)) for name, file in FILES.items() if job.run.file(file).exists()}
    titles = {'none': 'imitation', 'learned': 'after RL'}
    panels = {titles[key]: [row['hand_targets'] for row in scores[key]['episodes']] for key in titles if key in scores}
    if panels:
        drawn.append(figures.jitter_barcode(panels, folder / f'{name}_jitter.png'))
    return drawn


def draw_flow(job: Job, path: Path) -> None:
    """Draw the latent action flow of a run that has learned; nothing where its interface has no two latent numbers."""
    if _has_plane(job.interface()):
        _flow(_repeat(job, 'learned'), path, job.task.name)


def _has_plane(interface: ActionInterface) -> bool:
    return isinstance(interface, LatentPrior) and interface.hand_core_dim == 2


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


def _flow(episode: _Episode, path: Path, task: str) -> Path:
    notes = episode.notes
    flow = figures.LatentFlow(*(np.array(part) for part in (notes.centre, notes.imitation, notes.final)))
    painter = HandPainter()
    ticks = np.linspace(0, len(notes.executed) - 1, min(_HANDS, len(notes.executed))).round().astype(int)
    pictures = {int(tick): painter.draw(notes.executed[tick].hand_target) for tick in ticks}
    painter.close()
    return figures.latent_flow(flow, pictures, path, f'{task}, start {episode.number}')
