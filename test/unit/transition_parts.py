"""Records of a made-up episode, as the graph would send them."""

import numpy as np

from dex_rl_nodes.records import (
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Outcome,
    Phase,
    PolicyStep,
    Source,
    StepResult,
)

FEATURES = 8


def episode_parts(episode, ticks, outcome=Outcome.TIMEOUT, first=None, hand=0.4):
    """EpisodeState RUNNING, the records of every tick, EpisodeState ENDED; the last observation has no action."""
    random = np.random.default_rng([episode, ticks])
    first = (episode + 1) * 1_000_000_000_000 if first is None else first
    history = np.full((8, 6), hand, np.float32)
    yield EpisodeState(first, episode, Phase.RUNNING, hand_target=history[0], purpose='online', seed=episode)
    terminal = outcome in (Outcome.SUCCESS, Outcome.FAILURE)
    for step in range(ticks + 1):
        stamp = first + step * 100_000_000
        yield PolicyStep(
            stamp, episode, step, 'test:1', random.random(FEATURES, np.float32), random.random(12, np.float32),
            history.reshape(-1).copy(), np.ones(4, np.float32), random.random(8, np.float32),
        )  # fmt: skip
        if step:
            last = step == ticks
            yield StepResult(
                stamp, episode, step, float(last and outcome == Outcome.SUCCESS), 0.5,
                last and terminal, last and not terminal, last and outcome == Outcome.SUCCESS,
            )  # fmt: skip
        if step < ticks:
            target = random.random(6, np.float32)
            action = np.concatenate((random.random(6, np.float32), 2 * target - 1))
            yield CoreAction(stamp, episode, step, random.random(8, np.float32), random.random(8, np.float32))
            yield ExecutedAction(stamp, episode, step, action, target, source=step if step < len(Source) else 0)
            history = np.concatenate((history[1:], target[None]))
    yield EpisodeState(stamp, episode, Phase.ENDED, outcome, final_step=ticks, purpose='online')
