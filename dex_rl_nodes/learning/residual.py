"""The residual actor at run time: one core action per tick (LAMP Eq. 7 and 8)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import POLICY_PREFIX, check_shapes, from_bytes, load_numbered, module_shapes
from dex_rl_nodes.learning.networks import Actor, Hidden, ResidualPolicy, Standardiser
from dex_rl_nodes.learning.sac import Interface
from dex_rl_nodes.records import ARM_DIM, CoreAction, PolicyStep

# of a wandering residual: smallest and largest spread before tanh of an episode, ticks that its noise spans, and how
# many times further the arm goes
_SPREADS, _CORRELATED = (0.3, 1.2), 8
_WIDER = 2.5


class ResidualRunner:
    """Adds the learned residual to the base core action; none before the first weights.

    Args:
        interface: frozen action interface; gives the scale of the residual.
    """

    def __init__(self, interface: Interface):
        self.scale = self._interface_scale = np.asarray(interface.residual_scale(), np.float32)
        self.version = 0
        self._core_dim = interface.core_dim
        self._policy: ResidualPolicy | None = None

    @property
    def has_weights(self) -> bool:
        """Whether there is a learned residual; without one it is zero."""
        return self._policy is not None

    def load_weights(self, data: bytes, version: int, sha256: str | None = None) -> None:
        """Take the weights of `Learner.weights`; the old ones stay where these are refused.

        Raises:
            UserError: damaged, not finite, or of another network.
        """
        name = f'residual weights {version}'
        self._take(from_bytes(data, sha256, name=name), version, name)

    def load_checkpoint(self, path: Path) -> None:
        """Take the policy out of a checkpoint of `Learner.save`; UserError as for `load_weights`."""
        checkpoint = load_numbered(path)
        tensors = {
            name.removeprefix(POLICY_PREFIX): tensor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(POLICY_PREFIX)
        }
        self._take(tensors, int(checkpoint.meta.get('version', 0)), str(path))

    def _take(self, tensors: dict[str, Tensor], version: int, name: str) -> None:
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise UserError(f'{name} hold numbers that are not finite; go back to an older checkpoint')
        try:
            features = len(tensors['standardiser.features_mean'])
            proprioception = len(tensors['standardiser.proprioception_mean'])
            projection = len(tensors['project.linear.weight'])
            width = len(tensors['actor.second.linear.weight'])
        except KeyError as error:
            raise UserError(f'{name} lack {error}, so they are of another version; learn anew with run:=NAME') from None
        actor = Actor(projection, proprioception, self._core_dim, width, initial_std=1.0)
        policy = ResidualPolicy(Standardiser(features, proprioception), Hidden(features, projection), actor)
        check_shapes(tensors, module_shapes(policy), name)
        policy.load_state_dict(tensors)
        self._policy = policy.eval().requires_grad_(False)
        self.scale = self._interface_scale * policy.reach.numpy()
        self.version = version

    def step(self, step: PolicyStep, seed: int, deterministic: bool = False) -> CoreAction:
        """Core action of one tick.

        Args:
            step: the tick as the policy saw it.
            seed: of the exploration noise, together with episode and step.
            deterministic: True: mode of the actor; False: sample.

        Raises:
            UserError: the weights expect other inputs.
        """
        residual = self._residual(step, seed, deterministic)
        return CoreAction(
            stamp=step.stamp,
            episode=step.episode,
            step=step.step,
            core=step.base_core + self.scale * residual,
            residual=residual,
            weights_version=self.version,
            deterministic=deterministic,
            context=step.context,
        )

    @torch.inference_mode()
    def _residual(self, step: PolicyStep, seed: int, deterministic: bool) -> np.ndarray:
        policy = self._policy
        if policy is None:
            return np.zeros(self._core_dim, np.float32)
        row = np.concatenate((step.state, step.hand_history, step.context, step.base_core))
        expected = (len(policy.standardiser.features_mean), len(policy.standardiser.proprioception_mean))
        if (len(step.features), len(row)) != expected:
            raise UserError(
                f'the residual weights expect {expected[0]} visual features and {expected[1]} other inputs, the policy '
                f'sends {len(step.features)} and {len(row)}; use the policy and interface they were trained with'
            )
        mean, log_std = policy(torch.from_numpy(step.features[None]), torch.from_numpy(row[None]))
        if deterministic:
            return mean[0].tanh().numpy()
        noise = np.random.default_rng([seed, step.episode, step.step]).standard_normal(self._core_dim, np.float32)
        return (mean + log_std.exp() * torch.from_numpy(noise))[0].tanh().numpy()


class WanderingResidual(ResidualRunner):
    """A residual at random, as of an agent that has learned nothing; some episodes go far astray, others hardly.

    The classifier learns from such episodes what it would otherwise see for the first time when an agent looks for it.
    The noise is the sum of the draws of some ticks, for white noise cancels itself; like that of an actor it depends
    on seed, episode and step alone. The arm strays further in a tick than a residual can take it, for an agent may
    push the same way through a whole episode.
    """

    def __init__(self, interface: Interface):
        super().__init__(interface)
        self.scale = np.concatenate((_WIDER * self.scale[:ARM_DIM], self.scale[ARM_DIM:]))

    def _residual(self, step: PolicyStep, seed: int, deterministic: bool) -> np.ndarray:
        spread = np.random.default_rng([seed, step.episode]).uniform(*_SPREADS)
        generators = [np.random.default_rng([seed, step.episode, step.step + n]) for n in range(_CORRELATED)]
        noise = sum(generator.standard_normal(self._core_dim) for generator in generators) / np.sqrt(_CORRELATED)
        return np.tanh(spread * noise).astype(np.float32)
