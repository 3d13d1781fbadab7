"""Behaviour cloning in the coordinates of an action interface (LAMP section 3.2, appendix B.2)."""

import copy
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dex_rl_nodes.config import Model
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import load_checkpoint, module_shapes, save_checkpoint
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.demonstrations import Steps, stack_steps
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.encoder import VisualEncoder, encode_batches
from dex_rl_nodes.learning.flat import FlatParameters
from dex_rl_nodes.learning.interfaces import ActionInterface
from dex_rl_nodes.learning.schedule import Progress, low_precision, no_progress, split_episodes, warmup_cosine
from dex_rl_nodes.learning.vision import Augmentation, augment
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, HISTORY_LENGTH, STATE_DIM, HandPrior, Observation, PolicyStep

# Smallest scale of the state: position (m), rotation (rad), measured hand (normalised travel).
_STATE_FLOOR = [0.01] * 3 + [0.05] * 3 + [0.1] * HAND_DIM
_FEATURE_FLOOR = 0.1  # of the mean standard deviation of the features


class PolicySettings(Model):
    """How the base policy is trained; defaults: LAMP Table B.1."""

    hidden: list[int] = Field([512, 512, 256], description='widths of the hidden layers of the head')
    steps: int = Field(20_000, ge=1, description='optimiser steps')
    batch_size: int = Field(128, ge=1, description='control ticks per step')
    learning_rate: float = Field(5e-4, gt=0, description='AdamW learning rate after warm-up')
    weight_decay: float = Field(1e-4, ge=0, description='AdamW weight decay')
    warmup_steps: int = Field(500, ge=1, description='linear learning-rate warm-up (steps), then cosine to 0')
    noise: float = Field(0.10, ge=0, description='noise on standardised state and on the history (std)')
    hand_weight: float = Field(1.0, ge=0, description='lambda_h of Eq. 6')
    offset_weight: float = Field(1e-3, ge=0, description='lambda_z of Eq. 6')
    gradient_clip: float = Field(1.0, gt=0, description='largest gradient norm')
    image_copies: int = Field(
        8, ge=0, description='augmented copies of every frame that are encoded; 0: the frame itself'
    )
    augmentation: Augmentation = Field(Augmentation(shift=8), description='of those copies')
    dropout: float = Field(0.0, ge=0, lt=1, description='dropout on the visual features')


class BCPolicy(nn.Module):
    """Frozen features, state, history and context to a core action."""

    def __init__(self, feature_dim: int, context_dim: int, core_dim: int, settings: PolicySettings):
        super().__init__()
        self.feature_dim, self.context_dim, self.core_dim = feature_dim, context_dim, core_dim
        self.register_buffer('feature_mean', torch.zeros(feature_dim))
        self.register_buffer('feature_std', torch.ones(feature_dim))
        self.register_buffer('state_mean', torch.zeros(STATE_DIM))
        self.register_buffer('state_std', torch.ones(STATE_DIM))
        self.dropout = nn.Dropout(settings.dropout)
        inputs = feature_dim + STATE_DIM + HISTORY_LENGTH * HAND_DIM + context_dim
        stack: list[nn.Module] = []
        for a, b in itertools.pairwise([inputs, *settings.hidden]):
            stack += [nn.Linear(a, b), nn.ReLU()]
        self.trunk = nn.Sequential(*stack)
        self.output = nn.Linear(settings.hidden[-1], core_dim)

    def forward(self, features: Tensor, state: Tensor, history: Tensor, context: Tensor) -> Tensor:
        """Core action (B, core_dim) of features, state (B, 12), history (B, 48) and context, all in their own units."""
        inputs = [
            self.dropout((features - self.feature_mean) / self.feature_std),
            (state - self.state_mean) / self.state_std,
            2 * history - 1,
            context,
        ]
        return self.output(self.trunk(torch.cat(inputs, dim=1)).float())

    def fit_normaliser(self, features: Tensor, state: Tensor) -> None:
        """Set the units of features (N, F) and state (N, 12) from training data."""
        std = features.std(0)
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(std.clamp_min(_FEATURE_FLOOR * float(std.mean()) + 1e-6))
        self.state_mean.copy_(state.mean(0))
        self.state_std.copy_(torch.maximum(state.std(0), torch.tensor(_STATE_FLOOR)))

    def freeze(self) -> 'BCPolicy':
        """Never to be trained again."""
        self.train(False)
        return self.requires_grad_(False)


