"""Adds the scaled residual to the frozen base action, with the newest weights of the learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.records import EpisodeState, PolicyStep
from dex_rl_nodes.stages.inputs import command_line

if TYPE_CHECKING:
    from dex_rl_nodes.learning.residual import ResidualRunner
    from dex_rl_nodes.msg import PolicyWeights


class ResidualActor(EpisodeNode):
    """Wraps ResidualRunner. Evaluation episodes use the mode of the actor, the others sample.

    Args:
        runner: the residual; None: for the action interface of the run.
    """

    def __init__(self, runner: ResidualRunner | None = None, **options: Any):
        super().__init__('residual_actor', **options)
        self._learned = self.setting('residual') == 'learned'
        self._runner = runner or self._load()
        self._timing = Timing()
        self._refused = ''
        self.advertise('core_action')
        self.subscribe_ticks('policy_step', self._on_policy_step)
        if self._learned:
            self.subscribe('policy_weights', self._on_weights)
        self.follow_episodes()

    def _load(self) -> ResidualRunner:
        import torch

        from dex_rl_nodes.learning.checkpoint import numbered
        from dex_rl_nodes.learning.residual import ResidualRunner

        torch.set_num_threads(self.setting('threads'))
        runner = ResidualRunner(self.job.interface())
        checkpoints = numbered(self.run_directory.file('learner'))
        if self._learned and checkpoints:
            runner.load_checkpoint(checkpoints[-1])
        return runner

    def begin(self, episode: EpisodeState) -> None:
        if episode.purpose == 'evaluation' and self._learned and not self._runner.has_weights:
            # a residual of zero must not be scored as a learned one
            raise UserError(
                f'run "{self.run_directory.name}" has learned no residual yet; run '
                f'{command_line("launch online_rl.launch.py", self.run_directory, self.job.settings)}, '
                'or evaluate the base policy with residual:=none'
            )

    def _on_weights(self, weights: PolicyWeights) -> None:
        if weights.version == self._runner.version:
            return
        try:
            self._runner.load_weights(weights.data.tobytes(), weights.version, weights.sha256)
            self._refused = ''
        except UserError as error:
            # the robot goes on with the weights it has
            self._refused = str(error)
            self.get_logger().error(self._refused)

    def _on_policy_step(self, step: PolicyStep) -> None:
        with self._timing:
            core = self._runner.step(step, self.episode.seed, self.episode.purpose == 'evaluation')
        self.publish('core_action', core)

    def diagnose(self) -> None:
        self.report('step', **self._timing.take())
        if self._learned:
            level = WARN if self._refused else OK
            self.report('weights', level, self._refused or 'ok', version=self._runner.version)


def main() -> None:
    """Entry point."""
    run_node(ResidualActor)


if __name__ == '__main__':
    main()
