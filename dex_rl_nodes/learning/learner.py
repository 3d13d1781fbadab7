"""The learner: replay, residual SAC and their book-keeping, without transport (LAMP section 3.3)."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import (
    POLICY_PREFIX,
    check_shapes,
    keep_newest,
    load_numbered,
    numbered,
    save_checkpoint,
    to_bytes,
)
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.networks import Standardiser
from dex_rl_nodes.learning.replay import Dimensions, MixedSampler, ReplayBuffer, Returns
from dex_rl_nodes.learning.sac import Interface, ResidualSac, ResidualSettings
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, Origin, Transition

_CRITIC_TO_ACTOR = 2  # Table B.2
_FEATURE_FLOOR = 1e-2  # spread below which a feature counts as constant
_PROPRIOCEPTION_FLOOR = 2e-2  # 2 cm, 0.02 rad, 2 % of travel
_RECENT = 20  # episodes in the success rate
_USED = 0.05  # unit command; RMS of an arm axis that demonstrations use
_LEAST_REACH = 0.1  # of the residual, on an axis that they do not use
_ENDS = 1000  # slots for the last observations of demonstrations, which start no transition


class Learner:
    """Learns a residual from online transitions and demonstrations.

    Deterministic: the same settings, seed, transitions, device and thread count give the same weights, bit for bit.

    Args:
        settings: see ResidualSettings.
        interface: frozen action interface, on the device.
        demonstrations: every transition of every demonstration, with base actions.
        seed: of weights, minibatches and exploration inside the updates.
        device: where the updates are computed.

    Raises:
        UserError: there are no demonstrations.
    """

    def __init__(
        self,
        settings: ResidualSettings,
        interface: Interface,
        demonstrations: Sequence[Transition],
        seed: int,
        device: torch.device = CPU,
    ):
        if not demonstrations:
            raise UserError('online learning needs demonstrations; collect some with collect_demos.launch.py')
        dimensions = Dimensions.of(demonstrations[0])
        if dimensions.core != interface.core_dim or not dimensions.features:
            raise UserError(
                f'the demonstrations have {dimensions.features} visual features and {dimensions.core} core action '
                f'numbers where {interface.core_dim} are expected; annotate them with this policy and interface'
            )
        self.settings = settings
        self.dimensions = dimensions
        standardiser = _fit_standardiser(dimensions, demonstrations)
        self.sac = ResidualSac(settings, interface, dimensions, standardiser, seed, device)
        self.online, self.demonstrations = (
            ReplayBuffer(dimensions, settings.capacity + kept, settings.own_worth, settings.shown_worth)
            for kept in (0, len(demonstrations) + _ENDS)
        )
        for transition in demonstrations:
            self.demonstrations.add(replace(self._prepared(transition), source=Origin.DEMONSTRATION))
        self.demonstrations.keep()
        returns = Returns(settings.return_ticks, settings.discount)
        self._sampler = MixedSampler(self.online, self.demonstrations, settings.online_share, returns, device)
        self._random = np.random.default_rng(seed)
        rows = ((t.action, t.hand_history[-HAND_DIM:]) for t in demonstrations)
        self.sac.motion.fit(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))
        self.sac.policy.reach[:ARM_DIM] = _arm_reach(demonstrations)
        self.encoder = demonstrations[0].encoder
        self.updates = 0
        self.learned_from = 0  # online transitions that the checkpoint knew which was loaded
        self._ahead = 0  # updates that the transitions at hand do not account for
        self._published = 0
        self.env_steps = 0
        self.sequence = 0  # of the newest transition received
        self.episodes = 0
        self.successes = 0
        self.interventions = 0
        self.rejected = 0  # transitions with numbers that are not finite
        self.retracted = 0  # transitions of episodes that were thrown away
        self._newest_ended = -1  # the newest episode that was counted
        self._recent: deque[bool] = deque(maxlen=_RECENT)

    def _prepared(self, transition: Transition) -> Transition:
        """The transition as the buffers keep it: features standardised, so that sampling need not do it."""
        features = np.stack((transition.features, transition.next_features))
        features = self.sac.standardiser.features(torch.from_numpy(features).to(self.sac.device)).cpu().numpy()
        return replace(transition, features=features[0], next_features=features[1])

    def add(self, transition: Transition) -> bool:
        """Take one online transition; interventions also become demonstrations, imitated after a success alone.

        A retraction takes back all that its episode has brought, but for what was learned from it until then;
        `env_steps` goes on counting its steps, for the robot has done them.

        Returns:
            False where it was already known (its sequence number is not new), holds numbers that are not finite, or is
            a retraction.

        Raises:
            UserError: it was made with another encoder or interface than the demonstrations.
        """
        if transition.sequence <= self.sequence:
            return False
        if transition.source == Origin.RETRACTION:
            self._retract(transition)
            return False
        if transition.encoder != self.encoder or Dimensions.of(transition) != self.dimensions:
            raise UserError(
                f'transition {transition.sequence} was made with encoder "{transition.encoder}" and '
                f'{Dimensions.of(transition)}, the demonstrations with "{self.encoder}" and {self.dimensions}; '
                'start a new run'
            )
        self.sequence = transition.sequence
        self.env_steps += 1
        if not _finite(transition):
            self.rejected += 1
            return False
        prepared = self._prepared(transition)
        self.online.add(prepared)
        if transition.source != Origin.POLICY:
            self.demonstrations.add(prepared)
            self.interventions += 1
        if transition.truncated or transition.mask == 0:
            self.episodes += 1
            self.successes += transition.success
            if transition.success:
                self.online.praise(transition.episode)
                self.demonstrations.praise(transition.episode)
            self._recent.append(bool(transition.success))
            self._newest_ended = transition.episode
        return True

    def _retract(self, retraction: Transition) -> None:
        episode, self.sequence = retraction.episode, retraction.sequence
        self.retracted += self.online.forget(episode)
        self.interventions -= self.demonstrations.forget(episode)
        if self._newest_ended == episode:
            self.episodes -= 1
            self.successes -= self._recent.pop()
            self._newest_ended = -1

    def extend(self, transitions: Sequence[Transition]) -> None:
        """Take many online transitions, for example those recorded before a restart."""
        for transition in transitions:
            self.add(transition)

    @property
    def ready(self) -> bool:
        """Whether `update` may run: enough online transitions, and the update budget is not used up."""
        return self.owed > 0

    @property
    def owed(self) -> int:
        """Updates that the transitions at hand allow and that were not made."""
        enough = len(self.online) >= self.settings.start
        return max(0, self._budget(self.env_steps) - (self.updates - self._ahead)) if enough else 0

    @property
    def behind(self) -> int:
        """Updates that are owed, where they are enough for new weights; else 0."""
        return self.owed if self.owed > self.settings.publish_every else 0

    def _budget(self, transitions: int) -> int:
        return int(transitions * self.settings.updates_per_step)

    def expect(self, transitions: int) -> None:
        """Say how many online transitions are recorded. What is lost is not waited for again before updates go on."""
        self._ahead = max(0, self.updates - self._budget(transitions))

    def update(self) -> dict[str, float]:
        """One learner iteration; returns losses and statistics by name."""
        batches = [self._sampler.sample(self.settings.batch, self._random) for _ in range(_CRITIC_TO_ACTOR)]
        metrics = self.sac.update(batches, train_actor=self.updates >= self.settings.critic_warmup)
        self.updates += 1
        return metrics

    @property
    def success_rate(self) -> float:
        """Share of successes in the newest 20 online episodes, 0 before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def version(self) -> int:
        """Number of the newest weights that are due for publication; 0: none yet."""
        return self.updates // self.settings.publish_every

    def new_weights(self) -> tuple[int, bytes, str] | None:
        """Version, safetensors file and SHA-256, if weights are due that this returned not before."""
        if self.version <= self._published:
            return None
        self._published = self.version
        return self.version, *self.weights()

    def weights(self) -> tuple[bytes, str]:
        """The present policy as a safetensors file for ResidualRunner, and its SHA-256."""
        return to_bytes(self.sac.policy.state_dict())

    def progress(self) -> dict[str, float]:
        """Counters, by the names of LearnerState."""
        return {
            'env_steps': self.env_steps,
            'updates': self.updates,
            'episodes': self.episodes,
            'successes': self.successes,
            'interventions': self.interventions,
            'success_rate': self.success_rate,
        }

    def save(self, folder: Path) -> Path:
        """Write `step_<updates>` into a folder and delete all but the newest three."""
        meta = {
            'updates': self.updates,
            'version': self.version,
            'env_steps': self.env_steps,
            'sequence': self.sequence,
            'encoder': self.encoder,
            'random': self._random.bit_generator.state,
            'settings': self.settings.model_dump(),
        }
        path = folder / f'step_{self.updates}.safetensors'
        policy = {POLICY_PREFIX + name: tensor for name, tensor in self.sac.policy.state_dict().items()}
        save_checkpoint(path, self.sac.state() | policy, meta)
        keep_newest(folder)
        return path

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of `save`. Replay is filled by `extend`, from the recorded transitions.

        Raises:
            UserError: missing, damaged, of another network or encoder.
        """
        checkpoint = load_numbered(path)
        tensors = {name: value for name, value in checkpoint.tensors.items() if not name.startswith(POLICY_PREFIX)}
        try:
            check_shapes(tensors, {name: tuple(tensor.shape) for name, tensor in self.sac.state().items()}, str(path))
        except UserError as error:
            raise UserError(
                f'{str(error).removesuffix("; train it again")}; delete {path.parent} to learn anew from the recorded '
                'transitions, or choose a new run:=NAME'
            ) from None
        if checkpoint.meta.get('encoder') != self.encoder:
            raise UserError(f'{path} belongs to another visual encoder; start a new run')
        self.sac.load_state(tensors)
        self._random.bit_generator.state = checkpoint.meta['random']
        self.updates = checkpoint.meta['updates']
        self.learned_from = checkpoint.meta['env_steps']
        self._published = 0  # whoever listens may have missed the newest weights

    def load_newest(self, folder: Path) -> Path | None:
        """Go on from the newest complete checkpoint of a folder; None without one."""
        found = numbered(folder)
        if not found:
            return None
        self.load(found[-1])
        return found[-1]


def _fit_standardiser(dimensions: Dimensions, demonstrations: Sequence[Transition]) -> Standardiser:
    standardiser = Standardiser(dimensions.features, dimensions.proprioception)
    features = np.stack([t.features for t in demonstrations])
    rows = np.stack([np.concatenate((t.state, t.hand_history, t.context, t.base_core)) for t in demonstrations])
    standardiser.fit('features', torch.from_numpy(features), _FEATURE_FLOOR)
    standardiser.fit('proprioception', torch.from_numpy(rows), _PROPRIOCEPTION_FLOOR)
    return standardiser


def _arm_reach(demonstrations: Sequence[Transition]) -> Tensor:
    """Share of its scale that the residual of every arm axis gets (6,): less where demonstrations hardly command it."""
    commanded = np.sqrt(np.mean([np.square(t.action[:ARM_DIM]) for t in demonstrations], axis=0))
    return torch.from_numpy(np.clip(commanded / _USED, _LEAST_REACH, 1.0).astype(np.float32))


def _finite(transition: Transition) -> bool:
    t = transition
    numbers = (t.features, t.state, t.hand_history, t.context, t.base_core, t.action, (t.reward, t.mask))
    following = (t.next_features, t.next_state, t.next_hand_history, t.next_context, t.next_base_core)
    return all(np.isfinite(part).all() for part in numbers + following)
