"""The experiment of the paper as a table: success of imitation and after online learning, per task and interface."""

from collections.abc import Mapping, Sequence

from dex_rl_nodes.evaluation.metrics import mean, wilson_interval
from dex_rl_nodes.evaluation.report import FAILURES

# LAMP Table 1: success (%) of imitation and after online learning. Figure 4 has PCA and VQ, as bars without numbers.
PAPER = {
    'latent_prior': {
        'grasp_place': (75, 100), 'open_drawer': (50, 100), 'pull_tissue': (45, 95), 'assemble_box': (55, 100),
    },
    'latent_prior_no_bottleneck': {
        'grasp_place': (40, 35), 'open_drawer': (65, 85), 'pull_tissue': (15, 80), 'assemble_box': (5, 20),
    },
    'latent_prior_no_history': {
        'grasp_place': (70, 95), 'open_drawer': (35, 90), 'pull_tissue': (40, 60), 'assemble_box': (15, 50),
    },
    'raw': {'grasp_place': (0, 15), 'open_drawer': (20, 0), 'pull_tissue': (0, 0), 'assemble_box': (0, 0)},
}  # fmt: skip
STAGES = ('imitation', 'learned')


def pooled(cells: Sequence[Mapping], stage: str) -> tuple[int, int]:
    """Successes and episodes of a stage over some cells (seeds, or tasks)."""
    scores = [cell[stage] for cell in cells if stage in cell]
    return sum(score['successes'] for score in scores), sum(score['n'] for score in scores)


def _success(cells: Sequence[Mapping], stage: str) -> str:
    """Success as the classifier decides it, with its interval; then how many the simulation counts, where it did."""
    successes, episodes = pooled(cells, stage)
    if not episodes:
        return ''
    low, high = wilson_interval(successes, episodes)
    simulated = [cell[stage].get('sim_successes') for cell in cells if stage in cell]
    checked = '' if None in simulated else f'; sim {sum(simulated)}'
    return f'{successes / episodes:.0%} ({successes}/{episodes}, {low:.0%} to {high:.0%}{checked})'


def _failures(cells: Sequence[Mapping], stage: str) -> str:
    found = [cell[stage]['failures'] for cell in cells if stage in cell]
    return ' / '.join(str(sum(counts.get(kind, 0) for counts in found)) for kind in FAILURES) if found else ''


