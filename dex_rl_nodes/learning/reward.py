"""Visual reward classifier (LAMP appendix C, Table C.1): is the task done in these two views?

It reads the features of the policy's frozen encoder, which come with the tick and are not computed twice. Of a pooled
ResNet-18 these are one vector per view, not the map of Table C.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dex_rl_nodes.config import Model
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import check_shapes, load_checkpoint, module_shapes, save_checkpoint
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.encoder import VisualEncoder
from dex_rl_nodes.learning.flat import FlatParameters
from dex_rl_nodes.learning.schedule import Progress, no_progress
from dex_rl_nodes.learning.vision import VIEWS, Augmentation
from dex_rl_nodes.records import PolicyStep, Reward

_CURVE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)


class RewardSettings(Model):
    """Settings of the reward classifier; defaults are Table C.1 where it has a row."""

    blocks: int = Field(8, ge=1, description='spatial learned embeddings per feature channel')
    bottleneck: int = Field(256, ge=8, description='features per view after the embeddings')
    hidden: int = Field(256, ge=8, description='width of the head')
    dropout: float = Field(0.1, ge=0, lt=1, description='dropout in the head')
    learning_rate: float = Field(1e-4, gt=0, description='Adam')
    batch: int = Field(256, ge=2, description='half positives, half negatives')
    steps: int = Field(2000, ge=1, description='minibatches (paper: 250; more, for what no person shows)')
    look_every: int = Field(250, ge=1, description='minibatches between two looks at held-out episodes')
    copies: int = Field(2, ge=0, description='changed copies of every training image beside the image itself')
    augmentation: Augmentation = Field(Augmentation(shift=8), description='of these copies')
    final_ticks: int = Field(15, ge=0, description='last ticks of an episode without success that count more')
    final_weight: int = Field(
        9,
        ge=1,
        description='how often these are drawn for once of another negative; they are few',
    )
    held_out: float = Field(0.2, gt=0, lt=1, description='share of the sessions that only measure')
    threshold: float = Field(0.9, gt=0, lt=1, description='probability that counts as success (Eq. C.2)')


@dataclass(frozen=True)
class RewardExamples:
    """Labelled observations.

    Attributes:
        features: (N, F) features of the frozen encoder, both views.
        success: bool (N,).
        episode: int (N,) episode each came from; whole episodes are held out.
        changed: bool (N,) the image is an augmented copy; trained on, never measured on.
        final: bool (N,) how an attempt that failed looks when it is over: what must not pass for a success.
        held: bool (N,) of an episode that is kept for measuring.
    """

    features: np.ndarray
    success: np.ndarray
    episode: np.ndarray
    changed: np.ndarray
    final: np.ndarray
    held: np.ndarray

    def where(self, mask: np.ndarray) -> 'RewardExamples':
        """Some of them."""
        columns = (self.features, self.success, self.episode, self.changed, self.final, self.held)
        return RewardExamples(*(column[mask] for column in columns))


class SpatialEmbedding(nn.Module):
    """Learned weighted sums over the positions of a feature map, per channel: (B, C * H * W) -> (B, C * blocks)."""

    def __init__(self, shape: tuple[int, int, int], blocks: int):
        super().__init__()
        channels, height, width = shape
        self.shape = shape
        self.kernel = nn.Parameter(torch.randn(channels, height * width, blocks) / (height * width) ** 0.5)

    def forward(self, flat: Tensor) -> Tensor:
        channels, height, width = self.shape
        maps = flat.view(len(flat), channels, height * width)
        return torch.einsum('bcp,cpk->bck', maps, self.kernel).flatten(1)


class RewardModel(nn.Module):
    """Success logit of the features of both views.

    Args:
        shape: channels, height, width of the feature map of one view.
        settings: see RewardSettings.
    """

    def __init__(self, shape: tuple[int, int, int], settings: RewardSettings):
        super().__init__()
        self.view_dim = shape[0] * shape[1] * shape[2]
        self.register_buffer('mean', torch.zeros(len(VIEWS) * self.view_dim))
        self.register_buffer('scale', torch.ones(len(VIEWS) * self.view_dim))
        self.views = nn.ModuleList(
            nn.Sequential(
                SpatialEmbedding(shape, settings.blocks),
                nn.Linear(shape[0] * settings.blocks, settings.bottleneck),
                nn.LayerNorm(settings.bottleneck),
                nn.Tanh(),
            )
            for _ in VIEWS
        )
        self.head = nn.Sequential(
            nn.Linear(len(VIEWS) * settings.bottleneck, settings.hidden),
            nn.Dropout(settings.dropout),
            nn.LayerNorm(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) -> logits (B,)."""
        parts = ((features - self.mean) / self.scale).clamp(-10, 10).split(self.view_dim, 1)
        embedded = [view(part) for view, part in zip(self.views, parts, strict=True)]
        return self.head(torch.cat(embedded, 1)).squeeze(1)


