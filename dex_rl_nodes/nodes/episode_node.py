"""The base of the nodes that work tick by tick within an episode."""

from collections import deque
from collections.abc import Callable
from typing import Any

from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.records import EpisodeState, Phase

_EARLY = 64  # messages kept while the news of their episode is still under way


class EpisodeNode(Node):
    """Follows `episode`, and sees to it that handlers only get what belongs to the running episode.

    Messages of an episode may arrive before the message that starts it, for they come from different nodes: they
    are kept until then. What belongs to a finished episode is dropped.
    """

    def __init__(self, name: str, **options: Any):
        super().__init__(name, **options)
        self.episode = EpisodeState(episode=-1)
        self._early: deque[tuple[Any, Callable[[Any], None]]] = deque(maxlen=_EARLY)

    def follow_episodes(self) -> None:
        """Subscribe to the episodes; called last, when the node can work."""
        self.subscribe('episode', self._on_episode)

    @property
    def running(self) -> bool:
        """Whether control ticks count."""
        return self.episode.phase == Phase.RUNNING

    def subscribe_ticks(self, topic: str, handler: Callable[[Any], None]) -> None:
        """Call back with the records of a topic that belong to the running episode."""
        self.subscribe(topic, lambda record: self._sort(record, handler))

    def begin(self, episode: EpisodeState) -> None:
        """An episode starts."""

    def end(self, episode: EpisodeState) -> None:
        """The episode is over, or a start was called off."""

    def _on_episode(self, episode: EpisodeState) -> None:
        was_running, known = self.running, self.episode
        self.episode = episode
        if not self.running:
            if was_running:
                self.end(episode)
            return
        if was_running and (known.episode, known.stamp) == (episode.episode, episode.stamp):
            return
        early, self._early = self._early, deque(maxlen=_EARLY)
        self.begin(episode)
        for record, handler in early:
            self._sort(record, handler)

    def _sort(self, record: Any, handler: Callable[[Any], None]) -> None:
        known = self.episode
        if self.running and record.episode == known.episode:
            if record.stamp >= known.stamp:
                handler(record)
        elif record.episode != known.episode or known.phase not in (Phase.ENDED, Phase.DONE):
            self._early.append((record, handler))