def train_policy(
    episodes: Sequence[Episode],
    encoder: VisualEncoder,
    interface: ActionInterface,
    settings: PolicySettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    device: torch.device = CPU,
) -> tuple[BCPolicy, dict]:
    """Clone the demonstrations (Eq. 6): the target at observation n is the action executed at tick n.

    Ticks in which the person commands nothing are left out, see `is_idle`.

    Args:
        episodes: successful demonstrations; split 9:1 as for the prior.
        encoder, interface: frozen; the interface on the processor, the encoder anywhere.
        device: where it is trained.

    Returns:
        The frozen policy; what was measured on the held-out episodes.
    """
    settings = settings or PolicySettings()
    train, test = split_episodes(len(episodes), seed)
    fit_on, test_on = (stack_steps([episodes[i] for i in part]).moving() for part in (train, test))
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    features = encode_copies(encoder, fit_on, settings, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = BCPolicy(encoder.feature_dim, interface.context_dim, interface.core_dim, settings)
        policy.fit_normaliser(features[0].float(), torch.from_numpy(fit_on.state))
        curve = _optimise(policy.to(device), interface, features, fit_on, settings, generator, progress, device)
    policy.cpu().freeze()
    metrics = {
        'test': evaluate_policy(policy, encoder, interface, test_on),
        'train': evaluate_policy(policy, encoder, interface, fit_on),
        'loss_curve': curve,
        'train_episodes': train,
        'test_episodes': test,
        'train_ticks': len(fit_on),
        'steps': settings.steps,
        'seed': seed,
        'seconds': round(time.monotonic() - started, 2),
        'encoder': encoder.identity,
        'interface': interface.identity,
    }
    return policy, metrics


def encode_copies(encoder: VisualEncoder, steps: Steps, settings: PolicySettings, generator: torch.Generator) -> Tensor:
    """Features float16 (copies + 1, N, F): of the frames as they are, then of augmented copies of them."""

    def rounds() -> Iterator[Mapping[str, np.ndarray]]:
        yield steps.images
        for _ in range(settings.image_copies):
            yield {view: augment(frames, settings.augmentation, generator) for view, frames in steps.images.items()}

    return torch.stack([torch.from_numpy(features).half() for features in encode_batches(encoder, rounds())])


def _optimise(
    policy: BCPolicy,
    interface: ActionInterface,
    features: Tensor,
    steps: Steps,
    settings: PolicySettings,
    generator: torch.Generator,
    progress: Progress,
    device: torch.device,
) -> list[list[float]]:
    """Minimise Eq. 6; returns [step, loss] now and then.

    The next minibatch is drawn in a second thread meanwhile: the same numbers in the same order, a tenth sooner.
    """
    state, history, action = (torch.from_numpy(x) for x in (steps.state, steps.hand_history, steps.action))
    copies, count = features.shape[:2]
    flat = features.flatten(0, 1)

    @torch.no_grad()
    def draw() -> tuple[Tensor, ...]:
        rows = torch.randint(count, (settings.batch_size,), generator=generator)
        copy = torch.randint(copies, (settings.batch_size,), generator=generator)
        noisy_state, noisy_history = _noisy(state[rows], history[rows], spread, settings.noise, generator)
        seen = flat[copy * count + rows].float()
        return seen, noisy_state, noisy_history, interface.context(noisy_history), action[rows]

    there, spread = copy.deepcopy(interface).to(device), policy.state_std.cpu()
    parameters, curve = FlatParameters(policy), []
    optimiser = torch.optim.AdamW(
        [parameters.vector], lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    with ThreadPoolExecutor(1, 'minibatches', torch.set_num_threads, (torch.get_num_threads(),)) as ahead:
        drawn = ahead.submit(draw)
        for step in range(settings.steps):
            rate = settings.learning_rate * warmup_cosine(step, settings.warmup_steps, settings.steps)
            optimiser.param_groups[0]['lr'] = rate
            batch, drawn = drawn.result(), ahead.submit(draw)
            *inputs, wanted = (part.to(device) for part in batch)
            with low_precision(device):
                core = policy(*inputs)
            loss = policy_loss(core, wanted, inputs[-1], there, settings)
            parameters.descend(optimiser, loss, 'the policy', settings.gradient_clip)
            if step % 200 == 199 or step + 1 == settings.steps:
                progress(step + 1, settings.steps)
            if step % 1000 == 999 or step + 1 == settings.steps:
                curve.append([step + 1, round(float(loss.detach()), 5)])
    return curve


def _noisy(
    state: Tensor, history: Tensor, scale: Tensor, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """State (unit: its deviation) and history (unit: full travel) with noise, against copying the last action."""
    state = state + noise * scale * torch.randn(state.shape, generator=generator)
    return state, history + noise * torch.randn(history.shape, generator=generator)


def policy_loss(
    core: Tensor, action: Tensor, context: Tensor, interface: ActionInterface, settings: PolicySettings
) -> Tensor:
    """Eq. 6: arm error, error of the decoded hand target ([0, 1] travel), and the penalty of the interface."""
    decoded = interface.decode(core, context)
    arm = (core[:, :ARM_DIM] - action[:, :ARM_DIM]).square().sum(1)
    hand = (decoded[:, ARM_DIM:] - action[:, ARM_DIM:]).square().sum(1) / 4
    penalty = interface.hand_penalty(core[:, ARM_DIM:], (action[:, ARM_DIM:] + 1) / 2, context)
    weight = settings.offset_weight if interface.penalty_weight is None else interface.penalty_weight
    return (arm + settings.hand_weight * hand + weight * penalty).mean()


@torch.inference_mode()
def evaluate_policy(policy: BCPolicy, encoder: VisualEncoder, interface: ActionInterface, steps: Steps) -> dict:
    """One-step errors on demonstrations: arm in unit commands, hand in normalised travel."""
    history = torch.from_numpy(steps.hand_history)
    context = interface.context(history)
    core = policy(torch.from_numpy(encoder.encode_batch(steps.images)), torch.from_numpy(steps.state), history, context)
    error = interface.decode(core, context, clip=True) - torch.from_numpy(steps.action)
    hand = error[:, ARM_DIM:] / 2
    copied = (history[:, -HAND_DIM:] * 2 - 1 - torch.from_numpy(steps.action)[:, ARM_DIM:]) / 2
    return {
        'arm_rmse': round(float(error[:, :ARM_DIM].square().mean().sqrt()), 5),
        'hand_rmse': round(float(hand.square().mean().sqrt()), 5),
        'hand_rmse_of_copying': round(float(copied.square().mean().sqrt()), 5),
        'offset_rms': [round(value, 4) for value in core[:, ARM_DIM:].square().mean(0).sqrt().tolist()],
        'ticks': len(steps),
    }


def save_policy(path: Path, policy: BCPolicy, settings: PolicySettings, meta: dict) -> None:
    """Write a policy; `meta` names encoder and interface by identity, as `train_policy` returns them."""
    dims = {'feature_dim': policy.feature_dim, 'context_dim': policy.context_dim, 'core_dim': policy.core_dim}
    save_checkpoint(path, policy.state_dict(), {**dims, 'settings': settings.model_dump(), **meta})


def load_policy(path: Path, encoder: VisualEncoder | None = None, interface: ActionInterface | None = None) -> BCPolicy:
    """Read a policy, frozen.

    Raises:
        UserError: missing, damaged, or trained with another encoder or interface than given.
    """
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    for key, part in (('encoder', encoder), ('interface', interface)):
        if part is not None and meta.get(key) != part.identity:
            raise UserError(
                f'{path} was trained with {key} {meta.get(key)}, not {part.identity}; run "train policy" again'
            )
    try:
        settings = PolicySettings.model_validate(meta['settings'])
        policy = BCPolicy(int(meta['feature_dim']), int(meta['context_dim']), int(meta['core_dim']), settings)
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path.with_suffix(".json")} does not describe a policy; run "train policy" again') from None
    if module_shapes(policy) != {key: tuple(tensor.shape) for key, tensor in checkpoint.tensors.items()}:
        raise UserError(f'{path} holds another network than its JSON describes; run "train policy" again')
    policy.load_state_dict(checkpoint.tensors)
    return policy.freeze()


class PolicyRunner:
    """Encoder and base policy at run time: one observation at a time, deterministic."""

    def __init__(self, encoder: VisualEncoder, policy: BCPolicy):
        if encoder.feature_dim != policy.feature_dim:
            raise UserError(
                f'the policy expects {policy.feature_dim} visual features but the encoder {encoder.identity} '
                f'gives {encoder.feature_dim}; run "train policy" again'
            )
        self.encoder, self.policy = encoder.freeze(), policy.freeze()

    def step(self, observation: Observation, prior: HandPrior) -> PolicyStep:
        """Features and base core action of one tick; `prior` is the one of the same tick."""
        features = self.encoder.encode(observation.images)
        with torch.inference_mode():
            inputs = (features, observation.state, prior.hand_history, prior.context)
            core = self.policy(*(torch.from_numpy(np.array(x, np.float32))[None] for x in inputs))[0].numpy()
        return PolicyStep(
            stamp=observation.stamp,
            episode=observation.episode,
            step=observation.step,
            encoder=self.encoder.identity,
            features=features,
            state=np.array(observation.state, np.float32),
            hand_history=np.array(prior.hand_history, np.float32),
            context=np.array(prior.context, np.float32),
            base_core=core,
        )
