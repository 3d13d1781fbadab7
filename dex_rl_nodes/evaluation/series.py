"""A series of episodes: which comes next, from which start, and when it is enough."""

from dataclasses import dataclass

from dex_rl_nodes.config import Task
from dex_rl_nodes.records import Outcome
from dex_rl_nodes.seeds import start_seed

REWARD_EPISODES = 20  # recordings for the classifier when nobody says how many
TICKS_AFTER_SUCCESS = 15  # recorded for the classifier after the operator's mark
ATTEMPTS = 3  # of a scripted operator per wanted episode, at most, on average
COLLECTING = ('demos', 'reward')  # purposes in which the operator acts and decides


@dataclass
class EpisodeSeries:
    """Counts episodes and ticks of one purpose, over restarts.

    Attributes:
        task: gives the numbers where nobody does.
        purpose: demos | reward | online | evaluation.
        run_seed: seed of the run.
        episodes: how many; 0: as the task says. In demos only successful ones count; discarded ones never do.
        steps: how many ticks; 0: as the task says. Only online.
        number: number of the next episode.
        counted: episodes that count so far.
        ticks: ticks so far.
        attempts: episodes of this session per wanted one at most, on average; 0: any number.
    """

    task: Task
    purpose: str
    run_seed: int
    episodes: int = 0
    steps: int = 0
    number: int = 0
    counted: int = 0
    ticks: int = 0
    attempts: int = 0

    def __post_init__(self) -> None:
        defaults = {
            'demos': self.task.demonstrations,
            'reward': REWARD_EPISODES,
            'evaluation': self.task.evaluation.episodes,
            'online': 0,
        }
        self.episodes = self.episodes or defaults[self.purpose]
        if self.purpose == 'online':
            # asked for episodes alone, nobody waits for the budget of the task
            self.steps = self.steps or (0 if self.episodes else self.task.online_steps)
        self._tried = 0
        self._before = self.counted

    @property
    def done(self) -> bool:
        """Whether it is enough."""
        enough_episodes = bool(self.episodes) and self.counted >= self.episodes
        return enough_episodes or self.ticks_left == 0

    @property
    def hopeless(self) -> str:
        """Why to give up; empty while there is hope."""
        if self.done or not self.attempts:
            return ''
        done = self.counted - self._before
        return hopeless(self.task, done, self._tried, self.episodes - self._before, self.attempts)

    @property
    def ticks_left(self) -> int | None:
        """Ticks until the budget is used up; None without one."""
        return max(self.steps - self.ticks, 0) if self.purpose == 'online' and self.steps else None

    @property
    def seed(self) -> int:
        """Seed of the next start. An evaluation repeats the start of an episode that did not count."""
        start = self.counted if self.purpose == 'evaluation' else self.number
        return start_seed(self.task, self.purpose, self.run_seed, start)

    @property
    def time_limit(self) -> int:
        """Ticks of the next episode at most."""
        left = self.ticks_left
        return self.task.episode_steps if left is None else min(self.task.episode_steps, left)

    @property
    def ticks_after_success(self) -> int:
        """Ticks that an episode goes on after the operator's success mark."""
        return TICKS_AFTER_SUCCESS if self.purpose == 'reward' else 0

    def finish(self, outcome: int, ticks: int) -> None:
        """Count a finished episode."""
        self.number += 1
        self._tried += 1
        self.ticks += ticks
        self.counted += self._counts(outcome)

    def take_back(self, outcome: int) -> None:
        """The newest episode, which had this outcome, was discarded after its end; its ticks were made all the same."""
        self.counted -= self._counts(outcome)

    def _counts(self, outcome: int) -> bool:
        if self.purpose == 'demos':
            return outcome == Outcome.SUCCESS
        return outcome not in (Outcome.DISCARDED, Outcome.STOPPED)

    def progress(self) -> str:
        """How far it is, for a person."""
        if self.episodes:
            return f'{self.counted} of {self.episodes} episodes'
        return f'{self.ticks} of {self.steps} steps'


def hopeless(task: Task, done: int, tried: int, wanted: int, attempts: int = ATTEMPTS) -> str:
    """Why to give up when `done` of `tried` scripted episodes count and `wanted` should; empty while there is hope."""
    if tried < max(attempts * wanted, attempts + 2):
        return ''
    return (
        f'only {done} of {tried} scripted demonstrations of {task.name} succeeded; '
        f'check config/tasks/{task.name}.yaml and its scene'
    )