def choose_held_out(sessions: Sequence[Episode], held_out: float, seed: int) -> np.ndarray:
    """Which sessions to measure on, bool (E,): some with and some without a success, where there are two of a kind.

    Where there are many, it is decided for each by its number alone: the encoder, which is trained before all of them
    are recorded, leaves the same ones out.

    Args:
        sessions: recordings for the classifier.
        held_out: share of them.
        seed: of the choice.
    """
    draw = np.array([np.random.default_rng([seed, session.episode]).random() for session in sessions])
    successful = np.array([session.success[session.labelled].any() for session in sessions], bool)
    held = draw < held_out
    for kind in (successful, ~successful):
        mine = np.flatnonzero(kind)
        if len(mine) > 1 and not held[mine].any():
            held[mine[draw[mine].argmin()]] = True
        elif len(mine) and held[mine].all():
            held[mine[draw[mine].argmax()]] = False
    return held


def scores(probability: np.ndarray, success: np.ndarray, threshold: float) -> dict[str, float | None]:
    """Precision and recall at a threshold; None where undefined."""
    called = probability > threshold
    right = int((called & success).sum())
    return {
        'threshold': threshold,
        'precision': right / int(called.sum()) if called.any() else None,
        'recall': right / int(success.sum()) if success.any() else None,
        'false_positives': int((called & ~success).sum()),
        'false_negatives': int((~called & success).sum()),
    }


def train_reward(
    examples: RewardExamples,
    shape: tuple[int, int, int],
    settings: RewardSettings,
    seed: int,
    progress: Progress = no_progress,
    device: torch.device = CPU,
) -> tuple[RewardModel, dict]:
    """Fit the classifier.

    Held-out precision and recall are perfect long before the model is sure enough of what a policy does that no person
    showed, and a held-out loss that stops falling says little more: one odd episode that is never recognised decides
    it. So the number of minibatches is fixed, and held-out episodes are only looked at.

    Args:
        examples: labelled observations.
        shape: channels, height, width of the feature map of one view.
        settings: see RewardSettings.
        seed: of the weights and the minibatches.
        progress: told how far the training is.
        device: where it is trained.

    Returns:
        The frozen model, and what was measured on held-out episodes: `precision`, `recall`, `curve`, `checks`, counts.

    Raises:
        UserError: examples of one kind are missing.
    """
    train, held = examples.where(~examples.held), examples.where(examples.held & ~examples.changed)
    if not train.success.any() or train.success.all():
        kind = 'positive' if not train.success.any() else 'negative'
        raise UserError(f'there are no {kind} examples for the reward classifier; collect some with purpose:=reward')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RewardModel(shape, settings).to(device)
        checks = _fit(model, train, held, settings, np.random.default_rng(seed), progress)
    metrics = _measured(model.cpu(), held, settings)
    labels = examples.success[~examples.changed]
    counts = {
        'positives': int(labels.sum()),
        'negatives': int((~labels).sum()),
        'episodes': len(np.unique(examples.episode)),
        'held_out_episodes': len(np.unique(held.episode)),
        'held_out_positives': int(held.success.sum()),
        'held_out_negatives': int((~held.success).sum()),
    }
    return model, {**metrics, 'steps': settings.steps, 'checks': checks, **counts}


