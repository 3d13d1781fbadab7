"""A run as its stages see it: settings, what was recorded, what was trained."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import numbered
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.encoder import VisualEncoder, load_encoder
from dex_rl_nodes.learning.encoder_choice import EncoderSettings
from dex_rl_nodes.learning.interfaces import ActionInterface, PriorSettings, load_interface
from dex_rl_nodes.learning.policy import BCPolicy, PolicyRunner, PolicySettings, load_policy
from dex_rl_nodes.learning.prior_runner import PriorRunner
from dex_rl_nodes.learning.residual import ResidualRunner, WanderingResidual
from dex_rl_nodes.learning.reward import RewardRunner, RewardSettings, load_reward
from dex_rl_nodes.learning.sac import ResidualSettings
from dex_rl_nodes.parameters import settings_words
from dex_rl_nodes.recording.episodes import read_episodes
from dex_rl_nodes.recording.history import episode_bags
from dex_rl_nodes.records import Outcome
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, read_json
from dex_rl_nodes.stages.inputs import USUAL, Amounts, command_line, fingerprint
from dex_rl_nodes.stages.loop import Brain

S = TypeVar('S', bound=config.Model)
_USABLE = {
    'demos': (Outcome.SUCCESS,),
    'reward': (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT),
}


@dataclass(frozen=True)
class Job:
    """One run: a task, a robot, an interface, a method and a seed, in a run directory."""

    run: RunDirectory
    settings: RunSettings
    amounts: Amounts = USUAL

    @classmethod
    def open(cls, name: str, settings: RunSettings) -> 'Job':
        """Create the run, or go on with it; UserError when it was made with other settings."""
        config.load_task(settings.task), config.load_robot(settings.robot), config.load_method(settings.method)
        return cls(RunDirectory(name).create(settings), settings)

    @cached_property
    def task(self) -> config.Task:
        """Configuration of the task."""
        return config.load_task(self.settings.task)

    @cached_property
    def robot(self) -> config.Robot:
        """Configuration of the robot."""
        return config.load_robot(self.settings.robot)

    @cached_property
    def method(self) -> config.Method:
        """Configuration of the method."""
        return config.load_method(self.settings.method)

    # Settings of the parts, out of the blocks of the method

    def _block(self, name: str, model: type[S]) -> S:
        try:
            return model.model_validate(getattr(self.method, name))
        except ValidationError as error:
            first = error.errors()[0]
            where = '.'.join([name, *(str(part) for part in first['loc'])])
            raise UserError(f'config/methods/{self.method.name}.yaml: {where}: {first["msg"]}') from None

    @property
    def prior_settings(self) -> PriorSettings:
        """Block `prior`."""
        return self._block('prior', PriorSettings)

    @property
    def encoder_settings(self) -> EncoderSettings:
        """Block `encoder`."""
        return self._block('encoder', EncoderSettings)

    @property
    def policy_settings(self) -> PolicySettings:
        """Block `policy`."""
        return self._block('policy', PolicySettings)

    @property
    def reward_settings(self) -> RewardSettings:
        """Block `reward`."""
        return self._block('reward', RewardSettings)

    @property
    def residual_settings(self) -> ResidualSettings:
        """Block `residual`."""
        return self._block('residual', ResidualSettings)

    # What was recorded

    def wanted_examples(self, kind: str) -> int:
        """Reward episodes of a kind (shown, near_misses, arrangements, rollouts or strays)."""
        if kind == 'arrangements':
            return self.amounts.arranged(self.task)
        if kind == 'near_misses' and not self.amounts.near_misses:
            return self.task.near_misses
        return getattr(self.amounts, kind)

    @property
    def wanted_demonstrations(self) -> int:
        """Successful demonstrations that are learned from."""
        return self.amounts.demonstrations or self.task.demonstrations

    @property
    def words(self) -> str:
        """Arguments of a command that goes on with this run."""
        return settings_words(self.run.name, self.settings)

    def has(self, purpose: str) -> bool:
        """Whether there are recordings of a purpose."""
        return bool(episode_bags(self.run, purpose))

    def finished(self, purpose: str) -> list[Episode]:
        """Finished episodes of a purpose, if there are any; of the demonstrations only the successful ones."""
        return read_episodes(episode_bags(self.run, purpose), self.task.crops, outcomes=_USABLE[purpose])

    def episodes(self, purpose: str) -> list[Episode]:
        """As `finished`; UserError without any."""
        episodes = self.finished(purpose)
        if not episodes:
            how = 'launch collect_demos.launch.py' + ('' if purpose == 'demos' else f' purpose:={purpose}')
            command = command_line(how, self.run, self.settings)
            raise UserError(f'run "{self.run.name}" has no {purpose} recordings; run {command}')
        return episodes

    def demonstrations(self) -> list[Episode]:
        """Successful demonstrations, as many as the task wants where there are more; UserError without any."""
        return self.episodes('demos')[: self.wanted_demonstrations]

    # What was trained

    def _trained(self, name: str, command: str) -> Path:
        path = self.run.file(f'{name}.safetensors')
        if not path.exists():
            if not self.run.exists:
                raise UserError(self.run.lack)
            raise UserError(f'run "{self.run.name}" has no {name}; run ./dexrl train {command} {self.words}')
        return path

    def encoder(self) -> VisualEncoder:
        """The frozen visual encoder; UserError also where it was trained on other crops of the images."""
        path = self._trained('encoder', 'encoder')
        crops = read_json(path.with_suffix('.json')).get('inputs', {}).get('crops')
        if crops not in (None, fingerprint(self.task.crops)):
            raise UserError(
                f'the encoder of run "{self.run.name}" was trained with other crops than '
                f'config/tasks/{self.task.name}.yaml has now; put them back, or train in another run:=NAME'
            )
        return load_encoder(path)

    def interface(self) -> ActionInterface:
        """The frozen action interface."""
        path = self._trained('prior', 'prior')
        return load_interface(path, name=self.settings.interface, hand=self.robot.name, task=self.task.name)

    def policy(self, encoder: VisualEncoder, interface: ActionInterface) -> BCPolicy:
        """The frozen base policy."""
        return load_policy(self._trained('policy', 'policy'), encoder, interface)

    def reward(self, encoder: VisualEncoder) -> RewardRunner:
        """The reward classifier at run time."""
        model, settings = load_reward(self._trained('reward', 'reward'), encoder)
        return RewardRunner(model, encoder, settings.threshold, self.task.success_hold)

    def brain(self, reward: bool = True, residual: str = 'none') -> Brain:
        """The trained parts together.

        Args:
            reward: with the classifier.
            residual: none: the base policy alone; learned: the newest checkpoint of the learner; random: one that
                wanders.
        """
        encoder, interface = self.encoder(), self.interface()
        kind = WanderingResidual if residual == 'random' else ResidualRunner
        runner = kind(interface)
        if residual == 'learned':
            checkpoints = numbered(self.run.file('learner'))
            if not checkpoints:
                raise UserError(
                    f'run "{self.run.name}" has learned no residual yet; run '
                    f'{command_line("launch online_rl.launch.py", self.run, self.settings)}, '
                    'or evaluate the base policy with residual:=none'
                )
            runner.load_checkpoint(checkpoints[-1])
        return Brain(
            PolicyRunner(encoder, self.policy(encoder, interface)),
            PriorRunner(interface),
            runner,
            self.reward(encoder) if reward else None,
        )
