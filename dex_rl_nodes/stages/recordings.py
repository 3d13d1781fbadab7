"""What the bags of a run hold, whether recorded by the graph or in one process."""

from dex_rl_nodes.evaluation.metrics import wilson_interval
from dex_rl_nodes.recording.history import episode_bags, episode_states
from dex_rl_nodes.records import EpisodeState, Outcome, Phase
from dex_rl_nodes.run_directory import RunDirectory
from dex_rl_nodes.stages.inputs import ARRANGED, ROLLOUTS


def ended_episodes(run: RunDirectory, purpose: str) -> dict[int, EpisodeState]:
    """How the recorded episodes of a purpose ended, by number."""
    states = episode_states(episode_bags(run, purpose))
    return {state.episode: state for state in states if state.phase == Phase.ENDED}


def count(run: RunDirectory, purpose: str) -> dict:
    """How many episodes there are and how many successful; of demonstrations also how often the operator fails."""
    ended = [state for state in ended_episodes(run, purpose).values() if state.outcome != Outcome.STOPPED]
    successes = sum(state.outcome == Outcome.SUCCESS for state in ended)
    content = {'n': len(ended), 'successes': successes}
    if purpose == 'reward':
        # discarded ones count too: they are not recorded again, so waiting for them would never end
        numbers = [state.episode for state in ended]
        arranged = sum(ARRANGED <= number < ROLLOUTS for number in numbers)
        return {**content, 'arranged': arranged, 'rollouts': sum(number >= ROLLOUTS for number in numbers)}
    low, high = wilson_interval(successes, len(ended))
    return {
        **content,
        'success_rate': successes / len(ended) if ended else None,
        'wilson_low': low, 'wilson_high': high,
        'ticks': sum(state.final_step for state in ended if state.outcome == Outcome.SUCCESS),
        'outcomes': {str(state.episode): Outcome(state.outcome).name.lower() for state in ended},
    }  # fmt: skip
