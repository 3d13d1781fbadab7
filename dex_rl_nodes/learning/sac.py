"""Residual soft actor-critic on the executed action (LAMP section 3.3, Table B.2).

The actor proposes a unit residual u; the executed action is decode(base + scale * u). The critic sees the executed
action, so demonstrations need no residual. Choices the paper leaves open carry the reason beside the setting.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from dex_rl_nodes.config import Model
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.flat import FlatParameters
from dex_rl_nodes.learning.networks import (
    Actor,
    Critic,
    Hidden,
    Motion,
    ResidualPolicy,
    Standardiser,
    native_bfloat16,
    squash,
)
from dex_rl_nodes.learning.replay import Batch, Dimensions
from dex_rl_nodes.records import ACTION_DIM, ARM_DIM


class ResidualSettings(Model):
    """Settings of residual actor, critic and algorithm; defaults are Table B.2 where it has a row."""

    width: int = Field(256, ge=8, description='width of the two hidden layers of actor and critic')
    members: int = Field(2, ge=1, description='critics in the ensemble; the target takes their minimum')
    projection: int = Field(128, ge=4, description='length of the visual features as the critic projects them')
    actor_projection: int = Field(
        256,
        ge=4,
        description='length of the visual features as the actor projects them; its own, because what few rewards teach '
        'the projection of the critic does not say where things are',
    )
    discount: float = Field(0.97, gt=0, lt=1, description='discount per control tick')
    return_ticks: int = Field(
        3, ge=1, description='ticks whose rewards are summed before the target value; a reward is 50 ticks away'
    )
    batch: int = Field(256, ge=2, description='transitions per minibatch')
    online_share: float = Field(0.5, gt=0, lt=1, description='share of online transitions in a minibatch')
    capacity: int = Field(200_000, ge=1000, description='online transitions kept, and interventions')
    start: int = Field(100, ge=1, description='online transitions before the first update')
    publish_every: int = Field(50, ge=1, description='updates between two publications of the weights')
    updates_per_step: float = Field(1.0, gt=0, description='learner iterations per online transition, at most')
    critic_warmup: int = Field(1000, ge=0, description='learner iterations before the first step of the actor')
    learning_rate: float = Field(3e-4, gt=0, description='Adam, for critic and actor')
    temperature_learning_rate: float = Field(1e-3, gt=0, description='Adam, for the logarithm of the temperature')
    target_rate: float = Field(0.005, gt=0, le=1, description='share of the critic entering its target per step')
    initial_temperature: float = Field(0.01, gt=0, description='entropy temperature at the start')
    target_entropy: float = Field(-0.5, description='entropy aimed at, per dimension of the unit residual (nats)')
    initial_std: float = Field(
        0.5,
        gt=0,
        le=1,
        description='spread of the residual at the start; wide, so that the critic sees residuals',
    )
    residual_penalty: float = Field(
        0.02, ge=0, description='weight of |u|^2 in the actor loss: far from the base only where the critic is sure'
    )
    imitation_weight: float = Field(
        2.0,
        ge=0,
        description='weight, in the actor loss, of the squared difference between the action of the mean residual and '
        'what led to a success in the same place; 0: as in the paper',
    )
    own_worth: float = Field(
        0.3,
        ge=0,
        le=1,
        description='share with which own actions of a successful episode are imitated: after the last help, and of '
        'the part that nobody held during it; what a person did counts 1',
    )
    shown_worth: float = Field(
        0.2,
        gt=0,
        le=1,
        description='share with which demonstrations are imitated, which the base policy knows already; what a person '
        'did online counts 1',
    )
    imitation_noise: float = Field(
        0.1,
        ge=0,
        description='noise on state, history, context and base action where the actor imitates, in units of their '
        'spread over the demonstrations (std); keeps it from going on as the history does',
    )
    feature_noise: float = Field(
        0.2,
        ge=0,
        description='noise on the visual features where the actor imitates, in units of their spread over the '
        'demonstrations (std); keeps it from learning single frames by heart',
    )
    backup_entropy: bool = Field(
        False, description='entropy in the target value (Eq. 9); off, because it can exceed a sparse reward'
    )
    clip_target: bool = Field(
        True,
        description='keep target values in [0, 1], the range for a reward of 1 that ends the episode; with '
        'backup_entropy they leave it, and are not kept',
    )
    precision: Literal['auto', 'float32', 'bfloat16'] = Field(
        'auto', description='of the matrix products; auto: bfloat16 where the processor multiplies it natively'
    )


class Interface(Protocol):
    """What the algorithm needs of an action interface."""

    core_dim: int

    def decode(self, core: Tensor, context: Tensor) -> Tensor:
        """Core actions (B, core_dim) and contexts (B, C) -> executed actions (B, 12), differentiable."""

    def residual_scale(self) -> Tensor:
        """Core action units per unit residual (core_dim,)."""


class ResidualSac:
    """Networks, optimisers and update rules of the residual agent.

    Args:
        settings: see ResidualSettings.
        interface: frozen action interface, on the device.
        dimensions: lengths of the arrays of a transition.
        standardiser: fitted on the demonstrations, as `motion` must be; moved to the device.
        seed: of the initial weights and of the sampled residuals.
        device: of networks and batches.
    """

    def __init__(
        self,
        settings: ResidualSettings,
        interface: Interface,
        dimensions: Dimensions,
        standardiser: Standardiser,
        seed: int,
        device: torch.device = CPU,
    ):
        self.settings = settings
        self.interface = interface
        self.device = device
        self.standardiser, self.motion = standardiser.to(device), Motion().to(device)
        self.noise = torch.Generator().manual_seed(seed)
        native = device == CPU and native_bfloat16()
        low = settings.precision == 'bfloat16' or (settings.precision == 'auto' and native)
        sizes = (dimensions.features, dimensions.proprioception)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = (*sizes, ACTION_DIM, settings.projection, settings.width, settings.members, low)
            self.critic, self.target = Critic(*shape).to(device), Critic(*shape).to(device)
            actor_project = Hidden(sizes[0], settings.actor_projection, low)
            actor = Actor(
                settings.actor_projection, sizes[1], interface.core_dim, settings.width, settings.initial_std, low
            )
        self.policy = ResidualPolicy(self.standardiser, actor_project, actor).to(device)
        self._critic = FlatParameters(self.critic)
        self._actor = FlatParameters(nn.ModuleList([self.policy.project, self.policy.actor]))
        self._target = FlatParameters(self.target, trained=False)
        self._critic_optimiser, self._actor_optimiser = (
            torch.optim.Adam([part.vector], lr=settings.learning_rate, fused=True)
            for part in (self._critic, self._actor)
        )
        self._target.vector.data.copy_(self._critic.vector)
        self.log_temperature = nn.Parameter(torch.tensor([math.log(settings.initial_temperature)]))
        self._temperature_optimiser = torch.optim.Adam([self.log_temperature], lr=settings.temperature_learning_rate)
        self.skipped = 0  # steps not taken because a gradient was not finite

    @property
    def scale(self) -> Tensor:
        """Core action units per unit residual (core_dim,)."""
        return self.interface.residual_scale() * self.policy.reach

    @property
    def temperature(self) -> float:
        return math.exp(self.log_temperature.item())

    def update(self, batches: Sequence[Batch], train_actor: bool = True) -> dict[str, float]:
        """One learner iteration: the critic on every batch; actor and temperature after the last (Table B.2).

        Args:
            batches: two for the critic-to-actor ratio 2.
            train_actor: False while the critic warms up.
        """
        for batch in batches:
            metrics = self._update_critic(batch)
        if train_actor:
            metrics |= self._update_actor(batches[-1])
        return metrics

    def _propose(self, projected: Tensor, proprioception: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled unit residual (B, d) and its log-probability (B,)."""
        mean, log_std = self.policy.actor(projected, proprioception)
        return squash(mean, log_std, self._draw(mean))

    def _draw(self, like: Tensor) -> Tensor:
        """Standard normal numbers of a shape, the same on every device."""
        return torch.randn(like.shape, generator=self.noise).to(self.device)

    def _execute(self, residual: Tensor, base: Tensor, context: Tensor) -> Tensor:
        """Executed action (B, 12) of a residual on a base core action (Eq. 8)."""
        return self.interface.decode(base + self.scale * residual, context).clamp(-1, 1)

    @torch.no_grad()
    def target_values(self, batch: Batch) -> Tensor:
        """r + gamma * mask * min_i Q_i(s', a') with a' from the current actor, (B,)."""
        proprioception = self.standardiser.proprioception(batch.next_proprioception)
        embedding = self.target.embed(batch.next_features, proprioception)
        residual, log_probability = self._propose(self.policy.project(batch.next_features), proprioception)
        action = self._execute(residual, *batch.interface_inputs(following=True))
        motion = self.motion(action, batch.last_hand_target(following=True))
        values = self.target(embedding, motion).amin(0)
        if self.settings.backup_entropy:
            values = values - self.temperature * log_probability
        targets = batch.reward + self.settings.discount * batch.mask * values
        bounded = self.settings.clip_target and not self.settings.backup_entropy
        return targets.clamp_(0, 1) if bounded else targets

    def values(self, batch: Batch) -> Tensor:
        """Q of the actions of a batch, (E, B)."""
        proprioception = self.standardiser.proprioception(batch.proprioception)
        motion = self.motion(batch.action, batch.last_hand_target(following=False))
        return self.critic(self.critic.embed(batch.features, proprioception), motion)

    def _update_critic(self, batch: Batch) -> dict[str, float]:
        targets = self.target_values(batch)
        values = self.values(batch)
        errors = (values - targets).square().mean(1)
        self._step(self._critic, self._critic_optimiser, errors.sum())
        self._target.vector.data.lerp_(self._critic.vector.data, self.settings.target_rate)
        return {'critic_loss': float(errors.detach().mean()), 'value': float(values.detach().mean())}

    def _update_actor(self, batch: Batch) -> dict[str, float]:
        proprioception = self.standardiser.proprioception(batch.proprioception)
        with torch.no_grad():
            embedding = self.critic.embed(batch.features, proprioception)
        self._critic.require_gradients(False)
        projected = self.policy.project(batch.features)
        residual, log_probability = self._propose(projected, proprioception)
        base, context = batch.interface_inputs(following=False)
        action = self._execute(residual, base, context)
        motion = self.motion(action, batch.last_hand_target(following=False))
        value = self.critic(embedding, motion).mean(0)
        penalty = self.settings.residual_penalty * residual.square().sum(1)
        imitation = self._imitation_error(proprioception, batch)
        loss = (self.temperature * log_probability + penalty - value).mean()
        loss = loss + self.settings.imitation_weight * imitation
        self._step(self._actor, self._actor_optimiser, loss)
        self._critic.require_gradients(True)

        entropy = -float(log_probability.detach().mean())
        excess = entropy - self.settings.target_entropy * self.interface.core_dim
        if math.isfinite(excess):
            self.log_temperature.grad = torch.tensor([self.temperature * excess])
            self._temperature_optimiser.step()
        metrics = {'actor_loss': loss, 'imitation_error': imitation}
        metrics = {name: float(value.detach()) for name, value in metrics.items()}
        return {**metrics, 'entropy': entropy, 'temperature': self.temperature}

    def _imitation_error(self, proprioception: Tensor, batch: Batch) -> Tensor:
        """Squared difference to the actions that are worth imitating, of both halves, per row of the half of people.

        Where nothing was commanded there is nothing to imitate, as in the cloning of the base policy. Of what the arm
        did, so much is imitated as the residual reaches: the rest would drown what it can do, and drive it to its
        limits.
        An action of a person online lies in both buffers and is imitated as often as it is drawn from either.
        """
        rows = (batch.worth.any(1) & ~batch.idle).nonzero()[:, 0]
        features, inputs = batch.features[rows], proprioception[rows]
        mean, _ = self.policy.actor(
            self.policy.project(features + self.settings.feature_noise * self._draw(features)),
            inputs + self.settings.imitation_noise * self._draw(inputs),
        )
        base, context = (part[rows] for part in batch.interface_inputs(following=False))
        arm, reach = base[:, :ARM_DIM], self.scale[:ARM_DIM]
        wanted = batch.action[rows]
        wanted[:, :ARM_DIM] = torch.clamp(wanted[:, :ARM_DIM], arm - reach, arm + reach)
        errors = (self._execute(mean.tanh(), base, context) - wanted).square()
        parts = torch.stack((errors[:, :ARM_DIM].sum(1), errors[:, ARM_DIM:].sum(1)), 1)
        return (parts * batch.worth[rows]).sum() / max(1, len(batch.action) - batch.online)

    def _step(self, parameters: FlatParameters, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimiser step; none where the gradient is not finite."""
        if parameters.backward(loss):
            optimiser.step()
        else:
            self.skipped += 1

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while learning, by name."""
        tensors = {
            'critic': self._critic.vector.data,
            'target': self._target.vector.data,
            'actor': self._actor.vector.data,
            'log_temperature': self.log_temperature.data,
            'reach': self.policy.reach,
            'noise': self.noise.get_state(),
        }
        for prefix, module in self._scales().items():
            tensors |= {f'{prefix}.{name}': value for name, value in module.state_dict().items()}
        for name, optimiser in self._optimisers().items():
            for key, value in (optimiser.state_dict()['state'].get(0) or _no_steps(optimiser)).items():
                tensors[f'optimiser.{name}.{key}'] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned; the shapes must be those of `state`."""
        self._critic.vector.data.copy_(tensors['critic'])
        self._target.vector.data.copy_(tensors['target'])
        self._actor.vector.data.copy_(tensors['actor'])
        self.log_temperature.data.copy_(tensors['log_temperature'])
        self.policy.reach.copy_(tensors['reach'])
        self.noise.set_state(tensors['noise'].clone())
        for prefix, module in self._scales().items():
            module.load_state_dict({name: tensors[f'{prefix}.{name}'] for name in module.state_dict()})
        for name, optimiser in self._optimisers().items():
            content = optimiser.state_dict()
            prefix = f'optimiser.{name}.'
            own = {key: tensor.clone() for key, tensor in tensors.items() if key.startswith(prefix)}
            content['state'] = {0: {key.removeprefix(prefix): tensor for key, tensor in own.items()}}
            optimiser.load_state_dict(content)

    def _scales(self) -> dict[str, nn.Module]:
        return {'standardiser': self.standardiser, 'motion': self.motion}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            'critic': self._critic_optimiser,
            'actor': self._actor_optimiser,
            'temperature': self._temperature_optimiser,
        }


def _no_steps(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an Adam that has not stepped yet."""
    parameter = optimiser.param_groups[0]['params'][0]
    zeros = torch.zeros_like(parameter.data)
    return {'step': torch.tensor(0.0), 'exp_avg': zeros, 'exp_avg_sq': zeros.clone()}
