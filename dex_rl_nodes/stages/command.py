"""Commands of the stages, with typed `name:=value` arguments; `--name value` is the same."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from dex_rl_nodes import config, interrupt
from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError, refused_by_system
from dex_rl_nodes.parameters import COMMON, DEFAULT_RUN, Parameter, Value, parse_all, split_argument
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, refuse_dry

_CHOICES = {'task': config.names('tasks'), 'robot': config.robot_names(), 'method': config.names('methods')}


def _with_choices(parameter: Parameter) -> Parameter:
    return replace(parameter, choices=tuple(_CHOICES.get(parameter.name, ())) or parameter.choices)


SETTINGS = tuple(_with_choices(parameter) for parameter in COMMON if parameter.name != 'lockstep')
_RESIDUAL = Parameter('residual', 'learned', 'learned, or none: the base policy alone', choices=('learned', 'none'))
STEPS = Parameter('steps', 0, 'number of online transitions; 0: as the task says', minimum=0, maximum=10**9)
EPISODES = Parameter('episodes', 0, 'number of episodes; 0: as the task says', minimum=0, maximum=100000)
_PRESENCE = next(parameter for parameter in NODES['scripted_operator'].parameters if parameter.name == 'presence')
_RECORD = Parameter('record', False, 'write the episodes to bags, cameras included')
_DATA = Parameter('data', '', 'train prior: .npz with targets (N, D) and lengths, instead of demonstrations')
_LATENT = Parameter(
    'latent', 0, 'train prior with data: latent dimension; 0: as the method says', minimum=0, maximum=1024
)


_COLLECT = 'launch collect_demos.launch.py'
_STOPPED = '\ndexrl: stopped; what was finished is kept, and the same command goes on from here; a score begins anew'


@dataclass(frozen=True)
class Command:
    """One command: words it takes first, its own arguments, and what it does with both."""

    description: str
    run: Callable[[str, dict[str, Value]], None]
    words: tuple[str, ...] = ()
    arguments: tuple[Parameter, ...] = ()


def _open(values: dict[str, Value], first: str = '') -> tuple[RunDirectory, RunSettings]:
    """The run that the arguments name; UserError when it was made with other settings.

    Args:
        first: command that begins such a run, for whoever named one that does not exist; empty: create it.
    """
    settings = _settings(values)
    # a damaged file is named before anything else is missed
    config.load_task(settings.task), config.load_robot(settings.robot), config.load_method(settings.method)
    run = RunDirectory(str(values['run']))
    if first and not run.exists:
        from dex_rl_nodes.stages.inputs import command_line

        raise UserError(f'{run.lack}; a run begins with: {command_line(first, run, settings)}')
    return run.create(settings), settings


def _settings(values: dict[str, Value]) -> RunSettings:
    return RunSettings(**{name: values[name] for name in RunSettings.__dataclass_fields__})


def _simulated(command: str, values: dict[str, Value]):
    """The run, for a command that simulates; UserError for one of a robot."""
    if not config.is_simulated(str(values['robot'])):
        raise UserError(f'{command} in one process is simulated; with robot:={values["robot"]} use the launch files')
    return _job(values, 'prepare')


def _job(values: dict[str, Value], first: str):
    import torch

    from dex_rl_nodes.stages.job import Job

    torch.set_num_threads(1)  # a second thread gains little with networks of this size, and changes the last bits
    return Job(*_open(values, first))


def _train(word: str, values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages import train
    from dex_rl_nodes.stages.inputs import report
    from dex_rl_nodes.stages.prepare import refuse_after_learning
    from dex_rl_nodes.stages.progress import ProgressBoard

    if values['data'] and word != 'prior':
        raise UserError(f'data:= is for "train prior", not for "train {word}"')
    if values['latent'] and not values['data']:
        raise UserError('latent:= goes with data:=; for a run set prior.latent_dim in config/methods/<method>.yaml')
    board = ProgressBoard()
    if values['data']:
        _train_from_file(values, board)
        return
    refuse_dry(str(values['run']))
    job = _job(values, _COLLECT)
    refuse_after_learning(job.run, job.settings, train.stages_for(word, job))
    there, wanted = report(job.run, 'demos')['successes'], job.wanted_demonstrations
    if there > wanted:
        where = f'config/tasks/{job.task.name}.yaml'
        print(f'the first {wanted} of {there} demonstrations count: `demonstrations` in {where}')
    for name in train.stages_for(word, job):
        train.STAGES[name](job, board.of(name), again=name == word)
        board.finish(name)
        print(f'wrote {job.run.file(name)}.safetensors and {name}.json')


def _train_from_file(values: dict[str, Value], board) -> None:
    from dex_rl_nodes.stages.job import Job
    from dex_rl_nodes.stages.train import prior_from_file

    run, data = RunDirectory(str(values['run'])), Path(str(values['data']))
    if run.name == DEFAULT_RUN:
        # where the next launch without run:= would find a prior that fits neither its robot nor its task
        raise UserError(f'the prior of {data.name} needs a run of its own; name it with run:=NAME')
    if run.file('run.json').exists():
        # policy and residual of that run are made for the prior it has
        raise UserError(f'run "{run.name}" exists already; write the prior of {data.name} to a new run:=NAME')
    settings = Job(run, _settings(values)).prior_settings
    if values['latent']:
        settings = settings.model_copy(update={'latent_dim': values['latent']})
    found = prior_from_file(data, run, str(values['interface']), settings, int(values['seed']), board.of('prior'))
    board.finish('prior', f"test error {found['test_rmse_mean']:.4f} of each joint's range")
    print(f'wrote {run.file("prior")}.safetensors and prior.json')


def _prepare(_word: str, values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.prepare import prepare

    first = '' if config.is_simulated(str(values['robot'])) else _COLLECT  # on a robot a person begins
    done = prepare(*_open(values, first))
    print(f'run "{values["run"]}" is prepared' + (f': {", ".join(done)}' if done else ''))


def _check(_word: str, values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.prepare import check

    check(*_open(values, _COLLECT))


def _online(_word: str, values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.inputs import TRAINED, is_current
    from dex_rl_nodes.stages.online import learn_online
    from dex_rl_nodes.stages.prepare import refuse_after_learning

    job, steps, presence = _simulated('online', values), int(values['steps']), float(values['presence'])
    if old := [stage for stage in TRAINED if not is_current(job.run, job.settings, stage)]:
        refuse_after_learning(job.run, job.settings, old)
        raise UserError(
            f'run "{job.run.name}": {", ".join(old)} missing or out of date; run: ./dexrl prepare {job.words}'
        )
    learner = learn_online(job, steps, presence, bool(values['record']))
    print(
        f'{learner.env_steps} transitions, {learner.episodes} episodes, {learner.successes} successful, '
        f'of the last 20 {learner.success_rate:.0%}'
    )


def _evaluate(_word: str, values: dict[str, Value]) -> None:
    from dex_rl_nodes.stages.evaluate import evaluate
    from dex_rl_nodes.stages.progress import ProgressBoard

    board = ProgressBoard()
    job, residual = _simulated('evaluate', values), str(values['residual'])
    found = evaluate(job, residual, int(values['episodes']), bool(values['record']), board.of('evaluation'))
    board.finish('evaluation')
    interval = f'95 % interval {found["wilson_low"]:.0%} to {found["wilson_high"]:.0%}'
    failures = ', '.join(f'{name} {count}' for name, count in found['failures'].items())
    scores = f'{found["successes"]} of {found["n"]} successful ({interval})'
    print(f'{scores}, failures: {failures}; jitter {found["jitter"]:.4f}')


COMMANDS = {
    'train': Command(
        'one offline stage, from bags', _train, ('prior', 'encoder', 'policy', 'reward', 'all'), (_DATA, _LATENT)
    ),
    'prepare': Command('run the missing stages before online RL (simulation)', _prepare),
    'check': Command('name the first stage that is missing before online RL', _check),
    'online': Command('online RL in one process', _online, (), (STEPS, _PRESENCE, _RECORD)),
    'evaluate': Command(
        'score a run on held-out starts, in one process', _evaluate, (), (_RESIDUAL, EPISODES, _RECORD)
    ),
}


_WRITERS = ('train', 'prepare', 'online')  # two of them at a run would write into the same files


def usage(name: str = '') -> str:
    """Help of all commands, or of one."""
    if not name:
        lines = [f'  {key:10} {command.description}' for key, command in COMMANDS.items()]
        lines.append(f'  {"bench":10} experiments and speed figures')
        return '\n'.join(['usage: COMMAND [name:=value ...]', '', *lines, '', 'COMMAND --help lists its arguments.'])
    command = COMMANDS[name]
    return describe(name, command.description, command.words, (*SETTINGS, *command.arguments))


def describe(name: str, description: str, words: tuple[str, ...], arguments: tuple[Parameter, ...]) -> str:
    """Help of a command."""
    lines = [f'usage: {name}{" " + "|".join(words) if words else ""} [name:=value ...]', '', description, '']
    for argument in arguments:
        choices = f' ({", ".join(argument.choices)})' if argument.choices else ''
        default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
        lines.append(f'  {argument.name}:={default}\n      {argument.description}{choices}')
    return '\n'.join(lines)


def run(arguments: list[str]) -> None:
    """Run a command line; UserError for anything it does not know."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
    if name in ('-h', '--help', 'help'):
        print(usage())
        return
    if name == 'bench':
        from dex_rl_nodes.stages.bench.command import run as bench

        bench(rest)
        return
    if name not in COMMANDS:
        raise UserError(f'there is no stage "{name}"; choose one of: {", ".join((*COMMANDS, "bench"))}')
    command = COMMANDS[name]
    if '-h' in rest or '--help' in rest:
        print(usage(name))
        return
    word = ''
    if command.words:
        if not rest or rest[0] not in command.words:
            raise UserError(f'say what to {name}: {", ".join(command.words)}')
        word, *rest = rest
    values = parse(name, (*SETTINGS, *command.arguments), rest)
    alone = RunDirectory(str(values['run'])).claimed(name) if name in _WRITERS else nullcontext()
    with alone:
        command.run(word, values)