def _number(value: float | None, digits: int = 3) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def success_table(cells: Sequence[Mapping]) -> str:
    """Markdown table: a row per task and interface, beside the paper's numbers.

    Success is what the classifier says; "sim" is how many of the episodes the simulation counts, which decides nothing.

    Args:
        cells: results of single cells: task, interface, seed, prior, env_steps, and imitation, learned where scored.
    """
    lines = [
        '| task | interface | seeds | imitation | after RL | paper (imitation, RL) '
        '| failures arm / hand / stall: imitation | after RL | online steps |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for task in _ordered(cells, 'task'):
        for interface in _ordered(cells, 'interface'):
            part = [cell for cell in cells if (cell['task'], cell['interface']) == (task, interface)]
            if not part:
                continue
            paper = PAPER.get(interface, {}).get(task)
            row = [
                task, interface, ', '.join(str(cell['seed']) for cell in part), _success(part, 'imitation'),
                _success(part, 'learned'), f'{paper[0]} %, {paper[1]} %' if paper else 'bars only',
                _failures(part, 'imitation'), _failures(part, 'learned'), str(part[0].get('env_steps', '')),
            ]  # fmt: skip
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def interface_table(cells: Sequence[Mapping]) -> str:
    """Markdown table: a row per interface: mean success, jitter, and what the prior measures.

    Success is pooled over the tasks that every interface has which was scored at that stage, so that all rows of a
    column are about the same episodes. The test error is that of what an interface is fitted to: the next target
    from the history for a prior, the target from its own code for the others. Of VQ it tells, in place of active
    units, the perplexity of its 16 codes.
    """
    lines = [
        '| interface | cells | imitation | after RL | jitter J / J of raw imitation: imitation | after RL '
        '| off-manifold ratio | test error of the interface | active units (VQ: codes used) |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    jitter = normalised_jitter(cells)
    measured = ('off_manifold_ratio', 'test_rmse_mean', 'active_units', 'code_perplexity')
    common = {stage: _common_tasks(cells, stage) for stage in STAGES}
    for interface in _ordered(cells, 'interface'):
        part = [cell for cell in cells if cell['interface'] == interface]
        same = {stage: [cell for cell in part if cell['task'] in common[stage]] for stage in STAGES}
        tasks = ', '.join(str(sum(stage in cell for cell in same[stage])) for stage in STAGES)
        prior = {key: _known_mean([cell['prior'].get(key) for cell in part]) for key in measured}
        units = prior['code_perplexity'] if prior['active_units'] is None else prior['active_units']
        scores = jitter.get(interface, {})
        row = [
            interface, tasks, *(_success(same[stage], stage) for stage in STAGES),
            *(_number(scores.get(stage), 2) for stage in STAGES), _number(prior['off_manifold_ratio']),
            _number(prior['test_rmse_mean'], 4), _number(units, 1),
        ]  # fmt: skip
        lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def _common_tasks(cells: Sequence[Mapping], stage: str) -> set[str]:
    """Tasks in which every interface was scored that has any score of a stage."""
    scored: dict[str, set[str]] = {}
    for cell in cells:
        if stage in cell:
            scored.setdefault(cell['interface'], set()).add(cell['task'])
    return set.intersection(*scored.values()) if scored else set()


def classifier_table(cells: Sequence[Mapping]) -> str:
    """Markdown table: a row per reward classifier: frames of held-out recordings, and all evaluations of the cells.

    Where the simulation counts no success and the classifier does, that is a false one; the reverse is a missed one.
    """
    lines = [
        '| task | held-out frames: success | other | precision | recall '
        '| evaluation episodes | false successes | missed |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for task in _ordered(cells, 'task'):
        part = [cell for cell in cells if cell['task'] == task]
        found = next((cell['classifier'] for cell in part if cell.get('classifier')), None)
        if found is None:
            continue
        scores = [cell[stage] for cell in part for stage in STAGES if stage in cell]
        wrong = [_false_and_missed(score) for score in scores if score.get('sim_successes') is not None]
        false, missed = (sum(column) for column in zip(*wrong, strict=True)) if wrong else ('', '')
        frames = (found['held_out_positives'], found['held_out_negatives'])
        quality = (_number(found[key]) for key in ('precision', 'recall'))
        row = [task, *frames, *quality, sum(score['n'] for score in scores), false, missed]
        lines.append(f'| {" | ".join(str(value) for value in row)} |')
    return '\n'.join(lines)


def _false_and_missed(score: Mapping) -> tuple[int, int]:
    """Episodes that the classifier alone, and that the simulation alone called a success."""
    wrong = round(score['n'] * (1 - score['classifier_agrees']))
    more = score['successes'] - score['sim_successes']
    return (wrong + more) // 2, (wrong - more) // 2


def normalised_jitter(cells: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Jitter per interface and stage, each task in units of its raw imitation; left out where there is none."""
    reference = {}
    for task in _ordered(cells, 'task'):
        raw = [cell for cell in cells if (cell['task'], cell['interface']) == (task, 'raw')]
        if value := mean([cell['imitation']['jitter'] for cell in raw if 'imitation' in cell]):
            reference[task] = value
    found: dict[str, dict[str, float]] = {}
    for interface in _ordered(cells, 'interface'):
        for stage in STAGES:
            part = [cell for cell in cells if cell['interface'] == interface and cell['task'] in reference]
            values = [cell[stage]['jitter'] / reference[cell['task']] for cell in part if stage in cell]
            if values:
                found.setdefault(interface, {})[stage] = mean(values)
    return found


def _known_mean(values: Sequence[float | None]) -> float | None:
    return mean([value for value in values if value is not None])


def _ordered(cells: Sequence[Mapping], key: str) -> list[str]:
    """Values of a key in the order in which they first come."""
    return list(dict.fromkeys(cell[key] for cell in cells))
