"""Seeds of the start states, so that no purpose ever sees the starts of another."""

from dex_rl_nodes.config import Task

# Evaluation starts come from the task configuration (below one million); the others start above it.
_BLOCK = {'demos': 1, 'reward': 2, 'online': 3}
_EPISODES_PER_RUN = 1_000_000
_RUNS = 1_000


def start_seed(task: Task, purpose: str, run_seed: int, episode: int) -> int:
    """Seed of one start state.

    Args:
        task: the evaluation starts are part of it and do not depend on the run's seed.
        purpose: demos | reward | online | evaluation.
        run_seed: seed of the run, 0 to 999.
        episode: number of the episode within its purpose.
    """
    if purpose == 'evaluation':
        return task.evaluation.seed + episode
    return (_BLOCK[purpose] * _RUNS + run_seed % _RUNS) * _EPISODES_PER_RUN + episode % _EPISODES_PER_RUN
