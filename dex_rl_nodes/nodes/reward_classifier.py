"""Judges from the cameras, once per tick, whether the task is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.records import EpisodeState, PolicyStep

if TYPE_CHECKING:
    from dex_rl_nodes.learning.reward import RewardRunner

_LATE = 0.5  # s; a success that is seen later has been undone, maybe


class RewardClassifier(EpisodeNode):
    """Wraps RewardRunner. It reads the features of PolicyStep, so that every frame is encoded once.

    Args:
        runner: the classifier; None: the one of the run.
    """

    def __init__(self, runner: RewardRunner | None = None, **options: Any):
        super().__init__('reward_classifier', **options)
        self._runner = runner or self._load()
        self._timing = Timing()
        self._behind = 0.0  # s, latest verdict since the last report
        self.advertise('reward')
        self.subscribe_ticks('policy_step', self._on_policy_step)
        self.follow_episodes()

    def _load(self) -> RewardRunner:
        import torch

        torch.set_num_threads(self.setting('threads'))
        return self.job.reward(self.job.encoder())

    def begin(self, episode: EpisodeState) -> None:
        self._runner.reset()

    def _on_policy_step(self, step: PolicyStep) -> None:
        with self._timing:
            reward = self._runner.step(step)
        self.publish('reward', reward)
        if not self.lockstep:
            self._behind = max(self._behind, (self.get_clock().now().nanoseconds - step.stamp) * 1e-9)

    def diagnose(self) -> None:
        behind, self._behind = self._behind, 0.0
        late = f'verdicts come {behind:.1f} s late; the machine is too slow, or has too much to do'
        level, message = (WARN, late) if behind > _LATE else (OK, 'ok')
        self.report('classifier', level, message, behind_s=behind, **self._timing.take())


def main() -> None:
    """Entry point."""
    run_node(RewardClassifier)


if __name__ == '__main__':
    main()
