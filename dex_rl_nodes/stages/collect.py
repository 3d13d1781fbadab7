"""Recordings by the scripted operator, through SpaceMouse and glove values: demonstrations and frames to judge by.

Recordings are made in small sessions that can run side by side. What a session records depends on its number alone,
so the data are the same on one core and on many, and a session that was stopped goes on where it was.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.series import hopeless
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import Mark, OperatorInput, Outcome, RobotReading
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.robot import SimRobot
from dex_rl_nodes.stages.inputs import ARRANGED, ROLLOUTS, is_current
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Loop
from dex_rl_nodes.stages.recordings import ended_episodes
from dex_rl_nodes.stages.workers import Tell, Work

SESSION = 5  # demonstrations of a session
_SIDE_BY_SIDE = 2  # sessions of every kind of reward episodes
_BLOCK = 1000  # numbers of the episodes of one session, or of one kind
_SURE = 5  # ticks of success before a watching person marks it


class Watcher:
    """A person who only watches: marks success that has lasted for a moment, and discards the episode if it is lost.

    Frames after the mark are the classifier's examples of success, so even one that shows none would teach it wrongly.
    """

    def reset(self, seed: int) -> None:
        """A new episode."""
        self._seen = 0
        self._marked = False

    def act(self, scene: dict[str, float], reading: RobotReading) -> OperatorInput:
        """Hands off the devices; at most a mark."""
        self._seen = self._seen + 1 if scene['success'] > 0 else 0
        mark = Mark.NONE
        if self._marked and not self._seen:
            mark = Mark.DISCARD
        elif self._seen == _SURE:
            mark, self._marked = Mark.SUCCESS, True
        return OperatorInput(glove=np.asarray(reading.hand), mark=mark)


# Demonstrations


def demonstration_works(job: Job, prefix: str = '') -> list[Work]:
    """Sessions that record the demonstrations that are missing; the prefix is of their names."""
    wanted = job.wanted_demonstrations
    ended = ended_episodes(job.run, 'demos')
    owed = wanted - sum(state.outcome == Outcome.SUCCESS for state in ended.values())
    works = []
    for session in range(-(-wanted // SESSION)):
        mine = [number for number in ended if number // _BLOCK == session]
        done = sum(ended[number].outcome == Outcome.SUCCESS for number in mine)
        share = max(0, min(owed, min(SESSION, wanted - SESSION * session) - done))
        if share:
            owed -= share
            first = max(mine, default=_BLOCK * session - 1) + 1
            name, bar = f'{prefix}demonstrations {session}', f'{prefix}demonstrations'
            works.append(Work(name, collect_session, (job, first, share), bar=bar))
    return works


def collect_session(job: Job, first: int, wanted: int, tell: Tell) -> int:
    """Record episodes from number `first` on until `wanted` are successful; returns how many it took.

    Raises:
        UserError: the operator fails again and again.
    """
    loop = Loop(job.task, job.robot, operator=ScriptedOperator(job.task, job.robot, 'demonstrate'))
    number, done = first, 0
    while done < wanted:
        tell(done, wanted)
        if reason := hopeless(job.task, done, number - first, wanted):
            raise UserError(reason)
        done += _record(job, loop, 'demos', number)
        number += 1
    return number - first


# Material for the classifier

_FIRST = {
    'shown': _BLOCK // 2,  # below are those that a graph has recorded
    'near_misses': _BLOCK,
    'arrangements': ARRANGED,
    'rollouts': ROLLOUTS,
    'strays': ROLLOUTS + _BLOCK,
}  # number of the first episode of a kind

_SKILLS = {'shown': 'survey', 'near_misses': 'negative', 'arrangements': 'present'}  # of the operator who acts
_OF_POLICY = {'rollouts': 'none', 'strays': 'random'}  # the residual of the kinds in which the base policy acts


def reward_works(job: Job, kinds: Sequence[str], needs: tuple[str, ...] = (), prefix: str = '') -> list[Work]:
    """Sessions that record what is missing for the classifier.

    Args:
        kinds: of shown (successes, after a look around), near_misses, arrangements (put there by hand), rollouts and
            strays (of the base policy, alone and with a random residual; they need it trained).
        needs: names of works that come first.
        prefix: of the names of the works.
    """
    ended = ended_episodes(job.run, 'reward')
    renewed = not all(is_current(job.run, job.settings, stage) for stage in ('encoder', 'prior', 'policy'))
    works = []
    for kind in kinds:
        first, count = _FIRST[kind], job.wanted_examples(kind)
        # rollouts of a policy that is about to be replaced will be gone by then, see train.policy_stage
        kept = {} if kind in _OF_POLICY and renewed else ended
        numbers = [number for number in range(first, first + count) if number not in kept]
        bar = prefix + ('policy rollouts' if kind in _OF_POLICY else 'reward sessions')
        for part in range(_SIDE_BY_SIDE):
            if mine := numbers[part::_SIDE_BY_SIDE]:
                works.append(Work(f'{prefix}{kind} {part}', record_reward, (job, kind, mine), needs, bar))
    return works


def record_reward(job: Job, kind: str, numbers: Sequence[int], tell: Tell) -> int:
    """Record reward episodes of one kind; returns how many show success."""
    if kind in _OF_POLICY:
        ended = ended_episodes(job.run, 'reward')
        numbers = [number for number in numbers if number not in ended]
        loop = Loop(job.task, job.robot, job.brain(reward=False, residual=_OF_POLICY[kind]), Watcher())
    else:
        operator = ScriptedOperator(job.task, job.robot, _SKILLS[kind])
        sim = SimRobot(job.task, job.robot, arranged=kind == 'arrangements')
        loop = Loop(job.task, job.robot, operator=operator, sim=sim)
    successes = 0
    for done, number in enumerate(numbers):
        tell(done, len(numbers))
        successes += _record(job, loop, 'reward', number)
    return successes


def _record(job: Job, loop: Loop, purpose: str, number: int) -> bool:
    """Record one episode in a bag of its own; returns whether it was successful."""
    folder: Path = job.run.bags(purpose) / f'e{number:05d}'  # sessions of the graph have numbers alone
    if folder.exists():  # of a process that was stopped or died; the same number gives the same episode
        shutil.rmtree(folder)
    with BagWriter(folder) as bag:
        return loop.episode(number, start_seed(job.task, purpose, job.settings.seed, number), purpose, bag).success
