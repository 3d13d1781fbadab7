"""Training the small visual encoder on the run's own recordings, when no pretrained one is at hand.

The features must say where the hand is relative to what it works on. Four sources teach that, none of which
looks into the simulator: the commands of the demonstrator, what the robot measured of itself, hindsight (the ways to
where the hand closed and let go, where the TCP went from here, and how long the task still took), and what a person
called a success.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dex_rl_nodes.config import Model
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.demonstrations import Steps, stack_steps
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.encoder import CHANNELS, DemoEncoder
from dex_rl_nodes.learning.schedule import Progress, low_precision, no_progress, split_episodes, warmup_cosine
from dex_rl_nodes.learning.vision import VIEWS, Augmentation, augment, to_tensor
from dex_rl_nodes.records import ACTION_DIM, ARM_DIM, HAND_DIM, STATE_DIM, Outcome

_HORIZONS = (3, 6, 12, 24)  # ticks ahead, for hindsight
_WAY_WEIGHT = 4.0  # of the ways to the grasp and to the release in the loss: they are what the features are for
_WAYS = 2 * ARM_DIM  # columns of the ways to grasp and release, which come first
# m, rad; a way that varies less counts by so much: what a hand that always points down is tilted by is but noise
_LEAST_WAY = [0.01] * 3 + [0.05] * 3
_DONE = _WAYS + HAND_DIM  # column of the success, after those of the hand
_DONE_WEIGHT = 4.0  # of the success, for the classifier reads the same features
_GRASP_TRAVEL = 0.5  # sum over the motors, normalised; a hand that closes less takes hold of nothing
_STAYS_CLOSED = 0.7  # of all it closed: a hand that ends so has let nothing go
_SHOWN = ACTION_DIM + 1  # targets that only demonstrations tell: command and time left

Frames = dict[str, list[np.ndarray]]  # per view, uint8 (S, S, 3) each


class DemoEncoderSettings(Model):
    """How the encoder is trained on the demonstrations."""

    channels: list[PositiveInt] = Field(
        list(CHANNELS), min_length=4, max_length=4, description='of the four convolutions of each view'
    )
    steps: int = Field(500, ge=1, description='optimiser steps, at least')
    passes: float = Field(
        42.0, ge=0, description='how often every observation of the demonstrations is seen; more of them: more steps'
    )
    batch_size: int = Field(64, ge=1, description='observations per step')
    learning_rate: float = Field(1e-3, gt=0, description='AdamW learning rate after warm-up')
    weight_decay: float = Field(1e-3, ge=0, description='AdamW weight decay')
    warmup_steps: int = Field(100, ge=1, description='linear learning-rate warm-up (steps), then cosine to 0')
    augmentation: Augmentation = Field(Augmentation(shift=12), description='of every image')
    dropout: float = Field(0.3, ge=0, lt=1, description='dropout on the features while training')
    proprioception_dropout: float = Field(
        0.5, ge=0, le=1, description='share of samples whose command is told without state'
    )
    unlabelled_share: float = Field(
        0.6, ge=0, lt=1, description='share of a batch from recordings that do not show the task'
    )


class Targets:
    """What the heads shall say of every tick, in units of its spread, and where that is known.

    The spread is the standard deviation, of ways at least `_LEAST_WAY`.

    Args:
        demos: successful demonstrations.
        others: recordings that need not show the task.
    """

    def __init__(self, demos: Sequence[Episode], others: Sequence[Episode]):
        shown = [self.of_episode(episode, shows_task=True) for episode in demos]
        seen = [self.of_episode(episode, shows_task=False) for episode in others]
        known, value = (np.concatenate(part) for part in zip(*shown, *seen, strict=True))
        self.known = torch.from_numpy(known)
        mean = (value * known).sum(0) / known.sum(0).clip(1)
        std = np.sqrt((np.square(value - mean) * known).sum(0) / known.sum(0).clip(1))
        scale = np.maximum(std, np.float32(2 * _LEAST_WAY + [1e-3] * (len(std) - _WAYS)))
        self.value = torch.from_numpy(((value - mean) / scale).astype(np.float32))
        self.scale = torch.from_numpy(scale.astype(np.float32))

    @staticmethod
    def of_episode(episode: Episode, shows_task: bool) -> tuple[np.ndarray, np.ndarray]:
        """Weights and targets (T, D): ways to grasp and release, hand, success, where TCP and hand go, command, time.

        A way is known until the hand is there.
        """
        count = len(episode.action)
        state = np.asarray(episode.state[: count + 1], np.float32)
        hand = np.asarray(episode.hand_targets, np.float32)
        now = np.arange(count)
        ahead = [np.minimum(now + horizon, count) for horizon in _HORIZONS]
        left = (count - now)[:, None] / 20
        went = [np.concatenate([state[later, :3] - state[:count, :3], hand[later]], 1) for later in ahead]
        # a release is worth seeing only where it was the right place; 0: there is none
        events = grasp_tick(hand), (episode.outcome == Outcome.SUCCESS and release_tick(hand)) or 0
        if (hand - hand[0]).sum(1).max() < _GRASP_TRAVEL:
            events = 0, 0
        ways = [state[event, :ARM_DIM] - state[:count, :ARM_DIM] for event in events]
        measured = state[:count, ARM_DIM:]  # not the TCP: where an episode started cannot be seen, only memorised
        done = episode.success[:count, None]
        value = np.concatenate([*ways, measured, done, *went, episode.action, np.tanh(left)], axis=1, dtype=np.float32)
        known = np.ones_like(value)
        known[:, _DONE] = _DONE_WEIGHT * episode.labelled[:count]
        for number, event in enumerate(events):
            known[:, _way(number)] = np.where(now < event, _WAY_WEIGHT, 0)[:, None]
        if not shows_task:
            known[:, -_SHOWN:] = 0
        return known, value


def grasp_tick(hand: np.ndarray) -> int:
    """Tick (of T + 1) at which the hand has made half of all its motion: where it takes hold of something.

    Where it opened for a second try, that is too late (2 of 28 surveys of assemble_box).
    """
    travelled = np.abs(np.diff(hand, axis=0)).sum(1).cumsum()
    return int(np.searchsorted(travelled, 0.5 * travelled[-1]))


def release_tick(hand: np.ndarray) -> int | None:
    """Tick (of T + 1) from which a hand that starts open and closes is half open again for good; None: it never is.

    Half open is half way between the most closed it was and how it ends.
    """
    closed = np.abs(hand - hand[0]).sum(1)
    if closed[-1] >= _STAYS_CLOSED * closed.max():
        return None
    return int(np.flatnonzero(closed >= 0.5 * (closed.max() + closed[-1]))[-1]) + 1


def _way(number: int) -> slice:
    """Columns of the way to an event among the targets: 0 the grasp, 1 the release."""
    return slice(number * ARM_DIM, (number + 1) * ARM_DIM)


class _Heads(nn.Module):
    """What the features are asked while they are trained."""

    def __init__(self, feature_dim: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.vision = nn.Sequential(nn.Linear(feature_dim, 256), nn.ReLU(), nn.Linear(256, outputs))
        proprioception = STATE_DIM + HAND_DIM
        self.command = nn.Sequential(
            nn.Linear(feature_dim + proprioception, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, ACTION_DIM),
        )  # fmt: skip

    def forward(self, features: Tensor, proprioception: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(features)
        return self.vision(features), self.command(torch.cat([features, proprioception], dim=1))


def train_demo_encoder(
    demos: Sequence[Episode],
    others: Sequence[Episode] = (),
    settings: DemoEncoderSettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    device: torch.device = CPU,
) -> tuple[DemoEncoder, dict]:
    """Train the encoder on the training split of the demonstrations, then freeze it.

    Args:
        demos: successful demonstrations; the split is that of prior and policy.
        others: recordings of any kind (for example of the reward sessions); what the robot measured of itself is
            learned from them, and what was called a success; not what was commanded.
        device: where it is trained.

    Returns:
        The frozen encoder; what was measured on the held-out demonstrations (errors in units of each target's
        spread).
    """
    settings = settings or DemoEncoderSettings()
    train, test = split_episodes(len(demos), seed)
    order = [demos[i] for i in train] + [demos[i] for i in test]
    frames = _frames([*order, *others])
    steps, targets = stack_steps([*order, *others], views=()), Targets(order, others)
    groups = np.digitize(steps.episode, [len(train), len(order)])
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = DemoEncoder(settings.channels).to(device, memory_format=torch.channels_last)
        heads = _Heads(encoder.feature_dim, targets.value.shape[1], settings.dropout).to(device)
        fit, other = np.flatnonzero(groups == 0), np.flatnonzero(groups == 2)
        _optimise(encoder, heads, frames, _proprioception(steps), targets, fit, other, settings, generator, progress)
    metrics = {
        'seconds': round(time.monotonic() - started, 2),
        'steps': _step_count(settings, len(fit), len(other)),
        'frames': len(fit),
        'other_frames': len(other),
        'test': _errors(encoder, heads, frames, targets, np.flatnonzero(groups == 1)),
        'train': _errors(encoder, heads, frames, targets, fit[:: max(1, len(fit) // 200)]),
    }
    return encoder.cpu().freeze(), metrics


def _optimise(
    encoder: DemoEncoder,
    heads: _Heads,
    frames: Frames,
    proprioception: Tensor,
    targets: Targets,
    fit: np.ndarray,
    other: np.ndarray,
    settings: DemoEncoderSettings,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    unlabelled, count = _unlabelled(settings, len(other)), _step_count(settings, len(fit), len(other))
    command, device = slice(-_SHOWN, -1), encoder.device
    for step in range(count):
        rate = settings.learning_rate * warmup_cosine(step, settings.warmup_steps, count)
        optimiser.param_groups[0]['lr'] = rate
        rows = torch.cat([
            torch.from_numpy(pool)[torch.randint(len(pool), (share,), generator=generator)]
            for pool, share in ((fit, settings.batch_size - unlabelled), (other, unlabelled)) if share
        ])  # fmt: skip
        changed = [augment(images, settings.augmentation, generator) for images in _pick(frames, rows).values()]
        views = [to_tensor(images, device) for images in changed]
        told = proprioception[rows] + 0.1 * torch.randn((len(rows), proprioception.shape[1]), generator=generator)
        told *= torch.rand((len(rows), 1), generator=generator) >= settings.proprioception_dropout
        with low_precision(device):
            seen, commanded = heads(torch.cat(encoder.view_features(views), dim=1), told.to(device))
        known, value = targets.known[rows].to(device), targets.value[rows].to(device)
        loss = (F.smooth_l1_loss(seen.float(), value, reduction='none') * known).mean()
        loss = (
            loss + (F.smooth_l1_loss(commanded.float(), value[:, command], reduction='none') * known[:, command]).mean()
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimiser.step()
        if step % 20 == 19 or step + 1 == count:
            progress(step + 1, count)


def _frames(episodes: Sequence[Episode]) -> Frames:
    """Every frame where it lies: copies in one array would take as much memory again, up to gigabytes."""
    return {view: [frame for e in episodes for frame in e.images[view][: len(e.action)]] for view in VIEWS}


def _pick(frames: Frames, rows: Sequence[int]) -> dict[str, np.ndarray]:
    return {view: np.stack([images[row] for row in rows]) for view, images in frames.items()}


def _unlabelled(settings: DemoEncoderSettings, other: int) -> int:
    """Observations of a batch that come from recordings which do not show the task."""
    return round(settings.batch_size * settings.unlabelled_share) if other else 0


def _step_count(settings: DemoEncoderSettings, shown: int, other: int) -> int:
    """Optimiser steps, for so many observations of demonstrations and of other recordings."""
    return max(settings.steps, round(settings.passes * shown / (settings.batch_size - _unlabelled(settings, other))))


def _proprioception(steps: Steps) -> Tensor:
    """State and last hand target, roughly standardised."""
    scale = np.array([0.05] * 3 + [0.1] * 3 + [0.3] * HAND_DIM, np.float32)
    return torch.from_numpy(np.concatenate([steps.state / scale, 2 * steps.hand_history[:, -HAND_DIM:] - 1], axis=1))


@torch.inference_mode()
def _errors(encoder: DemoEncoder, heads: _Heads, frames: Frames, targets: Targets, rows: np.ndarray) -> dict:
    """Root mean square errors of the vision heads, per group of targets, in units of their spread."""
    heads.eval()
    features = encoder.encode_batch(_pick(frames, rows))
    known = (targets.known[rows] > 0).float()
    said = heads.vision(torch.from_numpy(features).to(encoder.device)).cpu()
    error = (said - targets.value[rows]) * known
    rmse = (error.square().sum(0) / known.sum(0).clamp(min=1)).sqrt()
    width, went = 3 + HAND_DIM, _DONE + 1
    groups = {
        'reach': slice(0, 3),
        'reach_yaw': slice(ARM_DIM - 1, ARM_DIM),
        'release': slice(ARM_DIM, ARM_DIM + 3),  # left out where nothing is let go
        'release_yaw': slice(_WAYS - 1, _WAYS),
        'hand': slice(_WAYS, _DONE),
        **{f'tcp_in_{ticks}': slice(went + width * i, went + width * i + 3) for i, ticks in enumerate(_HORIZONS)},
        'arm_command': slice(-_SHOWN, -_SHOWN + ARM_DIM),
        'hand_command': slice(-_SHOWN + ARM_DIM, -1),
        'time_left': slice(-1, None),
    }
    return {name: round(float(rmse[part].mean()), 4) for name, part in groups.items() if known[:, part].any()}
