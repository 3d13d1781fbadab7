"""Transitions from the records of two consecutive ticks."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.records import (
    HAND_DIM,
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Origin,
    Outcome,
    Phase,
    PolicyStep,
    Source,
    StepResult,
    Transition,
)

Part = PolicyStep | CoreAction | ExecutedAction | StepResult | EpisodeState

_PATIENCE = 16  # complete ticks behind an open one show that something of it was lost, and is not only late
_OPEN = 1000  # ticks that may wait at all, for verdicts that come late
_REMEMBERED = 64  # finished episodes whose stragglers are recognised
_ORIGINS = {
    Source.POLICY: Origin.POLICY,
    Source.ARM: Origin.INTERVENTION_ARM,
    Source.HAND: Origin.INTERVENTION_HAND,
    Source.BOTH: Origin.INTERVENTION,
}
LAST_STEP = 2**32 - 1  # of a retraction: it comes after every tick of its episode


@dataclass
class _Tick:
    """What belongs to the action of one tick."""

    now: PolicyStep | None = None
    core: CoreAction | None = None
    executed: ExecutedAction | None = None
    result: StepResult | None = None  # of the next step
    following: PolicyStep | None = None
    discarded: int | None = None  # no tick: stamp of the end of an episode that was thrown away

    @property
    def complete(self) -> bool:
        return all(part is not None for part in (self.now, self.core, self.executed, self.result, self.following))

    @property
    def open(self) -> bool:
        """Whether something may still come."""
        return not self.complete and self.discarded is None


class TransitionAssembler:
    """Joins PolicyStep n, CoreAction n, ExecutedAction n, StepResult n + 1 and PolicyStep n + 1.

    The parts may come in any order. Transitions leave in the order of their ticks, numbered without gaps. A tick is
    dropped and counted when a part is missing for long, or when its parts contradict each other; what comes after
    the last tick of an episode is ignored. A retraction follows the transitions of an episode that was discarded.

    Args:
        next_sequence: number of the next transition of the run.
        after: episode and step of the newest transition of the run; what comes again up to it is ignored.
    """

    def __init__(self, next_sequence: int = 1, after: tuple[int, int] = (-1, -1)):
        self.next_sequence = next_sequence
        self.dropped = 0
        self._ticks: dict[tuple[int, int], _Tick] = {}
        self._final: dict[int, int] = {}  # episode -> number of its ticks
        self._finished: deque[int] = deque()
        self._after = after  # ticks up to this one are done with

    def add(self, part: Part) -> list[Transition]:
        """Take a record; returns the transitions that it completes."""
        if isinstance(part, EpisodeState):
            if part.phase == Phase.ENDED:
                self._end(part)
        elif isinstance(part, StepResult):
            self._put(part.episode, part.step - 1, result=part)
            if part.terminated or part.truncated:
                self._limit(part.episode, part.step)
        elif isinstance(part, PolicyStep):
            self._put(part.episode, part.step, now=part)
            self._put(part.episode, part.step - 1, following=part)
        elif isinstance(part, CoreAction):
            self._put(part.episode, part.step, core=part)
        else:
            self._put(part.episode, part.step, executed=part)
        return self._take()

    def settle(self, nothing_comes: bool = False) -> list[Transition]:
        """Transitions that wait for incomplete ticks of discarded episodes, or of all that have ended; these ticks go.

        Args:
            nothing_comes: no message is on its way any more; while some are, a starved machine may still deliver what
                belongs to an episode that counts.
        """
        discarded = {episode for (episode, _), tick in self._ticks.items() if tick.discarded is not None}
        ended = set(self._final) if nothing_comes else discarded
        for key in [key for key, tick in self._ticks.items() if key[0] in ended and tick.open]:
            del self._ticks[key]
            self.dropped += 1
        return self._take()

    def _put(self, episode: int, step: int, **parts: object) -> None:
        if step < 0 or (episode, step) <= self._after or step >= self._final.get(episode, step + 1):
            return
        tick = self._ticks.setdefault((episode, step), _Tick())
        for name, part in parts.items():
            setattr(tick, name, part)

    def _end(self, state: EpisodeState) -> None:
        self._limit(state.episode, state.final_step)
        key = state.episode, LAST_STEP
        if state.outcome == Outcome.DISCARDED and key > self._after:
            self._ticks[key] = _Tick(discarded=state.stamp)

    def _limit(self, episode: int, final_step: int) -> None:
        """From now on the episode has `final_step` ticks at most."""
        if episode not in self._final:
            self._finished.append(episode)
            if len(self._finished) > _REMEMBERED:
                del self._final[self._finished.popleft()]
        self._final[episode] = final_step
        for key in [key for key in self._ticks if key[0] == episode and final_step <= key[1] < LAST_STEP]:
            del self._ticks[key]

    def _take(self) -> list[Transition]:
        """Transitions of the oldest ticks, as far as they are complete."""
        made = []
        while self._ticks:
            key = min(self._ticks)
            tick = self._ticks[key]
            if tick.open and not self._given_up():
                break
            del self._ticks[key]
            told, self._after = self._after[0] == key[0], key  # whether anybody has heard of this episode
            if tick.discarded is not None:
                if not told:
                    continue
                made.append(retraction(key[0], tick.discarded, self.next_sequence))
            elif tick.complete and _consistent(tick):
                made.append(_transition(tick, self.next_sequence))
            else:
                self.dropped += 1
                continue
            self.next_sequence += 1
        return made

    def _given_up(self) -> bool:
        """Whether the oldest tick has waited long enough for what it lacks."""
        return sum(tick.complete for tick in self._ticks.values()) > _PATIENCE or len(self._ticks) > _OPEN


def retraction(episode: int, stamp: int, sequence: int) -> Transition:
    """What follows the transitions of an episode that was thrown away: nobody may use them any more."""
    return Transition(stamp, sequence, episode, LAST_STEP, source=Origin.RETRACTION)


def _consistent(tick: _Tick) -> bool:
    """Whether the parts fit: one encoder, the executed target at the end of the next history, finite numbers."""
    now, following, executed = tick.now, tick.following, tick.executed
    if now.encoder != following.encoder or len(now.features) != len(following.features):
        return False
    if not np.allclose(following.hand_history[-HAND_DIM:], executed.hand_target, atol=1e-5):
        return False
    numbers = [executed.action, tick.core.residual]
    numbers += [values for step in (now, following) for values in (step.features, step.state, step.base_core)]
    return all(np.isfinite(values).all() for values in numbers)


def _transition(tick: _Tick, sequence: int) -> Transition:
    now, following, result = tick.now, tick.following, tick.result
    return Transition(
        stamp=now.stamp,
        sequence=sequence,
        episode=now.episode,
        step=now.step,
        encoder=now.encoder,
        features=now.features,
        state=now.state,
        hand_history=now.hand_history,
        context=now.context,
        base_core=now.base_core,
        residual=tick.core.residual,
        action=tick.executed.action,
        reward=result.reward,
        mask=0.0 if result.terminated else 1.0,
        truncated=result.truncated,
        success=result.success,
        source=_ORIGINS[Source(tick.executed.source)],
        next_features=following.features,
        next_state=following.state,
        next_hand_history=following.hand_history,
        next_context=following.context,
        next_base_core=following.base_core,
    )
