"""What every stage is made from, and which stages are missing or out of date.

Imports nothing heavy: it runs at every start.
"""

import hashlib
import json
from dataclasses import dataclass

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.parameters import settings_words
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, file_hash, read_json, write_json

_TAIL = 1 << 16  # bytes at the end of a bag file: the summary, with times and checksums
TRAINED = ('encoder', 'prior', 'policy', 'reward')
# of each of them; raised when the code, or a default, makes something else of the same inputs
_RECIPES = {'encoder': 3, 'prior': 1, 'policy': 2, 'reward': 1}
ARRANGED, ROLLOUTS = 1500, 4000  # number of the first arranged scene, policy rollout among the reward sessions
REPORTS = {'demos': 'demos.json', 'reward': 'reward_sessions.json'}


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is recorded before anything is learned."""

    demonstrations: int = 0  # successful ones; 0: as many as the task says
    shown: int = 28  # reward episodes in which the operator looks around, does the task and stays there
    near_misses: int = 0  # reward episodes in which the operator fails on purpose; 0: as many as the task says
    arrangements: int | None = None  # reward episodes of what was arranged by hand, at most; None: as the task says
    rollouts: int = 16  # reward episodes in which the base policy acts and the operator only marks; some are discarded
    strays: int = 30  # the same with a random residual: what an agent sees that looks for success everywhere

    def arranged(self, task: config.Task) -> int:
        """Reward episodes of what was arranged by hand, of a task."""
        return task.arrangements if self.arrangements is None else min(self.arrangements, task.arrangements)


USUAL = Amounts()


def fingerprint(content: object) -> str:
    """Short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def bags_fingerprint(run: RunDirectory, purpose: str) -> str:
    """Short hash of the bags of a purpose; changes when one is added, removed or continued."""
    digest = hashlib.sha256()
    for path in sorted(path for path in run.bags(purpose).glob('*/*.mcap') if path.is_file()):
        with path.open('rb') as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            digest.update(f'{path.parent.name} {path.name} {size}'.encode())
            digest.update(file.read())
    return digest.hexdigest()[:16]


def report(run: RunDirectory, purpose: str) -> dict:
    """What there is for a purpose, whoever recorded it: its report, written anew when bags have changed."""
    path, bags = run.file(REPORTS[purpose]), bags_fingerprint(run, purpose)
    if path.exists():
        content = read_json(path)
        if content.get('bags') == bags:
            return content
    from dex_rl_nodes.stages.recordings import count  # takes a moment, and not needed while nothing changes

    content = {**count(run, purpose), 'bags': bags}
    if content['n']:
        write_json(path, content)
    return content


def identity(run: RunDirectory, name: str) -> str:
    """SHA-256 of what a training stage has made; empty: nothing yet."""
    path = run.file(f'{name}.json')
    return str(read_json(path).get('sha256', '')) if path.exists() else ''


def stage_inputs(run: RunDirectory, settings: RunSettings, stage: str) -> dict[str, str]:
    """What a training stage has to be done again for, when it changes; stored with its result under `inputs`."""
    method = config.load_method(settings.method)
    inputs = {'settings': fingerprint(getattr(method, stage)), 'seed': str(settings.seed)}
    inputs['recipe'] = str(_RECIPES[stage])
    if stage != 'prior':  # which sees no images
        inputs['crops'] = fingerprint(config.load_task(settings.task).crops)
    inputs['demos'] = bags_fingerprint(run, 'demos')
    if stage == 'prior':
        inputs['interface'] = settings.interface
    elif stage == 'encoder':
        inputs['held_out'] = fingerprint(method.reward.get('held_out'))  # what measures the classifier is left out
        # It learns from them too. The first are worth making everything anew, more of them later are not.
        inputs['sessions'] = 'some' if any(run.bags('reward').glob('*/*.mcap')) else 'none'
    elif stage == 'policy':
        inputs |= {'encoder': identity(run, 'encoder'), 'prior': identity(run, 'prior')}
    elif stage == 'reward':
        inputs |= {'encoder': identity(run, 'encoder'), 'reward': bags_fingerprint(run, 'reward')}
    return inputs


def is_current(run: RunDirectory, settings: RunSettings, stage: str) -> bool:
    """Whether the result of a training stage exists and was made from what there is now."""
    path = run.file(f'{stage}.json')
    weights = path.with_suffix('.safetensors')
    if not path.exists() or not weights.is_file():
        return False
    try:
        result = read_json(path)
        return result.get('sha256') == file_hash(weights) and not _changed(result, stage_inputs(run, settings, stage))
    except UserError:
        return False


def _changed(result: dict, now: dict[str, str]) -> list[str]:
    """Inputs of a result that are others now; one that was not noted when it was made counts as the same.

    No recipe was noted as long as it was the first.
    """
    before = result.get('inputs', {})
    same = {**now, 'recipe': '1'} if before else {}
    return [key for key in now if before.get(key, same.get(key)) != now[key]]


def outdated(run: RunDirectory, settings: RunSettings) -> dict[str, list[str]]:
    """Training stages that were done from something else than what there is now, and the inputs that differ."""
    found = {}
    for stage in TRAINED:
        path = run.file(f'{stage}.json')
        if path.exists() and not is_current(run, settings, stage):
            found[stage] = _changed(read_json(path), stage_inputs(run, settings, stage)) or ['weights']
    return found


def has_learned(run: RunDirectory) -> bool:
    """Whether online learning has begun: there are transitions or checkpoints."""
    return any(run.file('learner').glob('step_*')) or any(run.bags('online').glob('*_transitions/*.mcap'))


def missing(run: RunDirectory, settings: RunSettings, amounts: Amounts) -> list[str]:
    """Stages before online learning that are missing or out of date, in order."""
    task, found = config.load_task(settings.task), []
    if report(run, 'demos')['successes'] < (amounts.demonstrations or task.demonstrations):
        found.append('demos')
    sessions = report(run, 'reward')
    wanted = {'rollouts': amounts.rollouts + amounts.strays, 'arranged': amounts.arranged(task)}
    if not sessions['n'] or any(sessions.get(kind, 0) < number for kind, number in wanted.items()):
        found.append('reward sessions')
    return found + [stage for stage in TRAINED if not is_current(run, settings, stage)]


def command_line(command: str, run: RunDirectory, settings: RunSettings) -> str:
    """A command of `./dexrl` that is meant for a run, to be typed; launch files name emulated devices their own way."""
    words = settings_words(run.name, settings)
    if command.startswith('launch '):
        words = words.replace(f'{config.EMULATED} ', ' devices:=emulated ')
    return f'./dexrl {command} {words}'
