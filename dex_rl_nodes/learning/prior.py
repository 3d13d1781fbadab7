"""Fitting an action interface to hand motion, and what is measured on held-out motion."""

import math
import time
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.manifold import off_manifold_ratio
from dex_rl_nodes.learning.interfaces import (
    ActionInterface,
    LatentPrior,
    PriorSettings,
    ResidualVq,
    create_interface,
    hand_windows,
)
from dex_rl_nodes.learning.schedule import Progress, no_progress, split_episodes

ACTIVE_KL = 0.05  # nats; a latent dimension above it carries information
DISPLACEMENT = 0.2  # of the off-manifold ratio (figure A.1)


def train_prior(
    sequences: list[np.ndarray],
    interface: str,
    settings: PriorSettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    fit_scale: bool = False,
) -> tuple[ActionInterface, dict]:
    """Fit an action interface to hand targets, and measure it on the held-out episodes.

    Args:
        sequences: executed hand targets (T, D) of each episode, from the start target on.
        interface: name, see `config.INTERFACES`.
        seed: decides split, initial weights and batches.
        fit_scale: take the range of the training split as the unit of each joint; otherwise targets are
            taken as normalised travel [0, 1] already.

    Returns:
        The frozen interface; what was measured: `test_rmse` per joint in normalised units, `active_units` and
        `kl_per_unit` (of a prior), `code_perplexity` (of a quantiser), `off_manifold_ratio` at displacement 0.2
        (None where there is no such step), and more.

    Raises:
        UserError: too few or empty episodes, or numbers that are not finite.
    """
    settings = settings or PriorSettings()
    sequences = _checked(sequences)
    train, test = split_episodes(len(sequences), seed, settings.test_fraction)
    fit_on, test_on = (hand_windows([sequences[i] for i in part]) for part in (train, test))
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_interface(interface, sequences[0].shape[1], settings)
    if fit_scale:
        model.fit_scale(fit_on)
    model.fit(fit_on, settings, torch.Generator().manual_seed(seed), progress)
    seconds = time.monotonic() - started
    model.freeze()
    metrics = _measure(model, fit_on, test_on, seed)
    steps = {'latent': settings.steps, 'vq': settings.vq_steps}.get(model.name.split('_')[0], 0)
    return model, {
        **metrics, 'train_episodes': train, 'test_episodes': test, 'train_windows': len(fit_on),
        'test_windows': len(test_on), 'steps': steps, 'seed': seed, 'seconds': round(seconds, 2),
    }  # fmt: skip


def read_targets(path: Path) -> list[np.ndarray]:
    """Hand targets of a lab's own recordings.

    Args:
        path: .npz with arrays `targets` (N, D) and `lengths` (episodes), which add up to N.

    Raises:
        UserError: missing, damaged, or not of that form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ('targets', 'lengths') if name not in file]
            if missing:
                raise UserError(f'{path} has no array "{missing[0]}"; it needs targets (N, D) and lengths (episodes)')
            targets, lengths = file['targets'], file['lengths']
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}') from None
    except (ValueError, BadZipFile, EOFError, AttributeError, TypeError):
        raise UserError(f'{path} is not a .npz file of plain numbers; write it with numpy.savez') from None
    if targets.ndim != 2 or targets.dtype.kind not in 'fiu' or not targets.shape[1]:
        raise UserError(
            f'{path}: targets must be numbers of shape (N, D), not {targets.dtype} of shape {targets.shape}'
        )
    if lengths.ndim != 1 or lengths.dtype.kind not in 'iu' or (lengths < 1).any():
        raise UserError(f'{path}: lengths must be a list of positive whole numbers')
    if lengths.sum() != len(targets):
        raise UserError(f'{path}: lengths add up to {lengths.sum()} but there are {len(targets)} targets')
    with np.errstate(over='ignore'):  # infinite then, and refused for that
        targets = targets.astype(np.float32)
    if np.isfinite(targets).all() and (targets == targets[:1]).all():
        raise UserError(f'{path}: all targets are the same; record a hand that moves')
    return np.split(targets, np.cumsum(lengths)[:-1])


def train_prior_from_npz(
    path: Path,
    interface: str = 'latent_prior',
    settings: PriorSettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[ActionInterface, dict]:
    """`train_prior` on a file read by `read_targets`, scaled by the range of the training split."""
    return train_prior(read_targets(path), interface, settings, seed, progress, fit_scale=True)


def _checked(sequences: list[np.ndarray]) -> list[np.ndarray]:
    sequences = [np.asarray(sequence, np.float32) for sequence in sequences]
    for number, sequence in enumerate(sequences):
        if sequence.ndim != 2 or sequence.shape[1] != sequences[0].shape[1]:
            raise UserError(f'episode {number}: hand targets of shape {sequence.shape}; all must have the same joints')
        if len(sequence) < 2:
            raise UserError(
                f'episode {number} has {len(sequence)} hand target(s); at least 2 are needed, so leave it out'
            )
        if not np.isfinite(sequence).all():
            raise UserError(f'episode {number} has hand targets that are not finite numbers; leave it out')
    return sequences


@torch.no_grad()
def _measure(model: ActionInterface, fit_on, test_on, seed: int) -> dict:
    error = (model.reconstruct(test_on) - test_on.target) / model.span
    rmse = error.square().mean(0).sqrt()
    kl = model.unit_kl(test_on) if isinstance(model, LatentPrior) else []
    ratio = None
    if model.matched_displacement:
        context = model.context(test_on.history.flatten(1))  # the same for all interfaces
        points = model.project_hand(test_on.target, context)
        ratio = off_manifold_ratio(
            lambda z, c: _within_travel(model, model.decode_hand(z, c)),
            points, context, model.normalise(fit_on.target), DISPLACEMENT, seed,
        )  # fmt: skip
        ratio = round(ratio, 5) if math.isfinite(ratio) else None
    return {
        'test_rmse': [round(value, 6) for value in rmse.tolist()],
        'test_rmse_mean': round(float(rmse.mean()), 6),
        'active_units': sum(value > ACTIVE_KL for value in kl) if kl else None,
        'kl_per_unit': [round(value, 4) for value in kl],
        'code_perplexity': round(model.perplexity(test_on.target), 2) if isinstance(model, ResidualVq) else None,
        'off_manifold_ratio': ratio,
        'displacement': DISPLACEMENT,
        'residual_scale': [round(value, 4) for value in model.residual_scale().tolist()],
        'unit': {'low': model.low.tolist(), 'span': model.span.tolist()},
    }


def _within_travel(model: ActionInterface, hand: torch.Tensor) -> torch.Tensor:
    """Hand targets in units of the training range, limited as they are when executed; a lab's own joints are not."""
    travel = bool((model.low == 0).all() and (model.span == 1).all())
    return hand.clamp(0, 1) if travel else model.normalise(hand)
