"""The paper's experiment: tasks x action interfaces x seeds, each imitation and online learning, on held-out starts.

What does not depend on the interface (demonstrations, visual encoder, reward classifier, evaluation starts) is made
once per task and shared by its cells. Results carry the version of code and configuration; others are set aside.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation import figures, table
from dex_rl_nodes.evaluation.report import FILES
from dex_rl_nodes.evaluation.table import STAGES
from dex_rl_nodes.learning.device import CPU, device_name
from dex_rl_nodes.parameters import Value
from dex_rl_nodes.paths import share_directory
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, read_json, write_atomic, write_json
from dex_rl_nodes.sim.tasks import TASKS
from dex_rl_nodes.stages.bench.measurement import code_version, machine
from dex_rl_nodes.stages.evaluate import evaluate
from dex_rl_nodes.stages.inputs import USUAL, Amounts
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.online import OnlineSession
from dex_rl_nodes.stages.prepare import preparation_works
from dex_rl_nodes.stages.progress import ProgressBoard
from dex_rl_nodes.stages.train import policy_stage, prior_stage
from dex_rl_nodes.stages.workers import Tell, Work, core_count, run_all

_DECIDES = ('learning', 'sim', 'robot', 'evaluation', 'recording', 'stages')  # rooms whose code decides a result
_SHOW = ('figures.py', 'table.py')  # of these rooms, but they only show results
_MODULES = ('records', 'config', 'seeds')  # beside the rooms
_SCORES = {'imitation': 'none', 'learned': 'learned'}
_SHARED = ('encoder', 'reward')
_OWN = ('prior', 'policy')  # shared only with the cell that has the interface and seed of the recordings
_PRIOR_FIGURES = ('test_rmse_mean', 'active_units', 'code_perplexity', 'off_manifold_ratio', 'kl_per_unit')
_CLASSIFIER_FIGURES = ('precision', 'recall', 'held_out_positives', 'held_out_negatives')
_EVALUATION_SHARE = 0.1  # of the progress of online learning, for its evaluation
_LIBRARIES = ' '.join(library.__version__ for library in (torch, mujoco, np))  # whose numbers differ by version
_LEARNING = ' learning'  # ends the name of the second half of a cell


_FEW = Amounts(demonstrations=3, shown=2, near_misses=3, arrangements=4, rollouts=2, strays=1)  # of a smoke run


@dataclass(frozen=True)
class Plan:
    """What the table is made of."""

    tasks: tuple[str, ...]
    interfaces: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int = 0  # online transitions; 0: as the task says
    episodes: int = 0  # evaluation episodes; 0: as the task says
    method: str = 'lamp'
    amounts: Amounts = USUAL
    presence: float = 1.0  # share of the online episodes in which a scripted person stands by; evaluations are without

    @property
    def cells(self) -> list[tuple[str, str, int]]:
        """Task, interface and seed of every cell: the first seed first, and of it the first interface on every task."""
        return [(t, i, s) for s in self.seeds for i in self.interfaces for t in self.tasks]


def _names(text: str, valid: tuple[str, ...], kind: str) -> tuple[str, ...]:
    chosen = valid if text == 'all' else tuple(part.strip() for part in text.split(',') if part.strip())
    for name in chosen:
        if name not in valid:
            raise UserError(f'unknown {kind} "{name}"; choose from: {", ".join(valid)}')
    if not chosen:
        raise UserError(f'choose at least one {kind} from: {", ".join(valid)}')
    return chosen


def make_plan(values: Mapping[str, Value]) -> Plan:
    """The plan that the arguments ask for; UserError names what is unknown."""
    tasks = _names(str(values['tasks']), tuple(sorted(TASKS)), 'task')
    interfaces = _names(str(values['interfaces']), config.INTERFACES, 'interface')
    texts = [text.strip() for text in str(values['seeds']).split(',')]
    if not all(text.isdigit() and int(text) < 1000 for text in texts):
        raise UserError(f'seeds:={values["seeds"]} must be whole numbers from 0 to 999, separated by commas')
    seeds, steps = tuple(int(text) for text in texts), int(values['steps'])
    presence = float(values['presence'])
    if not values['smoke']:
        return Plan(tasks, interfaces, seeds, steps, presence=presence)
    chosen = tasks if values['tasks'] != 'all' else ('pull_tissue',)
    few = interfaces if values['interfaces'] != 'all' else ('latent_prior', 'vq')
    return Plan(chosen, few, seeds, steps or 150, 2, 'smoke', _FEW, presence)


def version(plan: Plan) -> str:
    """Short hash of all code and configuration, and of the device, that decide a result."""
    root, digest = share_directory(), hashlib.sha256()
    package = Path(__file__).resolve().parents[2]
    files = [path for room in _DECIDES for path in (package / room).rglob('*.py')]
    files = [path for path in files if path.parent.name != 'bench' and path.name not in _SHOW]
    files += [Path(__file__)]
    files += [package / f'{name}.py' for name in _MODULES]
    files += [root / 'config' / 'tasks' / f'{task}.yaml' for task in config.names('tasks')]
    files += [root / 'config' / 'methods' / f'{plan.method}.yaml', root / 'config' / 'robots' / 'sim.yaml']
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(f'{plan.steps} {plan.episodes} {plan.amounts} {plan.presence} {_LIBRARIES} {device_name()}'.encode())
    return digest.hexdigest()[:12]


class Results:
    """results.json: the cells of one version.

    Args:
        folder: where it is.
        key: the version.
        say: told what became of results of another version.
        steps: online transitions of every cell; 0: the budget of its task.
    """

    def __init__(self, folder: Path, key: str, say=print, steps: int = 0):
        self.path = folder / 'results.json'
        self.cells: dict[str, dict] = {}
        self.failed: dict[str, str] = {}
        self.steps = steps
        self._about = {'version': key, 'code': code_version(), 'machine': machine(), 'steps': steps}
        if not self.path.exists():
            return
        old = read_json(self.path)
        if old.get('version') == key:
            self.cells = old['cells']
        else:
            aside = self.path.with_name(f'results_{old.get("version", "unknown")}.json')
            os.replace(self.path, aside)
            say(f'{self.path} is of another version of code or configuration; it was set aside as {aside.name}')
            earlier = self.path.with_name(f'results_{key}.json')
            if earlier.exists():  # its runs are there still, and must not learn a second time
                os.replace(earlier, self.path)
                self.cells = read_json(self.path)['cells']
                say(f'{len(self.cells)} cells of this version were made before and are taken up again')

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, {**self._about, 'failed': self.failed, 'cells': self.cells})


def run_table(values: Mapping[str, Value], folder: Path) -> None:
    """Run the cells that are missing and write results.json, results.md and the figures.

    Raises:
        UserError: an argument is wrong, or a cell failed (after all others were run).
    """
    plan = make_plan(values)
    folder = folder / ('smoke' if values['smoke'] else 'table')
    key, board = version(plan), ProgressBoard()
    results = Results(folder, key, board.say, plan.steps)
    runs = folder / key
    parallel = int(values['parallel']) or core_count()
    works = _works(plan, runs, results, parallel)
    started = time.monotonic()

    def done(name: str, result: object) -> None:
        cell = name.removesuffix(_LEARNING)
        if cell in wanted:
            seconds = results.cells.get(cell, {}).get('seconds', {}) | result['seconds']
            results.cells[cell] = {**result, 'seconds': seconds}
            results.save()
            if name.endswith(_LEARNING):  # gigabytes, and the cell is done
                task, interface, seed = cell.split('/')
                online = RunDirectory(f'{interface}_{seed}', runs / task).bags('online')
                shutil.rmtree(online, ignore_errors=True)
            left = sum(STAGES[-1] not in results.cells.get(other, ()) for other in wanted)
            board.say(f'{cell}: {_line(result)}; {left} of {len(wanted)} cells left')

    def failed(name: str, reason: str) -> None:
        results.failed[name] = reason
        board.say(f'{name} failed: {reason}')

    wanted = {cell_name(*cell) for cell in plan.cells}
    try:
        run_all(works, board, parallel, done, failed)
        _draw_flows(results, folder, runs)
    finally:
        board.close()
        results.save()
        write_table(results, folder, runs)
    board.say(f'{len(results.cells)} cells in {results.path}; {time.monotonic() - started:.0f} s')
    if results.failed:
        name, reason = next(iter(results.failed.items()))
        count = len(results.failed)
        raise UserError(f'{count} pieces of work failed, first {name}: {reason}; the same command tries again')


def cell_name(task: str, interface: str, seed: int) -> str:
    """Name of a cell in results.json."""
    return f'{task}/{interface}/{seed}'


def _works(plan: Plan, runs: Path, results: Results, parallel: int) -> list[Work]:
    """What is missing: recordings, then imitation of every cell, then online learning."""
    preparation, imitation, learning = [], [], []
    shared = {}
    missing = [cell for cell in plan.cells if STAGES[-1] not in results.cells.get(cell_name(*cell), ())]
    second_thread = min(parallel, len(missing)) < core_count()
    for task, interface, seed in missing:
        name = cell_name(task, interface, seed)
        if task not in shared:
            settings = RunSettings(task, 'sim', 'latent_prior', plan.method, 0)
            shared[task] = Job(RunDirectory('shared', runs / task).create(settings), settings, plan.amounts)
            preparation += preparation_works(shared[task], f'{task} ')
        arguments = (plan, shared[task], interface, seed)
        if STAGES[0] not in results.cells.get(name, ()):
            imitation.append(Work(name, imitate, arguments, (f'{task} reward',)))
        learning.append(Work(f'{name}{_LEARNING}', learn, (*arguments, second_thread), (f'{task} reward', name)))
    return preparation + imitation + learning


def imitate(plan: Plan, shared: Job, interface: str, seed: int, tell: Tell) -> dict:
    """First half of a cell: prior, policy, imitation score."""
    job, started = cell_job(plan, shared, interface, seed), time.monotonic()
    for number, stage in enumerate((prior_stage, policy_stage)):
        stage(job, lambda done, of, number=number: tell(number * of + done, 3 * of))
    evaluate(job, 'none', plan.episodes)
    return {**cell_of(job.run, job.settings), 'seconds': {STAGES[0]: round(time.monotonic() - started)}}


def learn(plan: Plan, shared: Job, interface: str, seed: int, second_thread: bool, tell: Tell) -> dict:
    """Second half of a cell: online learning, final score.

    Cells that learn beside each other have a core each and use it; on a card their small products would take turns.
    """
    job, started = cell_job(plan, shared, interface, seed), time.monotonic()
    budget = plan.steps or job.task.online_steps
    total = round(budget * (1 + _EVALUATION_SHARE))
    device = None if second_thread else CPU
    session = OnlineSession(job, plan.presence, second_thread=second_thread, device=device)
    session.learn(budget, lambda done, note: tell(done, total))
    evaluate(job, 'learned', plan.episodes)
    return {**cell_of(job.run, job.settings), 'seconds': {STAGES[1]: round(time.monotonic() - started)}}


def cell_of(run: RunDirectory, settings: RunSettings) -> dict:
    """What a run that was prepared and evaluated has to say in the table; without what was not evaluated yet."""
    prior, curve = read_json(run.file('prior.json')), learning_curve(run.file('metrics.jsonl'))
    classifier = read_json(run.file('reward.json')) if run.file('reward.json').exists() else {}
    files = {stage: run.file(FILES[residual]) for stage, residual in _SCORES.items()}
    scores = {stage: read_json(file) for stage, file in files.items() if file.exists()}
    return {
        'task': settings.task, 'interface': settings.interface, 'seed': settings.seed,
        **{stage: {key: score[key] for key in score if key != 'episodes'} for stage, score in scores.items()},
        'prior': {key: prior.get(key) for key in _PRIOR_FIGURES},
        'classifier': {key: classifier.get(key) for key in _CLASSIFIER_FIGURES} if classifier else None,
        'env_steps': int(curve[-1][0]) if curve else 0, 'curve': curve,
    }  # fmt: skip


def cell_job(plan: Plan, shared: Job, interface: str, seed: int) -> Job:
    """The run of a cell: recordings, encoder and classifier are those of its task, trained once."""
    settings = RunSettings(shared.task.name, 'sim', interface, plan.method, seed)
    run = RunDirectory(f'{interface}_{seed}', shared.run.path.parent).create(settings)
    links = [Path('bags') / purpose for purpose in ('demos', 'reward')]
    same = (interface, seed) == (shared.settings.interface, shared.settings.seed)
    stages = _SHARED + (_OWN if same else ())
    links += [Path(f'{name}{suffix}') for name in stages for suffix in ('.safetensors', '.json')]
    for link in links:
        path = run.path / link
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(os.path.relpath(shared.run.path / link, path.parent))
    return Job(run, settings, plan.amounts)


def learning_curve(path: Path) -> list[list[float]]:
    """Of every episode in metrics.jsonl: online transitions at its end, success (0 or 1), share of a person's ticks."""
    curve: list[list[float]] = []
    episodes = successes = steps = interventions = 0
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the line at which an earlier session was killed
            continue
        if row['episodes'] < episodes:  # the newest was thrown away
            curve.pop()
        elif row['episodes'] > episodes:
            helped = max(0, row['interventions'] - interventions) / max(1, row['env_steps'] - steps)
            curve.append([row['env_steps'], float(row['successes'] > successes), round(helped, 3)])
        if row['episodes'] != episodes:
            episodes, successes = row['episodes'], row['successes']
            steps, interventions = row['env_steps'], row['interventions']
    return curve


