"""The action interface: keeps the hand history, publishes the prior, decodes core actions to hand targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.records import CoreAction, EpisodeState, ExecutedAction

if TYPE_CHECKING:
    from dex_rl_nodes.learning.prior_runner import PriorRunner


class LmpmDecoder(EpisodeNode):
    """Wraps PriorRunner.

    Args:
        runner: the action interface; None: the one of the run.
    """

    def __init__(self, runner: PriorRunner | None = None, **options: Any):
        super().__init__('lmpm_decoder', **options)
        self._runner = runner or self._load()
        self._next_step = 0  # the tick whose prior comes next
        self._timing = Timing()
        self.advertise('hand_prior', 'action_command')
        self.subscribe_ticks('core_action', self._on_core_action)
        self.subscribe_ticks('executed_action', self._on_executed_action)
        self.follow_episodes()

    def _load(self) -> PriorRunner:
        import torch

        from dex_rl_nodes.learning.prior_runner import PriorRunner

        torch.set_num_threads(self.setting('threads'))
        return PriorRunner(self.job.interface())

    def begin(self, episode: EpisodeState) -> None:
        self._next_step = 1
        self.publish('hand_prior', self._runner.reset(episode))

    def _on_core_action(self, core: CoreAction) -> None:
        with self._timing:
            command = self._runner.decode(core)
        self.publish('action_command', command)

    def _on_executed_action(self, action: ExecutedAction) -> None:
        # After a restart in the middle of an episode the executed actions come again from the start; any is
        # welcome that is not behind: eight of them make the history whole.
        if action.step + 1 < self._next_step:
            return
        self._next_step = action.step + 2
        self.publish('hand_prior', self._runner.executed(action))

    def diagnose(self) -> None:
        self.report('decode', **self._timing.take())


def main() -> None:
    """Entry point."""
    run_node(LmpmDecoder)


if __name__ == '__main__':
    main()