def _fit(
    model: RewardModel,
    train: RewardExamples,
    held: RewardExamples,
    settings: RewardSettings,
    random: np.random.Generator,
    progress: Progress,
) -> list[dict]:
    """Train in place, and freeze; returns what was measured at every look."""
    features = torch.from_numpy(train.features.astype(np.float32))
    model.mean.copy_(features.mean(0))
    model.scale.copy_(features.std(0, correction=0).clamp(min=1e-2))
    positive, negative = np.flatnonzero(train.success), np.flatnonzero(~train.success)
    final = np.flatnonzero(train.final & ~train.success)
    negative = np.concatenate((negative, np.tile(final, settings.final_weight - 1)))
    half = settings.batch // 2
    device = model.mean.device
    label = torch.cat((torch.ones(half), torch.zeros(half))).to(device)
    parameters = FlatParameters(model)
    optimiser = torch.optim.Adam([parameters.vector], lr=settings.learning_rate, fused=True)
    checks = []
    for step in range(1, settings.steps + 1):
        model.train()
        rows = np.concatenate((random.choice(positive, half), random.choice(negative, half)))
        loss = nn.functional.binary_cross_entropy_with_logits(model(features[rows].to(device)), label)
        parameters.descend(optimiser, loss, 'the reward classifier')
        progress(step, settings.steps)
        if step % settings.look_every == 0 or step == settings.steps:
            measured = _measured(model, held, settings)
            checks.append({'steps': step, **{name: measured[name] for name in ('precision', 'recall', 'loss')}})
    model.eval().requires_grad_(False)
    return checks


def _measured(model: RewardModel, held: RewardExamples, settings: RewardSettings) -> dict:
    """Precision, recall, balanced loss and threshold curve on held-out examples."""
    model.eval()
    with torch.inference_mode():
        features = torch.from_numpy(held.features.astype(np.float32)).to(model.mean.device)
        logit = model(features).cpu()
        label = torch.from_numpy(held.success.astype(np.float32))
        losses = nn.functional.binary_cross_entropy_with_logits(logit, label, reduction='none').numpy()
    kinds = [losses[held.success == kind] for kind in (True, False)]
    probability = logit.sigmoid().numpy()
    at_threshold = scores(probability, held.success, settings.threshold)
    return {
        **at_threshold,
        'loss': float(np.mean([kind.mean() for kind in kinds if len(kind)])) if len(losses) else None,
        'curve': [scores(probability, held.success, threshold) for threshold in _CURVE],
    }


def save_reward(path: Path, model: RewardModel, encoder: VisualEncoder, settings: RewardSettings, meta: dict) -> None:
    """Write a classifier with what was measured; `path` ends in .safetensors."""
    about = {'encoder': encoder.identity, 'shape': list(encoder.spatial_shape), 'settings': settings.model_dump()}
    save_checkpoint(path, model.state_dict(), {**about, **meta})


def load_reward(path: Path, encoder: VisualEncoder) -> tuple[RewardModel, RewardSettings]:
    """Read a classifier, frozen.

    Raises:
        UserError: missing, damaged, or trained on the features of another encoder.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.meta.get('encoder') != encoder.identity:
        raise UserError(
            f'{path} reads the features of encoder {checkpoint.meta.get("encoder")}, not {encoder.identity}; '
            'run "train reward" again'
        )
    try:
        settings = RewardSettings.model_validate(checkpoint.meta['settings'])
    except (KeyError, ValueError):
        about = path.with_suffix('.json')
        raise UserError(f'{about} does not describe a classifier; run "train reward" again') from None
    model = RewardModel(encoder.spatial_shape, settings)
    check_shapes(checkpoint.tensors, module_shapes(model), str(path))
    model.load_state_dict(checkpoint.tensors)
    return model.eval().requires_grad_(False), settings


class RewardRunner:
    """Judges one tick after another.

    Args:
        model: trained classifier.
        encoder: the one it was trained on.
        threshold: probability above which an observation counts (Eq. C.2).
        hold: consecutive ticks above the threshold that make a success, so that one wrong frame does not.
    """

    def __init__(self, model: RewardModel, encoder: VisualEncoder, threshold: float, hold: int):
        self._model = model
        self._encoder = encoder.identity
        self._threshold = threshold
        self._hold = hold
        self._episode: int | None = None
        self._above = 0

    def reset(self) -> None:
        """A new episode begins."""
        self._above = 0

    def step(self, step: PolicyStep) -> Reward:
        """Verdict on one tick; ticks of an episode in order.

        Raises:
            UserError: its features come from another encoder than the classifier's.
        """
        if step.episode != self._episode:
            self._episode = step.episode
            self.reset()
        if step.encoder != self._encoder:
            raise UserError(
                f'the reward classifier reads encoder {self._encoder}, the policy sends features of "{step.encoder}"; '
                'run "train reward" again'
            )
        with torch.inference_mode():
            probability = float(self._model(torch.from_numpy(np.asarray(step.features, np.float32)[None])).sigmoid())
        self._above = self._above + 1 if probability > self._threshold else 0
        return Reward(step.stamp, step.episode, step.step, probability, self._above >= self._hold)
