"""results.md: all measurements in one place, each with its command, machine, seed and N."""

from collections.abc import Sequence
from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation import figures, table
from dex_rl_nodes.evaluation.report import FILES
from dex_rl_nodes.run_directory import RunDirectory, read_json, write_atomic, write_json
from dex_rl_nodes.stages.bench.measurement import measurements

_HEAD = """# Results

Measured in simulation; `./dexrl bench report` writes this page from the JSON of each measurement and from the notes at
its end, which tell the circumstances. Success is what the classifier says, with a 95 % Wilson interval; `sim` is how
many of the episodes the simulation counts. It decides nothing; where the two differ, the classifier was wrong or a tick
early. Under "Over all tasks" success is pooled over the tasks in which every interface that has a score at that stage
was scored; jitter and the figures of the interfaces are over all of an interface's cells.
All seeds of a task are scored on the same 20 starts, so an interval over several seeds, which takes every episode for
independent, is narrower than it should be.
"""
_RUNS, _CURVES, _CAPTIONS = 'runs.json', 'learning.png', 'captions.json'
_ROWS = '| figure | measured | bar | N | seed | code | command |\n|---|---|---|---|---|---|---|'


def write_report(folder: Path) -> Path:
    """Write results.md beside a folder of measurements.

    Raises:
        UserError: there are none.
    """
    found, runs = measurements(folder), folder / _RUNS
    if not found and not runs.exists():
        raise UserError(f'there are no measurements in {folder}; make some, for example with ./dexrl bench sim')
    parts = [_HEAD, *_whole_tables(folder), '## Speed and reliability']
    machines: dict[str, list[dict]] = {}
    for content in found:
        about = content['machine']
        gpu = f', {about["gpu"]}' if about['gpu'] else ''
        key = f'{about["processor"]}, {about["cores"]} cores, {about["memory_gib"]} GiB{gpu}'
        machines.setdefault(key, []).append(content)
    for key, contents in machines.items():
        rows = '\n'.join(_row(content) for content in contents)
        parts.append(f'Measured on {key}.\n\n{_ROWS}\n{rows}')
    if runs.exists():
        cells = read_json(runs)['cells']
        figures.learning_curves([figures.curve_of(cell) for cell in cells if cell['curve']], folder / _CURVES)
        parts += ['## Single runs', table.success_table(cells), table.interface_table(cells)]
        parts.append(f'![success while learning]({folder.name}/{_CURVES})')
    parts += _pictures(folder)
    notes = folder / 'notes.md'  # by hand: the circumstances of the measurements
    if notes.exists():
        parts.append(notes.read_text())
    path = folder.parent / 'results.md'
    write_atomic(path, ('\n\n'.join(part.strip() for part in parts) + '\n').encode())
    return path


def _whole_tables(folder: Path) -> list[str]:
    """What `bench table` wrote, into `table` or copied to `table_NAME`; its figures lie beside it."""
    parts = []
    for path in sorted(folder.glob('table*/results.md')):
        text = path.read_text().replace('](', f']({folder.name}/{path.parent.name}/')
        parts.append(text.replace('## ', '### ').replace('# Tasks', '## Tasks', 1))
    return parts


def _pictures(folder: Path) -> list[str]:
    """All pictures, each under its caption, or its name where captions.json has none."""
    pictures = folder / 'pictures'
    captions = read_json(pictures / _CAPTIONS) if (pictures / _CAPTIONS).exists() else {}
    shown = [path for path in sorted(pictures.glob('*')) if path.name != _CAPTIONS]
    texts = [
        f'{captions.get(path.stem, path.stem)}\n\n![{path.stem}]({folder.name}/pictures/{path.name})' for path in shown
    ]
    return ['## Pictures', *texts] if shown else []


def note_runs(names: Sequence[str], folder: Path) -> None:
    """Keep the scores of runs for the report; UserError for one that was not evaluated before and after on one set."""
    from dex_rl_nodes.stages.bench.table import cell_of

    runs = [RunDirectory(name) for name in names]
    for run in runs:
        for residual, file in FILES.items():
            if not run.file(file).exists():
                raise UserError(f'run "{run.name}" has no {file}; evaluate it with residual:={residual} first')
        starts = {tuple(row['seed'] for row in read_json(run.file(file))['episodes']) for file in FILES.values()}
        if len(starts) > 1:
            raise UserError(
                f'run "{run.name}" was scored before and after learning on different starts; evaluate it again, '
                'with residual:=none and residual:=learned'
            )
    write_json(folder / _RUNS, {'cells': [cell_of(run, run.settings()) for run in runs]})


def _row(content: dict) -> str:
    verdict = {True: ' (met)', False: ' (**not met**)', None: ''}[content['met']]
    cells = (
        content['title'],
        content['measured'],
        content['bar'] + verdict,
        content['n'],
        content['seed'],
        content['code'],
    )
    return f'| {" | ".join(str(cell) for cell in cells)} | `./{content["command"]}` |'
