"""What the command line of the stages refuses: one sentence, exit code 2, nothing lost."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dex_rl_nodes import config, interrupt
from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.paths import runs_directory
from dex_rl_nodes.recording.reader import next_folder
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import EpisodeState, Outcome, Phase
from dex_rl_nodes.run_directory import RunDirectory, RunSettings, file_hash
from dex_rl_nodes.stages import collect, inputs, train
from dex_rl_nodes.stages.command import main
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.prepare import prepare
from dex_rl_nodes.stages.recordings import ended_episodes


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    return tmp_path


def make(name: str, robot: str = 'sim', method: str = 'lamp') -> RunDirectory:
    """A new run of pull_tissue without recordings."""
    return RunDirectory(name).create(RunSettings('pull_tissue', robot, 'latent_prior', method, 0))


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ('fly', 'no stage "fly"; choose one of: train, prepare'),
        ('train', 'say what to train: prior, encoder, policy, reward, all'),
        ('train glove', 'say what to train'),
        ('prepare task:=fold_towel', 'task must be one of assemble_box'),
        ('prepare interface:=pcca', 'interface must be one of latent_prior, raw, pca, vq'),
        ('prepare method:=lampp', 'method must be one of lamp'),
        ('prepare robot:=ur5', 'robot must be one of fr3_ruiyan, sim'),
        ('prepare tusk:=pull_tissue', 'no argument "tusk"; it has: run, task'),
        ('prepare seed:=many', 'seed must be a whole number, not "many"'),
        ('prepare seed:=1000', 'seed must be at most 999'),
        ('prepare pull_tissue', '"pull_tissue" is not an argument; write name:=value'),
        ('evaluate residual:=both', 'residual must be one of learned, none'),
        ('train policy data:=x.npz', 'is for "train prior", not for "train policy"'),
        ('train prior --data nowhere.npz --run lab', 'cannot read nowhere.npz'),
        ('train prior --data glove.npz', 'the prior of glove.npz needs a run of its own; name it with run:=NAME'),
        ('train prior latent:=3', 'latent:= goes with data:=; for a run set prior.latent_dim'),
        ('train policy run:=my_dry', '"my_dry" is the name of a dry run'),
        ('online robot:=fr3_ruiyan', 'online in one process is simulated; with robot:=fr3_ruiyan use the launch files'),
        ('bench warp', 'no bench "warp"; choose one of: sim'),
        ('bench table tasks:=juggle', 'unknown task "juggle"; choose from: assemble_box'),
        ('bench table interfaces:=raw,fine', 'unknown interface "fine"'),
        ('bench table seeds:=one', 'seeds:=one must be whole numbers'),
    ],
)
def test_refusals(words, said, capsys):
    assert main(words.split()) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and '\n' not in error and error.startswith('dexrl: ')


def test_a_check_that_finds_all_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.stages.prepare.check', lambda *opened: None)
    make('real', 'fr3_ruiyan')
    assert main(['check', 'task:=pull_tissue', 'robot:=fr3_ruiyan', 'run:=real']) == 0
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('words', 'first'),
    [
        ('train prior', 'launch collect_demos.launch.py'),
        ('check', 'launch collect_demos.launch.py'),
        ('online', 'prepare'),
        ('evaluate', 'prepare'),
        ('prepare robot:=fr3_ruiyan', 'launch collect_demos.launch.py'),
        ('check robot:=fr3_ruiyan_emulated', 'launch collect_demos.launch.py'),
    ],
)
def test_a_slip_in_the_name_of_a_run_makes_none(runs, capsys, words, first):
    make('lunch')
    assert main([*words.split(), 'run:=lunhc']) == 2
    said = capsys.readouterr().err
    assert f'there is no run "lunhc" in {runs} (it has: lunch)' in said
    robot = words.partition(' robot:=')[2].replace('_emulated', ' devices:=emulated')
    assert f'a run begins with: ./dexrl {first} task:=pull_tissue {f"robot:={robot} " * bool(robot)}run:=lunhc' in said
    assert [path.name for path in runs.iterdir()] == ['lunch']


def test_missing_recordings_name_the_command(capsys):
    make('empty'), make('real', 'fr3_ruiyan')
    assert main(['train', 'prior', 'task:=pull_tissue', 'run:=empty']) == 2
    assert 'run ./dexrl launch collect_demos.launch.py task:=pull_tissue run:=empty' in capsys.readouterr().err
    assert main(['check', 'task:=pull_tissue', 'robot:=fr3_ruiyan', 'run:=real']) == 2
    said = capsys.readouterr().err
    assert '0 of 20 demonstrations are there (`demonstrations` in config/tasks/pull_tissue.yaml)' in said
    assert '; run: ./dexrl launch collect_demos.launch.py' in said


def test_recordings_of_the_graph_are_enough_on_a_robot(runs, monkeypatch, capsys):
    monkeypatch.setattr(inputs, 'is_current', lambda *_: True)
    make('real', 'fr3_ruiyan')
    words = ['check', 'task:=pull_tissue', 'robot:=fr3_ruiyan', 'run:=real']
    for purpose, said in (('demos', '0 of 20 demonstrations'), ('reward', 'reward sessions missing')):
        assert main(words) == 2
        assert said in capsys.readouterr().err
        with BagWriter(runs / 'real' / 'bags' / purpose / '00000') as bag:
            for number in range(20):
                bag.write('/episode', EpisodeState(number, number, Phase.ENDED, Outcome.SUCCESS, final_step=30))
    assert main(words) == 0
    assert json.loads((runs / 'real' / 'demos.json').read_text())['successes'] == 20


def test_demonstrations_beyond_those_that_count_are_told(runs, monkeypatch, capsys):
    make('mine')
    with BagWriter(runs / 'mine' / 'bags' / 'demos' / '00000') as bag:
        for number in range(23):
            bag.write('/episode', EpisodeState(number, number, Phase.ENDED, Outcome.SUCCESS, final_step=30))
    monkeypatch.setitem(train.STAGES, 'prior', lambda job, tell, again: {})
    assert main(['train', 'prior', 'task:=pull_tissue', 'run:=mine']) == 0
    said = capsys.readouterr().out
    assert 'the first 20 of 23 demonstrations count: `demonstrations` in config/tasks/pull_tissue.yaml' in said


def test_actions_that_would_mean_another_motion_are_refused(runs, monkeypatch, capsys):
    make('mine')
    path, robot = runs / 'mine' / 'run.json', load_robot('sim')
    assert json.loads(path.read_text())['translation_scale'] == robot.translation_scale
    faster = robot.model_copy(update={'translation_scale': 0.03})
    monkeypatch.setattr('dex_rl_nodes.config.load_robot', lambda name: faster)
    assert main(['check', 'task:=pull_tissue', 'run:=mine']) == 2
    assert 'made with translation_scale 0.02 in config/robots/sim.yaml, not 0.03' in capsys.readouterr().err
    old = json.loads(path.read_text())
    del old['translation_scale']
    path.write_text(json.dumps(old))
    assert main(['check', 'task:=pull_tissue', 'run:=mine']) == 2
    assert 'demonstrations are there' in capsys.readouterr().err, 'a run of before, which did not note it'
    assert json.loads(path.read_text())['translation_scale'] == 0.03, 'from now on it does'


def test_a_run_is_not_continued_with_other_cameras(runs):
    robot = config.load_robot('sim')

    def of(**change):
        cameras = {**robot.cameras, 'front': robot.cameras['front'].model_copy(update=change)}
        return lambda name: robot.model_copy(update={'cameras': cameras})

    settings = RunSettings('pull_tissue', 'sim', 'latent_prior', 'lamp', 0)
    with pytest.MonkeyPatch.context() as patch:
        run = RunDirectory('mine').create(settings)
        patch.setattr(config, 'load_robot', of(serial='A'))
        run.create(settings)  # filled in later
        assert json.loads(run.file('run.json').read_text())['cameras']['front']['serial'] == 'A'
        for change, words in (({'serial': 'B'}, 'serial A in .*, not B'), ({'serial': 'A', 'width': 640}, 'width 172')):
            patch.setattr(config, 'load_robot', of(**change))
            with pytest.raises(UserError, match=rf'run "mine" was made with cameras\.front\.{words}'):
                run.create(settings)
        patch.setattr(config, 'load_robot', of(serial='A', rate=30.0))
        run.create(settings)
        old = json.loads(run.file('run.json').read_text())
        del old['cameras']  # of before
        run.file('run.json').write_text(json.dumps(old))
        run.create(settings)
        assert json.loads(run.file('run.json').read_text())['cameras']['front']['serial'] == 'A'


def test_nothing_is_made_again_below_what_was_learned(runs, capsys, monkeypatch):
    monkeypatch.setattr('dex_rl_nodes.stages.workers.run_all', lambda *_, **__: pytest.fail('work was started'))
    run = make('learned', method='smoke')
    settings = run.settings()
    policy = {'inputs': {**inputs.stage_inputs(run, settings, 'policy'), 'prior': 'another'}}
    run.file('policy.json').write_text(json.dumps(policy))
    run.file('learner').mkdir()
    run.file('learner/step_50.safetensors').touch()
    for command in (['prepare'], ['check'], ['train', 'policy'], ['train', 'prior']):
        assert main([*command, 'run:=learned', 'method:=smoke', 'task:=pull_tissue']) == 2
        error = capsys.readouterr().err
        assert 'run "learned" has learned online, and policy (the prior changed) would have to be made again' in error
        assert 'new run:=NAME' in error
    run.file('learner/step_50.safetensors').unlink()
    with pytest.raises(pytest.fail.Exception, match='work was started'):
        main(['prepare', 'run:=learned', 'method:=smoke', 'task:=pull_tissue'])


def test_what_an_earlier_version_made_in_another_way_is_out_of_date(runs):
    run = make('old', method='smoke')
    settings = run.settings()
    for stage in inputs.TRAINED:
        noted = inputs.stage_inputs(run, settings, stage)
        assert noted.pop('recipe').isdigit()
        weights = run.file(f'{stage}.safetensors')
        weights.touch()
        run.file(f'{stage}.json').write_text(json.dumps({'inputs': noted, 'sha256': file_hash(weights)}))
    assert inputs.outdated(run, settings) == {'encoder': ['recipe'], 'policy': ['recipe']}
    run.file('learner').mkdir()
    run.file('learner/step_50.safetensors').touch()
    with pytest.raises(
        UserError, match=r'encoder \(the way it is made changed\), policy \(the way it is made changed\)'
    ):
        prepare(run, settings)


def test_recording_in_one_process_leaves_sessions_of_the_graph_alone(runs):
    settings = RunSettings('pull_tissue', 'sim', 'latent_prior', 'lamp', 0)
    job = SimpleNamespace(run=RunDirectory('mixed').create(settings), settings=settings, task=load_task('pull_tissue'))
    session = job.run.bags('demos') / '00001'
    with BagWriter(session) as bag:
        bag.write('/episode', EpisodeState(1, 2, Phase.ENDED, Outcome.SUCCESS, final_step=30))
    ended = EpisodeState(1, 1, Phase.ENDED, Outcome.SUCCESS, final_step=9)

    class Loop:
        def episode(self, number, seed, purpose, bag):
            bag.write('/episode', ended)
            return SimpleNamespace(success=True)

    for _ in range(2):
        collect._record(job, Loop(), 'demos', 1)
    assert set(ended_episodes(job.run, 'demos')) == {1, 2}
    assert next_folder(job.run.bags('demos')).name == '00002'


def test_a_run_keeps_its_settings(capsys):
    make('mine')
    assert main(['check', 'task:=pull_tissue', 'interface:=raw', 'run:=mine']) == 2
    assert 'run "mine" was made with interface latent_prior, not raw' in capsys.readouterr().err


def test_a_prior_for_any_hand(runs, capsys):
    random = np.random.default_rng(5)
    phase = np.concatenate([np.linspace(0, 1, 40) for _ in range(12)])[:, None]
    targets = 30 + 60 * phase ** np.linspace(0.5, 2, 9) + random.normal(0, 0.5, (480, 9))  # degrees
    np.savez(runs / 'glove.npz', targets=targets.astype(np.float32), lengths=np.full(12, 40))
    words = f'train prior --data {runs}/glove.npz --run lab --latent 3 method:=smoke'
    assert main(words.split()) == 0
    found = json.loads((runs / 'lab' / 'prior.json').read_text())
    assert len(found['test_rmse']) == 9 and found['joints'] == 9
    assert 0 < found['active_units'] <= 3 and len(found['kl_per_unit']) == 3
    assert found['unit']['low'][0] == pytest.approx(targets[:, 0].min(), abs=3)
    assert (runs / 'lab' / 'prior.safetensors').exists()
    make('mine')
    assert main(f'train prior --data {runs}/glove.npz run:=mine method:=smoke'.split()) == 2
    assert 'write the prior of glove.npz to a new run:=NAME' in capsys.readouterr().err
    assert not (runs / 'mine' / 'prior.safetensors').exists()


def test_nothing_is_learned_on_stages_that_are_missing(runs, capsys):
    RunDirectory('drawer').create(RunSettings('open_drawer', 'sim', 'raw', 'lamp', 4))
    assert main('online task:=open_drawer interface:=raw seed:=4 run:=drawer'.split()) == 2
    said = capsys.readouterr().err
    assert 'encoder, prior, policy, reward missing or out of date' in said
    assert 'run: ./dexrl prepare task:=open_drawer interface:=raw seed:=4 run:=drawer' in said
    assert not (runs / 'drawer' / 'learner').exists()


def test_a_field_that_is_missing_is_named_before_a_stage_that_is(runs, capsys, monkeypatch):
    def without(name: str):
        raise UserError(f'config/tasks/{name}.yaml: episode_steps: Field required')

    monkeypatch.setattr(config, 'load_task', without)
    for words in ('evaluate run:=mine', 'online run:=mine', 'train reward run:=mine'):
        assert main(words.split()) == 2
        assert 'config/tasks/pull_tissue.yaml: episode_steps: Field required' in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(runs, capsys, monkeypatch):
    (runs / 'file').touch()
    monkeypatch.setenv('DEXRL_RUNS', str(runs / 'file'))
    assert main('prepare run:=mine'.split()) == 2
    said = capsys.readouterr().err
    assert f'cannot write {runs}/file/mine/run.json' in said and 'choose another folder' in said


def test_a_prior_of_a_file_is_no_prior_of_a_robot(runs, capsys):
    """Its six numbers may be anybody's: a policy would send them to the hand."""
    random = np.random.default_rng(5)
    targets = random.uniform(0, 90, (480, 6)).cumsum(0).astype(np.float32)
    np.savez(runs / 'glove.npz', targets=targets, lengths=np.full(12, 40))
    assert main(f'train prior --data {runs}/glove.npz --run lab method:=smoke'.split()) == 0
    with pytest.raises(UserError, match='was fitted for hand of glove.npz, not sim'):
        Job.open('lab', RunSettings('pull_tissue', 'sim', 'latent_prior', 'smoke', 0)).interface()


