"""The rows of an evaluation, written after every episode."""

from collections.abc import Mapping

from dex_rl_nodes.evaluation.report import EpisodeRow, save_report
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.records import CoreAction, EpisodeState, ExecutedAction, SimState
from dex_rl_nodes.run_directory import RunSettings, read_json


class Scores:
    """One row per episode of an evaluation, in `evaluation.json` of the node's run."""

    def __init__(self, node: Node):
        self._node = node
        self._rows: list[EpisodeRow] = []
        self._weights_version = 0

    def hear(self, action: CoreAction) -> None:
        """Take note of the weights that are scored."""
        self._weights_version = action.weights_version

    def add(
        self,
        ended: EpisodeState,
        executed: Mapping[int, ExecutedAction],
        sim_states: Mapping[int, SimState],
        finished: bool,
    ) -> None:
        """Add the row of an episode that has ended, now that all its messages have come; once per episode.

        Args:
            executed: actions by step.
            sim_states: what the simulation said, by stamp; empty on a robot.
            finished: this was the last one.
        """
        if len(self._rows) > ended.episode:
            return
        actions = [executed[step] for step in sorted(executed) if step < ended.final_step]
        truth = [stamp for stamp in sim_states if stamp <= ended.stamp]
        sim = sim_states[max(truth)] if truth else None
        row = EpisodeRow.of(
            ended.episode,
            ended.seed,
            ended.outcome,
            ended.final_step,
            [action.hand_target for action in actions],
            failure=(sim.failure or None) if sim else None,
            sim_success=sim.success if sim else None,
            interventions=sum(action.source != 0 for action in actions),
        )
        self._rows.append(row)
        node = self._node
        encoder = node.run_directory.file('encoder.json')
        save_report(
            node.run_directory,
            RunSettings(**{name: node.setting(name) for name in RunSettings.__dataclass_fields__}),
            self._rows,
            node.setting('residual'),
            self._weights_version,
            read_json(encoder).get('identity', '') if encoder.exists() else '',
            finished=finished,
        )