def parse(owner: str, parameters: tuple[Parameter, ...], arguments: list[str]) -> dict[str, Value]:
    """Values of the parameters of a command; UserError names what is wrong and lists what is valid."""
    flags = {parameter.name for parameter in parameters if isinstance(parameter.default, bool)}
    return parse_all(owner, parameters, dict(split_argument(text) for text in _assignments(arguments, flags)))


def _assignments(arguments: list[str], flags: set[str]) -> Iterator[str]:
    """Arguments as `name:=value`, also those written `--name value`, `--name=value` or `--flag`."""
    rest = iter(arguments)
    for text in rest:
        name = text.removeprefix('--')
        if not text.startswith('--') or ':=' in text:
            yield name
        elif '=' in text:
            yield name.replace('=', ':=', 1)
        else:
            value = 'true' if name in flags else next(rest, '')
            if not value:
                raise UserError(f'{text} needs a value')
            yield f'{name}:={value}'


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell in the background has it ignored
        signal.signal(number, signal.default_int_handler)
    os.environ.setdefault('MUJOCO_GL', 'egl')
    try:
        interrupt.accept()
        run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f'dexrl: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as with "| head"
        # or Python stumbles over it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f'dexrl: {refused_by_system(error)}', file=sys.stderr)
        return 2
    return 0