def test_help_lists_every_argument(capsys):
    for words in ('--help', 'train --help', 'evaluate --help', 'bench', 'bench table --help'):
        assert main(words.split()) == 0
    shown = capsys.readouterr().out
    for name in ('task:=', 'residual:=', 'data:=', 'interfaces:=', 'smoke:=false'):
        assert name in shown


def test_a_reader_that_has_left_is_no_traceback():
    """As with `bench sac | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'dex_rl_nodes.stages', 'bench', '--help']
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, '')


def test_ctrl_c_that_comes_while_python_loads_is_kept():
    def held():
        interrupt.hold()
        os.kill(os.getpid(), signal.SIGINT)

    command = [sys.executable, '-m', 'dex_rl_nodes.stages', 'bench', '--help']
    done = subprocess.run(command, preexec_fn=held, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and done.stderr.startswith('\ndexrl: stopped') and not done.stdout


def test_a_second_command_at_a_run_is_refused_by_the_name_of_the_first(runs, capsys):
    make('mine')
    with RunDirectory('mine').claimed('prepare'):
        assert main(['prepare', 'task:=pull_tissue', 'run:=mine']) == 2
        assert f'./dexrl prepare (process {os.getpid()}) works on run "mine"; wait for it' in capsys.readouterr().err
        with RunDirectory('other').claimed('online'):
            pass
    assert not (runs / 'other').exists()


@pytest.mark.parametrize(
    'content', ['[]', '{}', 'null', '{"task": 3}', '{', '{"cameras": {}}', '{"control_rate": "x"}']
)
def test_a_damaged_run_json_is_one_sentence(runs, capsys, content):
    path = make('mine').file('run.json')
    good = json.loads(path.read_text())
    part = json.loads(content) if content.startswith('{"c') else None
    path.write_text(json.dumps({**good, **part}) if part else content)
    assert main(['online', 'task:=pull_tissue', 'run:=mine']) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'run.json is damaged (' in said and 'begin in another run:=NAME' in said


@pytest.mark.parametrize('name', ['x' * 300, 'two\nlines', 'half\udcff'])
def test_a_name_that_no_folder_can_have_is_refused(capsys, name):
    assert main(['evaluate', 'task:=pull_tissue', f'run:={name}']) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'cannot be the name of a run' in said


def test_an_option_without_its_value_is_not_left_out(capsys):
    for words in (['--data'], ['--data', '']):
        assert main(['train', 'prior', *words]) == 2
        assert '--data needs a value' in capsys.readouterr().err


def test_weights_that_were_damaged_are_made_again(runs):
    run, settings = make('mine'), RunSettings('pull_tissue', 'sim', 'latent_prior', 'lamp', 0)
    weights = run.file('prior.safetensors')
    weights.write_bytes(b'weights')
    given = inputs.stage_inputs(run, settings, 'prior')
    run.file('prior.json').write_text(json.dumps({'sha256': file_hash(weights), 'inputs': given}))
    assert inputs.is_current(run, settings, 'prior')
    weights.write_bytes(b'weight')
    assert not inputs.is_current(run, settings, 'prior')


def test_runs_are_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for given, folder in (('', 'runs'), ('~/mine', 'mine')):
        monkeypatch.setenv('DEXRL_RUNS', given)
        assert runs_directory() == tmp_path / folder
