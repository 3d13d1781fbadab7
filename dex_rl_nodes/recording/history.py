"""What a run has recorded so far."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.reader import BagReader, bag_folders
from dex_rl_nodes.recording.spool import SUFFIX, TransitionSpool, count_transitions
from dex_rl_nodes.recording.transitions import LAST_STEP, retraction
from dex_rl_nodes.records import EpisodeState, Outcome, Phase, Transition
from dex_rl_nodes.run_directory import RunDirectory


@dataclass(frozen=True)
class History:
    """Episodes of one purpose in a run.

    Attributes:
        next_episode: number of the next episode.
        episodes: episodes that were finished, discarded and broken off ones not counted.
        successes: of them successful.
        steps: control ticks of all episodes; online: transitions.
    """

    next_episode: int = 0
    episodes: int = 0
    successes: int = 0
    steps: int = 0


def episode_bags(run: RunDirectory, purpose: str) -> list[Path]:
    """Bags with the episodes of a purpose, oldest first."""
    return [folder for folder in bag_folders(run.bags(purpose)) if not folder.name.endswith(SUFFIX)]


def episode_states(bags: Iterable[Path]) -> Iterator[EpisodeState]:
    """Everything the bags say about episodes; those cut off in the middle as far as they are whole."""
    for bag in bags:
        for message in BagReader(bag, ['episode']):
            yield messages.deserialise(message.data, message.type_name)


def read_history(run: RunDirectory, purpose: str) -> History:
    """What the bags of a purpose say."""
    begun, ended = set(), {}
    for state in episode_states(episode_bags(run, purpose)):
        if state.phase == Phase.RUNNING:
            begun.add(state.episode)
        elif state.phase == Phase.ENDED:
            ended[state.episode] = state
    counted = [state for state in ended.values() if state.outcome not in (Outcome.DISCARDED, Outcome.STOPPED)]
    steps = sum(state.final_step for state in ended.values())
    if purpose == 'online':
        steps, newest_episode = count_transitions(run)
        begun.add(newest_episode)
    return History(
        next_episode=max(begun, default=-1) + 1,
        episodes=len(counted),
        successes=sum(state.outcome == Outcome.SUCCESS for state in counted),
        steps=steps,
    )


def owed_retraction(run: RunDirectory, spool: TransitionSpool) -> Transition | None:
    """The retraction that is missing behind the newest transition: its episode was thrown away, then somebody died."""
    episode, step = spool.newest_tick
    if episode < 0 or step == LAST_STEP:
        return None
    for bag in reversed(episode_bags(run, 'online')):
        ends = [state for state in episode_states([bag]) if (state.episode, state.phase) == (episode, Phase.ENDED)]
        if ends:  # the last of them counts: an episode may be discarded after its end
            discarded = ends[-1].outcome == Outcome.DISCARDED
            return retraction(episode, ends[-1].stamp, spool.newest + 1) if discarded else None
    return None