def _line(result: Mapping) -> str:
    scores = [f'{stage} {result[stage]["successes"]}/{result[stage]["n"]}' for stage in STAGES if stage in result]
    return f'{", ".join(scores)} in {sum(result["seconds"].values())} s'


def write_table(results: Results, folder: Path, runs: Path) -> Path:
    """Write results.md and the figures beside results.json."""
    cells = list(results.cells.values())
    title = '# Tasks and action interfaces' + (f', {results.steps:,} online steps' if results.steps else '')
    parts = [title, table.success_table(cells)]
    parts += ['## Over all tasks', table.interface_table(cells)]
    parts += ['## Reward classifiers', table.classifier_table(cells)]
    if results.failed:
        parts += ['## Failed', '\n'.join(f'- {name}: {reason}' for name, reason in results.failed.items())]
    parts += [f'![{path.stem}]({path.name})' for path in draw(cells, folder, runs)]
    path = folder / 'results.md'
    write_atomic(path, ('\n\n'.join(parts) + '\n').encode())
    return path


def _draw_flows(results: Results, folder: Path, runs: Path) -> None:
    """The latent action flow of every task on which a latent prior has learned, where it is not drawn yet."""
    from dex_rl_nodes.stages.bench.pictures import draw_flow  # which draws learning curves as they are here

    for cell in results.cells.values():
        if cell['interface'] != 'latent_prior' or STAGES[-1] not in cell:
            continue
        run = RunDirectory(f'{cell["interface"]}_{cell["seed"]}', runs / cell['task'])
        path, scored = folder / f'latent_flow_{cell["task"]}.png', run.file(FILES['learned'])
        if not path.exists() or path.stat().st_mtime < scored.stat().st_mtime:
            draw_flow(Job(run, run.settings()), path)


def draw(cells: list[dict], folder: Path, runs: Path) -> list[Path]:
    """The figures: learning curves per task, latent flows that are there, jitter barcode, jitter per interface."""
    drawn = []
    for task in dict.fromkeys(cell['task'] for cell in cells):
        curves = [figures.curve_of(cell) for cell in cells if cell['task'] == task and cell['curve']]
        if curves:
            drawn.append(figures.learning_curves(curves, folder / f'curve_{task}.png', task))
        drawn += folder.glob(f'latent_flow_{task}.png')
    for stage, residual in _SCORES.items():
        panels: dict[str, list] = {}
        for cell in cells:
            path = runs / cell['task'] / f'{cell["interface"]}_{cell["seed"]}' / FILES[residual]
            if path.exists():
                rollouts = [row['hand_targets'] for row in read_json(path)['episodes'] if len(row['hand_targets']) > 2]
                panels.setdefault(cell['interface'], []).extend(rollouts)
        if panels:
            drawn.append(figures.jitter_barcode(panels, folder / f'jitter_barcode_{stage}.png'))
    scores = table.normalised_jitter(cells)
    if scores:
        drawn.append(figures.jitter_bars(scores, folder / 'jitter.png'))
    return drawn
