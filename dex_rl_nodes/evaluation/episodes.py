"""How an episode ends: the one place that decides reward, termination, truncation and outcome."""

import math
from dataclasses import replace

import numpy as np

from dex_rl_nodes.records import EpisodeState, Mark, Outcome, Phase, StepResult


class EpisodeMachine:
    """The running episode, judged tick by tick.

    Args:
        time_limit: ticks after which the episode is truncated.
        after_success: ticks that are recorded after the operator's success mark (material for the classifier).
    """

    def __init__(self, time_limit: int, after_success: int = 0):
        self._time_limit = time_limit
        self._after_success = after_success
        self.state = EpisodeState()

    def begin(self, episode: int, seed: int, stamp: int, hand_target: np.ndarray, purpose: str) -> EpisodeState:
        """Start an episode whose first tick has this stamp."""
        self._marked_at: int | None = None
        self.state = EpisodeState(
            stamp=stamp,
            episode=episode,
            phase=Phase.RUNNING,
            seed=seed,
            hand_target=np.asarray(hand_target, np.float32),
            purpose=purpose,
        )
        return self.state

    def judge(
        self,
        step: int,
        stamp: int,
        probability: float = math.nan,
        success: bool = False,
        mark: int = Mark.NONE,
        stopped: str = '',
    ) -> StepResult | None:
        """Judge the observation of a tick; `state` tells afterwards whether the episode has ended.

        Args:
            step: number of the tick; tick 0 has no action before it and gives no result.
            stamp: of the tick (ns).
            probability, success: verdict of the classifier.
            mark: what the operator marked since the last tick.
            stopped: why motion was stopped for good, empty when it was not.
        """
        outcome, reason = self._outcome(step, success, mark, stopped)
        if outcome is not Outcome.NONE:
            self.state = replace(
                self.state, stamp=stamp, phase=Phase.ENDED, outcome=outcome, final_step=step, reason=reason
            )
        if step == 0:
            return None
        succeeded = outcome is Outcome.SUCCESS
        terminated = succeeded or outcome is Outcome.FAILURE
        return StepResult(
            stamp=stamp,
            episode=self.state.episode,
            step=step,
            reward=float(succeeded),
            probability=probability,
            terminated=terminated,
            truncated=outcome is not Outcome.NONE and not terminated,
            success=succeeded,
        )

    def break_off(self, stamp: int, final_step: int, reason: str, discarded: bool = False) -> EpisodeState:
        """End the episode without a verdict: no tick came any more, or the graph stops. What a person had discarded
        stays so.
        """
        outcome = Outcome.DISCARDED if discarded else Outcome.STOPPED
        self.state = replace(
            self.state, stamp=stamp, phase=Phase.ENDED, outcome=outcome, final_step=final_step, reason=reason
        )
        return self.state

    def take_back(self, stamp: int) -> Outcome | None:
        """Discard the episode after its end; its outcome until now, None where there is nothing to take back."""
        before = Outcome(self.state.outcome)
        if not self.ended or before is Outcome.DISCARDED:
            return None
        reason = f'discarded by the operator after its end ({before.name.lower()})'
        self.state = replace(self.state, stamp=stamp, outcome=Outcome.DISCARDED, reason=reason)
        return before

    def _outcome(self, step: int, success: bool, mark: int, stopped: str) -> tuple[Outcome, str]:
        if mark == Mark.DISCARD:
            return Outcome.DISCARDED, 'discarded by the operator'
        if stopped:
            return Outcome.STOPPED, stopped
        if mark == Mark.FAILURE:
            return Outcome.FAILURE, 'failure marked by the operator'
        if mark == Mark.SUCCESS and self._marked_at is None:
            self._marked_at = step
        if success:
            return Outcome.SUCCESS, 'success seen by the classifier'
        if self._marked_at is not None and step >= self._marked_at + self._after_success:
            return Outcome.SUCCESS, 'success marked by the operator'
        if step >= self._time_limit:
            marked = self._marked_at is not None
            return (Outcome.SUCCESS, 'success marked by the operator') if marked else (Outcome.TIMEOUT, 'time limit')
        return Outcome.NONE, ''

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.state.phase == Phase.ENDED
