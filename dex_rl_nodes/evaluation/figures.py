"""Figures of the report, drawn with matplotlib; every function writes one file and returns its path."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from dex_rl_nodes.evaluation.metrics import jitter_terms

_COLOURS = {
    'latent_prior': '#00796b', 'raw': '#c62828', 'pca': '#ef6c00', 'vq': '#6a1b9a',
    'latent_prior_no_bottleneck': '#1565c0', 'latent_prior_no_history': '#5d4037',
}  # fmt: skip
_LINES = ('-', '--', ':', '-.')  # of the seeds of an interface
_BARCODE_COLUMNS = 100


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches='tight')
    plt.close(figure)
    return path


def _plain(axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)


@dataclass(frozen=True)
class Curve:
    """Episodes of one learning run, in order."""

    label: str
    interface: str
    env_steps: Sequence[float]  # at the end of each episode
    success: Sequence[float]  # 0 or 1
    helped: Sequence[float] = ()  # share of the episode's ticks in which a person moved arm or hand, where known


def curve_of(cell: Mapping) -> Curve:
    """The curve of a cell of the table."""
    return Curve(f'{cell["interface"]}, seed {cell["seed"]}', cell['interface'], *zip(*cell['curve'], strict=True))


def learning_curves(curves: Sequence[Curve], path: Path, title: str = '', window: int = 20) -> Path:
    """Success over the last `window` episodes against online transitions; below, where known, what a person did."""
    helped = any(len(curve.helped) for curve in curves)
    panels = {'height_ratios': (2, 1) if helped else (1,)}
    figure, axes = plt.subplots(
        1 + helped, 1, figsize=(6, 3.2 + helped), sharex=True, squeeze=False, gridspec_kw=panels
    )
    axes[0, 0].set(ylabel=f'success, last {window} episodes', ylim=(-0.02, 1.02), title=title)
    axes[-1, 0].set(xlabel='online transitions')
    if helped:
        axes[1, 0].set(ylabel='share by a person', ylim=(-0.02, 1.02))
    seen: Counter[str] = Counter()
    for curve in curves:
        style = _LINES[seen[curve.interface] % len(_LINES)]
        seen[curve.interface] += 1
        for panel, values in zip(axes[:, 0], (curve.success, curve.helped)):
            panel.plot(
                curve.env_steps[: len(values)], _running_mean(values, window), style,
                color=_COLOURS.get(curve.interface), lw=1.5, alpha=0.9, label=curve.label,
            )  # fmt: skip
    if curves:
        axes[0, 0].legend(frameon=False, fontsize=8)
    for panel in axes[:, 0]:
        _plain(panel)
    return _save(figure, path)


def _running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Mean of every value and those before it, at most `window`."""
    total = np.concatenate(([0.0], np.cumsum(np.asarray(values, float))))
    last = np.arange(1, len(total))
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def barcode_rows(rollouts: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Jitter terms of rollouts (T, 6) on a common time axis: (rollouts, 100); NaN for those too short."""
    grid = np.linspace(0, 1, _BARCODE_COLUMNS)
    rows = []
    for rollout in rollouts:
        terms = jitter_terms(np.asarray(rollout, float).reshape(len(rollout), -1))
        rows.append(np.interp(grid, np.linspace(0, 1, len(terms)), terms) if len(terms) else np.full(len(grid), np.nan))
    return np.array(rows).reshape(-1, _BARCODE_COLUMNS)


def jitter_barcode(panels: Mapping[str, Sequence[Sequence[Sequence[float]]]], path: Path) -> Path:
    """Jitter of rollouts as in figure F.1: a panel per method, a row per rollout, colour the term of Eq. F.1.

    Args:
        panels: per method, executed hand targets (T, 6) of every rollout.
    """
    count = max(1, len(panels))
    figure, all_axes = plt.subplots(1, count, figsize=(2.4 * count + 0.8, 2.6), squeeze=False)
    rows = {name: barcode_rows(rollouts) for name, rollouts in panels.items()}
    finite = [part[np.isfinite(part)] for part in rows.values()]
    joined = np.concatenate(finite) if finite else np.zeros(1)
    top = float(np.percentile(joined, 98)) if len(joined) else 1.0
    image = None
    for axes, (name, part) in zip(all_axes[0], rows.items()):
        image = axes.imshow(part, aspect='auto', cmap='YlOrRd', vmin=0, vmax=max(top, 1e-6), interpolation='nearest')
        axes.set(title=name, xlabel='rollout time', xticks=[0, _BARCODE_COLUMNS - 1], xticklabels=['0', '1'], yticks=[])
    all_axes[0][0].set_ylabel('rollouts')
    if image is not None:
        figure.colorbar(image, ax=all_axes[0], label='second difference of the hand target')
    return _save(figure, path)


def jitter_bars(scores: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Jitter of imitation and after learning, per method, in units of the raw interface's imitation.

    Args:
        scores: method -> {'imitation': ..., 'learned': ...}, already normalised.
    """
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for offset, (stage, alpha) in enumerate((('imitation', 0.5), ('learned', 1.0))):
        heights = [values.get(stage, np.nan) for values in scores.values()]
        places = np.arange(len(scores)) + 0.38 * (offset - 0.5)
        colours = [_COLOURS.get(name, 'grey') for name in scores]
        axes.bar(places, heights, 0.36, color=colours, alpha=alpha, label=stage)
    axes.set(xticks=range(len(scores)), ylabel='jitter J / J of raw imitation')
    axes.set_xticklabels([name.replace('latent_prior_', 'prior,\n').replace('_', ' ') for name in scores], fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return _save(figure, path)


@dataclass(frozen=True)
class LatentFlow:
    """Hand coordinates of one rollout in the latent space: (T, 2) each."""

    centre: np.ndarray  # of the prior
    imitation: np.ndarray  # with the offset of the base policy
    final: np.ndarray  # with the residual


def latent_flow(flow: LatentFlow, pictures: Mapping[int, np.ndarray], path: Path, title: str = '') -> Path:
    """How the hand action comes about in the latent space, as in figure 6.

    Args:
        pictures: tick -> uint8 (S, S, 3), the decoded hand of the final action at some ticks.
    """
    figure, axes = plt.subplots(figsize=(6, 5))
    axes.plot(*flow.centre.T, color='0.6', lw=1.2, label='prior centre')
    axes.plot(*flow.imitation.T, color='#00897b', lw=1.2, label='with the offset of imitation')
    axes.plot(*flow.final.T, color='#d32f2f', lw=1.2, ls='--', label='with the residual')
    colours = plt.get_cmap('viridis')(np.linspace(0, 1, max(2, len(pictures))))
    for colour, (tick, picture) in zip(colours, sorted(pictures.items())):
        for points, marker in ((flow.centre, 'o'), (flow.imitation, 's'), (flow.final, '^')):
            axes.plot(*points[tick], marker, color=colour, ms=6, mec='k', mew=0.5)
        box = AnnotationBbox(
            OffsetImage(picture, zoom=0.55), flow.final[tick], xybox=(34, 34), boxcoords='offset points',
            pad=0.1, bboxprops={'edgecolor': colour, 'lw': 1.5},
        )  # fmt: skip
        axes.add_artist(box)
    axes.set(xlabel='$z_1$', ylabel='$z_2$', title=title)
    axes.margins(0.2)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return _save(figure, path)


def image_sequence(frames: Sequence[np.ndarray], path: Path, count: int = 8, labels: Sequence[str] = ()) -> Path:
    """A strip of `count` frames, evenly spaced.

    Args:
        frames: uint8 (H, W, 3) each.
        labels: text under each frame shown.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    figure, all_axes = plt.subplots(1, len(chosen), figsize=(1.7 * len(chosen), 2.0), squeeze=False)
    for axes, number in zip(all_axes[0], chosen):
        axes.imshow(frames[number])
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(labels[number] if labels else str(number), fontsize=8)
    figure.subplots_adjust(wspace=0.04)
    return _save(figure, path)


def animation(frames: Sequence[np.ndarray], path: Path, rate: float = 10.0) -> Path:
    """The frames as an animated GIF."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    duration = round(1000 / rate)  # ms
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True)
    return path
