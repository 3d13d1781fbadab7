"""results.md: all measurements in one place, each with its command, machine, seed and N."""

from pathlib import Path

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.run_directory import write_atomic
from dex_rl_nodes.stages.bench.measurement import measurements

_HEAD = """# Results

Everything here was measured by `./dexrl bench`, in simulation; `./dexrl bench report` writes this page from the JSON
of each measurement.
"""
_ROWS = '| figure | measured | bar | N | seed | command |\n|---|---|---|---|---|---|'


def write_report(folder: Path) -> Path:
    """Write results.md beside a folder of measurements.

    Raises:
        UserError: there are none.
    """
    found = measurements(folder)
    if not found:
        raise UserError(f'there are no measurements in {folder}; make some, for example with ./dexrl bench sim')
    parts = [_HEAD, '## Speed and reliability']
    machines: dict[str, list[dict]] = {}
    for content in found:
        about = content['machine']
        gpu = f', {about["gpu"]}' if about['gpu'] else ''
        key = f'{about["processor"]}, {about["cores"]} cores, {about["memory_gib"]} GiB{gpu}'
        machines.setdefault(key, []).append(content)
    for key, contents in machines.items():
        rows = '\n'.join(_row(content) for content in contents)
        parts.append(f'Measured on {key}; code {", ".join(sorted({c["code"] for c in contents}))}.\n\n{_ROWS}\n{rows}')
    table = folder / 'table' / 'results.md'
    if table.exists():
        # its figures lie beside it, one folder down from the report
        text = table.read_text().replace('](', f']({folder.name}/table/')
        parts.append(text.replace('## ', '### ').replace('# Tasks', '## Tasks', 1))
    path = folder.parent / 'results.md'
    write_atomic(path, ('\n\n'.join(part.strip() for part in parts) + '\n').encode())
    return path


def _row(content: dict) -> str:
    verdict = {True: ' (met)', False: ' (**not met**)', None: ''}[content['met']]
    cells = (content['title'], content['measured'], content['bar'] + verdict, content['n'], content['seed'])
    return f'| {" | ".join(str(cell) for cell in cells)} | `./{content["command"]}` |'
