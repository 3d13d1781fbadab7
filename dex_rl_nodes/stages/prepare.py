"""Everything online learning needs: the stages that are missing or out of date, side by side where they can be."""

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.run_directory import RunDirectory, RunSettings
from dex_rl_nodes.stages.inputs import missing
from dex_rl_nodes.stages.progress import ProgressBoard

ROLLOUTS_WANTED = 16  # of the base policy, for the classifier

_COMMANDS = {
    'demos': 'launch collect_demos.launch.py',
    'reward sessions': 'launch collect_demos.launch.py purpose:=reward',
    'encoder': 'train policy', 'prior': 'train prior', 'policy': 'train policy', 'reward': 'train reward',
}  # fmt: skip
_SHOWN = (
    'n', 'successes', 'test_rmse_mean', 'active_units', 'off_manifold_ratio', 'precision', 'recall', 'steps', 'seconds',
)  # fmt: skip


def prepare(run: RunDirectory, settings: RunSettings) -> list[str]:
    """Run what is missing, in simulation; stopped and started again it goes on where it was.

    Returns:
        What was done: names of stages.

    Raises:
        UserError: a stage cannot be run, or the robot is a real one, where a person does it.
    """
    todo = missing(run, settings, ROLLOUTS_WANTED)
    if not todo:
        return []
    if settings.robot != 'sim':
        check(run, settings)
        return []
    from dex_rl_nodes.stages import collect, train  # heavy, and not needed where everything is there
    from dex_rl_nodes.stages.job import Job
    from dex_rl_nodes.stages.workers import Work, run_all

    job, board = Job(run, settings), ProgressBoard()
    demos = collect.demonstration_works(job)
    shown = collect.reward_works(job, ('shown', 'near misses'))
    recorded = tuple(work.name for work in demos + shown)
    training = [
        Work('recordings', report_recordings, (job,), recorded),
        Work('encoder', train.encoder_stage, (job,), ('recordings',)),
        Work('prior', train.prior_stage, (job,), ('recordings',)),
        Work('policy', train.policy_stage, (job,), ('encoder', 'prior')),
    ]
    rollouts = collect.reward_works(job, ('rollouts',), ('policy',))
    last = [
        Work('rollouts', report_recordings, (job,), ('policy', *(work.name for work in rollouts))),
        Work('reward', train.reward_stage, (job,), ('rollouts',)),
    ]
    try:
        run_all([*demos, *shown, *training, *rollouts, *last], board, on_done=lambda name, result: _tell(board, name, result))
    finally:
        board.close()
    return todo


def report_recordings(job, tell) -> dict:
    """Write the reports on what was recorded."""
    from dex_rl_nodes.stages import collect

    tell(0, 1)
    if job.has('reward'):
        collect.report_reward(job)
    return collect.report_demonstrations(job)


def _tell(board: ProgressBoard, name: str, result: object) -> None:
    if isinstance(result, dict):
        found = [f'{key} {_short(result[key])}' for key in _SHOWN if result.get(key) is not None]
        board.say(f'{name}: {", ".join(found)}')


def _short(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def check(run: RunDirectory, settings: RunSettings) -> None:
    """Name the command of the first stage that is missing; UserError when there is one."""
    config.load_task(settings.task)
    rollouts = ROLLOUTS_WANTED if settings.robot == 'sim' else 0
    for stage in missing(run, settings, rollouts):
        words = f'task:={settings.task} robot:={settings.robot} interface:={settings.interface} run:={run.name}'
        raise UserError(f'run "{run.name}" lacks {stage}, or it is out of date; run: ./dexrl {_COMMANDS[stage]} {words}')
