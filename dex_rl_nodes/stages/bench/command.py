"""The command line of `bench`: speed figures, the table of the paper, and the report made of them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import DEFAULT_RUN, Parameter, Value
from dex_rl_nodes.stages.bench.measurement import bench_folder

_SEED = Parameter('seed', 0, 'seed of the random numbers', minimum=0, maximum=999)
_OUT = Parameter('out', '', 'folder of the measurements; empty: bench below the runs')
_TASK = Parameter('task', 'pull_tissue', 'task, a file of config/tasks/')
_RUN = Parameter('run', DEFAULT_RUN, 'name of a prepared run')
_RESIDUAL = Parameter('residual', 'learned', 'learned, or none: the base policy', choices=('learned', 'none'))
_RUNS = Parameter('runs', '', 'runs whose evaluations are shown, separated by commas; empty: those of the last report')
_MINUTES = Parameter('minutes', 10.0, 'how long', 'min', 0.1, 600.0)
_SECONDS = Parameter('seconds', 60.0, 'how long', 's', 1.0, 36000.0)
_TIMES = Parameter('times', 50, 'how often each device is unplugged', minimum=1, maximum=10000)
_EPISODES = Parameter('episodes', 100, 'how many', minimum=1, maximum=100_000)
_COMMANDS_SENT = Parameter('commands', 1_000_000, 'hostile commands to send', minimum=1000, maximum=10**9)


@dataclass(frozen=True)
class Bench:
    """One experiment: what it measures and its arguments."""

    description: str
    run: Callable[[dict[str, Value]], None]
    arguments: tuple[Parameter, ...] = (_SEED, _OUT)


def _figure(name: str, *arguments: str) -> Callable[[dict[str, Value]], None]:
    def run(values: dict[str, Value]) -> None:
        from dex_rl_nodes.stages.bench.speed import FIGURES

        found = FIGURES[name](seed=int(values['seed']), **{key: values[key] for key in arguments})
        found.tell()
        print(f'wrote {found.save(_folder(values))}')

    return run


def _operator(values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.bench.person import scripted_person

    found = scripted_person(str(values['task']), int(values['seed']), int(values['episodes']))
    found.tell()
    print(f'wrote {found.save(_folder(values))}')


def _folder(values: dict[str, Value]) -> Path:
    return Path(str(values['out'])).resolve() if values['out'] else bench_folder()


def _in_graph(kind: str, *arguments: str, module: str = 'bench_graph') -> Callable[[dict[str, Value]], None]:
    """A measurement that needs ROS, and so a process of its own: this room knows none."""

    def run(values: dict[str, Value]) -> None:
        words = [kind, *(str(values[name]) for name in arguments), str(_folder(values))]
        code = subprocess.run([sys.executable, '-m', f'dex_rl_nodes.nodes.{module}', *words]).returncode
        if code:
            raise SystemExit(code)

    return run


def _recorder(values: dict[str, Value]) -> None:
    _figure('recorder')(values)
    _in_graph('recorder', 'seconds', module='bench_recorder')(values)


def _report(values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.bench.report import note_runs, write_report

    if names := [name.strip() for name in str(values['runs']).split(',') if name.strip()]:
        note_runs(names, _folder(values))
    print(f'wrote {write_report(_folder(values))}')


def _table(values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.bench.table import run_table

    run_table(values, _folder(values))


def _fresh(values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.bench.fresh import fresh_clone

    for measurement in fresh_clone(str(values['task'])):
        measurement.tell()
        measurement.save(_folder(values))


def _pictures(values: dict[str, Value]) -> None:
    from dex_rl_nodes.run_directory import RunDirectory
    from dex_rl_nodes.stages.bench.pictures import draw_run
    from dex_rl_nodes.stages.job import Job

    run = RunDirectory(str(values['run']))
    folder = Path(str(values['out'])).resolve() if values['out'] else run.file('pictures')
    for path in draw_run(Job(run, run.settings()), str(values['residual']), folder):
        print(f'wrote {path}')


_TABLE = (
    Parameter('tasks', 'all', 'tasks, separated by commas; all: every one'),
    Parameter('interfaces', 'all', 'action interfaces, separated by commas; all: every one'),
    Parameter('seeds', '0', 'seeds, separated by commas'),
    Parameter('parallel', 0, 'cells at a time; 0: one per core', minimum=0, maximum=1024),
    Parameter('steps', 0, 'online transitions per cell; 0: as the task says', minimum=0, maximum=10**9),
    next(parameter for parameter in NODES['scripted_operator'].parameters if parameter.name == 'presence'),
    Parameter('smoke', False, 'a few steps of everything, to see that it works'),
    _OUT,
)

BENCHES = {
    'sim': Bench('steps per second of the simulation', _figure('sim', 'task'), (_TASK, _SEED, _OUT)),
    'sac': Bench('learner iterations per second, against their matrix products', _figure('sac')),
    'replay': Bench('replay: adding, memory, sampling', _figure('replay')),
    'latency': Bench('computing time from images to command', _figure('latency')),
    'safety': Bench(
        'hostile commands against the command mux', _figure('safety', 'commands'), (_COMMANDS_SENT, _SEED, _OUT)
    ),
    'operator': Bench('how often the scripted person succeeds', _operator, (_TASK, _EPISODES, _SEED, _OUT)),
    'recorder': Bench(
        'recording two cameras: processor time, and what is lost, also to a kill', _recorder, (_SECONDS, _SEED, _OUT)
    ),
    'ticks': Bench(
        'the graph in real time: control ticks on time, camera to command',
        _in_graph('ticks', 'run', 'minutes'),
        (_RUN, _MINUTES, _OUT),
    ),
    'cameras': Bench(
        'camera frames delivered to policy and recorder', _in_graph('cameras', 'seconds', 'run'), (_SECONDS, _RUN, _OUT)
    ),
    'hand': Bench(
        'the hand driver at 460800 baud: rate, and values of the wrong motor',
        _in_graph('hand', 'minutes', 'seed', module='bench_devices'),
        (_MINUTES, _SEED, _OUT),
    ),
    'serial_noise': Bench(
        'hand and glove drivers with one byte in a hundred damaged',
        _in_graph('serial_noise', 'minutes', 'seed', module='bench_devices'),
        (_MINUTES, _SEED, _OUT),
    ),
    'replug': Bench(
        'hand, glove and SpaceMouse unplugged and plugged in again',
        _in_graph('replug', 'times', 'seed', module='bench_devices'),
        (_TIMES, _SEED, _OUT),
    ),
    'table': Bench('tasks x interfaces x seeds, imitation and after online RL', _table, _TABLE),
    'fresh': Bench('from a fresh clone to the first online episode', _fresh, (_TASK, _OUT)),
    'pictures': Bench(
        'pictures of a run: an episode, its latent action flow, learning curve, jitter',
        _pictures,
        (_RUN, _RESIDUAL, _OUT),
    ),
    'report': Bench('docs/results.md out of all measurements', _report, (_RUNS, _OUT)),
}


def run(arguments: list[str]) -> None:
    """Run a bench command; UserError for anything it does not know."""
    from dex_rl_nodes.stages.command import describe, parse

    name, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
    if name in ('-h', '--help', 'help'):
        lines = [f'  {key:10} {bench.description}' for key, bench in BENCHES.items()]
        hint = 'bench NAME --help lists its arguments.'
        print('\n'.join(['usage: bench NAME [name:=value ...]', '', *lines, '', hint]))
        return
    if name not in BENCHES:
        raise UserError(f'there is no bench "{name}"; choose one of: {", ".join(BENCHES)}')
    bench = BENCHES[name]
    if '-h' in rest or '--help' in rest:
        print(describe(f'bench {name}', bench.description, (), bench.arguments))
        return
    bench.run(parse(f'bench {name}', bench.arguments, rest))
