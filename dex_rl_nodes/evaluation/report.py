"""What an evaluation found, from one row per episode."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from dex_rl_nodes.evaluation.metrics import jitter, mean, wilson_interval
from dex_rl_nodes.records import Outcome
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, write_json

FILES = {'learned': 'evaluation.json', 'none': 'evaluation_imitation.json'}
FAILURES = ('arm', 'hand', 'stall')


@dataclass
class EpisodeRow:
    """One episode as it is scored.

    `success` is the verdict of the classifier. `sim_success` is the truth of the simulation when the episode ended,
    None on a robot; it checks the classifier and decides nothing. `failure` (arm, hand, stall) says who kept a failed
    episode from succeeding. An episode in which a person took over is not autonomous, and no success of the policy.
    """

    episode: int
    seed: int
    outcome: str
    success: bool
    steps: int
    failure: str | None = None
    sim_success: bool | None = None
    interventions: int = 0  # ticks in which a person moved arm or hand
    autonomous: bool = True
    jitter: float = 0.0
    hand_targets: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, episode: int, seed: int, outcome: int, steps: int, hand_targets, **more) -> 'EpisodeRow':
        """Row of a finished episode; `hand_targets` (T, 6) executed."""
        success = outcome == Outcome.SUCCESS
        if success:
            more['failure'] = None
        more['autonomous'] = not more.get('interventions')
        return cls(
            episode,
            seed,
            Outcome(outcome).name.lower(),
            success,
            steps,
            jitter=round(jitter(hand_targets), 6),
            hand_targets=[[round(float(value), 4) for value in target] for target in hand_targets],
            **more,
        )


def _won(row: EpisodeRow) -> bool:
    return row.success and row.autonomous


def summarise(rows: Sequence[EpisodeRow]) -> dict:
    """The content of evaluation.json."""
    scored = [row for row in rows if row.outcome not in ('discarded', 'stopped')]  # their starts are repeated
    won = [row for row in scored if _won(row)]
    successes = len(won)
    low, high = wilson_interval(successes, len(scored))
    known = [row for row in scored if row.sim_success is not None]
    failures = Counter(_failure(row) for row in scored if not _won(row))
    return {
        'n': len(scored),
        'successes': successes,
        'success_rate': successes / len(scored) if scored else None,
        'wilson_low': low,
        'wilson_high': high,
        'failures': {name: failures.get(name, 0) for name in (*FAILURES, *sorted(set(failures) - set(FAILURES)))},
        'taken_over': sum(not row.autonomous for row in scored),
        'sim_successes': sum(row.sim_success for row in known) if known else None,
        'classifier_agrees': mean([row.sim_success == row.success for row in known]),
        'jitter': mean([row.jitter for row in scored]),
        'steps': mean([row.steps for row in scored]),
        'steps_of_successes': mean([row.steps for row in won]),
        'episodes': [asdict(row) for row in scored],
    }


def _failure(row: EpisodeRow) -> str:
    return (row.failure or 'unknown') if row.autonomous else 'takeover'


def save_report(
    run: RunDirectory,
    settings: RunSettings,
    rows: Sequence[EpisodeRow],
    residual: str,
    weights_version: int,
    encoder: str,
    finished: bool = True,
) -> dict:
    """Write what an evaluation found into the run; while it is not finished, beside the result of an earlier one.

    Args:
        residual: learned, or none: the base policy alone.
        weights_version: of the residual.
        encoder: identity of the visual encoder.
        finished: whether all episodes were run.

    Returns:
        the content of the file.
    """
    about = {
        'task': settings.task, 'interface': settings.interface, 'method': settings.method, 'seed': settings.seed,
        'residual': residual, 'weights_version': weights_version, 'encoder': encoder,
    }  # fmt: skip
    content = {**about, **summarise(rows)}
    file = run.file(FILES[residual])
    partial = file.with_stem(f'{file.stem}_partial')
    write_json(file if finished else partial, content)
    if finished:
        partial.unlink(missing_ok=True)
    return content
