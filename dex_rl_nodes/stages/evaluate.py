"""Scoring a run on the task's held-out starts, with fixed parameters."""

from collections.abc import Callable

from dex_rl_nodes.evaluation.report import EpisodeRow, save_report
from dex_rl_nodes.recording.reader import next_folder
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop


def evaluate(
    job: Job,
    residual: str = 'learned',
    episodes: int = 0,
    record: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Run the evaluation episodes and write what was found into the run.

    Args:
        job: the run.
        residual: learned, or none: the base policy alone.
        episodes: how many; 0: as many as the task says.
        record: write them to a bag.

    Returns:
        the content of evaluation.json (or evaluation_imitation.json).
    """
    brain = job.brain(residual=residual)
    loop = Loop(job.task, job.robot, brain)
    bag = BagWriter(next_folder(job.run.bags('evaluation'))) if record else None
    rows: list[EpisodeRow] = []
    count = episodes or job.task.evaluation.episodes
    about = job.run, job.settings, rows, residual, brain.residual.version, brain.policy.encoder.identity
    try:
        for number in range(count):
            seed = start_seed(job.task, 'evaluation', job.settings.seed, number)
            rows.append(loop.episode(number, seed, 'evaluation', bag))
            save_report(*about, finished=False)
            tell(number + 1, count)
    finally:
        loop.close()
        if bag:
            bag.close()
    return save_report(*about)
