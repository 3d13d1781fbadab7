"""Everything online learning needs: the stages that are missing or out of date, side by side where they can be."""

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.run_directory import RunDirectory, RunSettings
from dex_rl_nodes.stages.inputs import USUAL, Amounts, command_line, has_learned, missing, outdated, report
from dex_rl_nodes.stages.progress import ProgressBoard

_COMMANDS = {
    'demos': 'launch collect_demos.launch.py',
    'reward sessions': 'launch collect_demos.launch.py purpose:=reward',
    'encoder': 'train encoder', 'prior': 'train prior', 'policy': 'train policy', 'reward': 'train reward',
}  # fmt: skip
_SHOWN = (
    'n', 'successes', 'test_rmse_mean', 'active_units', 'code_perplexity', 'off_manifold_ratio', 'precision', 'recall',
    'steps', 'seconds',
)  # fmt: skip


def prepare(run: RunDirectory, settings: RunSettings, amounts: Amounts = USUAL, parallel: int = 0) -> list[str]:
    """Run what is missing, in simulation; stopped and started again it goes on where it was.

    Args:
        amounts: how much is recorded.
        parallel: pieces of work at a time; 0: one per core.

    Returns:
        What was done: names of stages.

    Raises:
        UserError: a stage cannot be run, or the robot is a real one, where a person does it.
    """
    todo = missing(run, settings, amounts)
    if not todo:
        return []
    refuse_after_learning(run, settings, todo)
    if not config.is_simulated(settings.robot):
        check(run, settings)
        return []
    from dex_rl_nodes.stages.job import Job  # heavy, and not needed where everything is there
    from dex_rl_nodes.stages.workers import run_all

    board = ProgressBoard()
    works = preparation_works(Job(run, settings, amounts))
    try:
        run_all(works, board, parallel, on_done=lambda name, result: _tell(board, name, result))
    finally:
        board.close()
    return todo


def preparation_works(job, prefix: str = '') -> list:
    """Everything before online learning as pieces of work; those whose result is there end at once.

    Args:
        job: the run.
        prefix: of the names of the works; the last one is `<prefix>reward`.
    """
    from dex_rl_nodes.stages import collect, train
    from dex_rl_nodes.stages.workers import Work

    demos = collect.demonstration_works(job, prefix)
    shown = collect.reward_works(job, ('shown', 'near_misses', 'arrangements'), (), prefix)
    policy = f'{prefix}policy'
    rollouts = collect.reward_works(job, ('rollouts', 'strays'), (policy,), prefix)

    def stage(name: str, function, *needs: str) -> Work:
        return Work(f'{prefix}{name}', function, (job,), tuple(f'{prefix}{need}' for need in needs))

    demonstrated = [work.name.removeprefix(prefix) for work in demos]
    recorded = demonstrated + [work.name.removeprefix(prefix) for work in shown]
    judged = [work.name.removeprefix(prefix) for work in rollouts]
    return [
        *demos,
        *shown,
        stage('recordings', report_recordings, *recorded),
        stage('encoder', train.encoder_stage, 'recordings'),
        stage('prior', train.prior_stage, *demonstrated),
        stage('policy', train.policy_stage, 'encoder', 'prior'),
        *rollouts,
        stage('rollouts', report_recordings, 'policy', *judged),
        stage('reward', train.reward_stage, 'rollouts'),
    ]


def report_recordings(job, tell) -> dict:
    """Write the reports on what was recorded."""
    tell(0, 1)
    if job.has('reward'):
        report(job.run, 'reward')
    return report(job.run, 'demos')


def _tell(board: ProgressBoard, name: str, result: object) -> None:
    if isinstance(result, dict):
        found = [f'{key} {_short(result[key])}' for key in _SHOWN if result.get(key) is not None]
        board.say(f'{name}: {", ".join(found)}')


def _short(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


_INPUTS = {
    'settings': 'its settings in config/methods', 'recipe': 'the way it is made', 'seed': 'the seed',
    'demos': 'the demonstrations',
    'crops': 'the crops of the task', 'interface': 'the interface', 'encoder': 'the encoder', 'prior': 'the prior',
    'reward': 'the reward sessions', 'sessions': 'whether there are reward sessions',
    'held_out': 'the share of sessions that only measure', 'weights': 'its weights',
}  # fmt: skip


def refuse_after_learning(run: RunDirectory, settings: RunSettings, todo: list[str]) -> None:
    """Nothing below a residual that was learned on top of it is made anew; UserError says what changed."""
    if not has_learned(run):
        return
    changed = [
        f'{stage} ({", ".join(_INPUTS.get(key, key) for key in keys)} changed)' if keys else stage
        for stage, keys in outdated(run, settings).items()
    ]
    raise UserError(
        f'run "{run.name}" has learned online, and {", ".join(changed or todo)} would have to be made again, '
        'which makes its transitions and checkpoints useless; put back what was changed, choose a new run:=NAME, '
        f'or delete {run.file("learner")} and {run.bags("online")} to learn anew'
    )


def check(run: RunDirectory, settings: RunSettings) -> None:
    """Name the command of the first stage that is missing; UserError when there is one."""
    config.load_task(settings.task)
    amounts = USUAL if config.is_simulated(settings.robot) else Amounts(arrangements=0, rollouts=0, strays=0)
    todo = missing(run, settings, amounts)
    if todo:
        refuse_after_learning(run, settings, todo)
    for stage in todo:
        command = command_line(_COMMANDS[stage], run, settings)
        lacks = f'{stage} missing or out of date'
        if stage == 'demos':
            there, wanted = report(run, 'demos')['successes'], config.load_task(settings.task).demonstrations
            where = f'config/tasks/{settings.task}.yaml'
            lacks = f'{there} of {wanted} demonstrations are there (`demonstrations` in {where})'
        raise UserError(f'run "{run.name}": {lacks}; run: {command}')
