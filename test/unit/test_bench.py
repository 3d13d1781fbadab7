"""The bench commands: what is measured is kept, and results of another version are not mixed in."""

import json

import pytest

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.stages.bench import table
from dex_rl_nodes.stages.bench.measurement import Measurement
from dex_rl_nodes.stages.bench.report import note_runs, write_report
from dex_rl_nodes.stages.bench.speed import loop_on_time
from dex_rl_nodes.stages.bench.table import Plan, Results, make_plan, version
from dex_rl_nodes.stages.command import main


def test_a_measurement_says_how_and_where(tmp_path):
    words = ('sim_speed', 'steps', 'dexrl bench sim', '60 steps/s', '50 steps/s or more')
    Measurement(*words, True, 600, 3, {'a': 1}).save(tmp_path / 'bench')
    kept = json.loads((tmp_path / 'bench' / 'sim_speed.json').read_text())
    assert (kept['command'], kept['seed'], kept['n'], kept['values']) == ('dexrl bench sim', 3, 600, {'a': 1})
    assert kept['machine']['cores'] >= 1 and kept['code'] and kept['time']
    Measurement('late', 'ticks', 'dexrl bench ticks', '90 %', '99.9 %', False).save(tmp_path / 'bench')
    text = write_report(tmp_path / 'bench').read_text()
    assert f'| steps | 60 steps/s | 50 steps/s or more (met) | 600 | 3 | {kept["code"]} | `./dexrl bench sim` |' in text
    assert '| ticks | 90 % | 99.9 % (**not met**)' in text


def test_a_report_shows_pictures_with_their_captions(tmp_path):
    Measurement('sim_speed', 'steps', 'dexrl bench sim', '60', '50', True).save(tmp_path / 'bench')
    pictures = tmp_path / 'bench' / 'pictures'
    pictures.mkdir()
    for name in ('pull.png', 'other.png'):
        (pictures / name).touch()
    (pictures / 'captions.json').write_text('{"pull": "A learned pull."}')
    text = write_report(tmp_path / 'bench').read_text()
    assert 'A learned pull.\n\n![pull](bench/pictures/pull.png)' in text
    assert 'other\n\n![other](bench/pictures/other.png)' in text and 'captions' not in text


def test_a_report_needs_measurements(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='there are no measurements'):
        write_report(tmp_path / 'bench')
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    with pytest.raises(UserError, match='run "mine" has no evaluation'):
        note_runs(['mine'], tmp_path / 'bench')


def test_scores_on_different_starts_are_not_put_into_one_row(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    (tmp_path / 'mine').mkdir()
    for file, seed in (('evaluation.json', 901000), ('evaluation_imitation.json', 900000)):
        (tmp_path / 'mine' / file).write_text(json.dumps({'episodes': [{'seed': seed}]}))
    with pytest.raises(UserError, match='run "mine" was scored before and after learning on different starts'):
        note_runs(['mine'], tmp_path / 'bench')


def test_a_report_shows_every_table_with_its_figures(tmp_path):
    Measurement('sim_speed', 'steps', 'dexrl bench sim', '60', '50', True).save(tmp_path / 'bench')
    for name, steps in (('table', 0), ('table_5000', 5000)):
        folder = tmp_path / 'bench' / name
        folder.mkdir()
        results = Results(folder, 'aaa', steps=steps)
        results.save()
        assert json.loads((folder / 'results.json').read_text())['steps'] == steps
        path = table.write_table(results, folder, tmp_path)
        path.write_text(path.read_text() + '![curve](curve.png)')
    text = write_report(tmp_path / 'bench').read_text()
    assert text.index('\n## Tasks and action interfaces\n') < text.index('(bench/table/curve.png)')
    assert text.index('(bench/table/curve.png)') < text.index('\n## Tasks and action interfaces, 5,000 online steps\n')
    assert '(bench/table_5000/curve.png)' in text


def test_results_of_another_version_are_set_aside(tmp_path):
    said = []
    first = Results(tmp_path, 'aaa', said.append)
    first.cells['pull_tissue/raw/0'] = {'task': 'pull_tissue'}
    first.save()
    assert Results(tmp_path, 'aaa', said.append).cells == first.cells and not said
    assert Results(tmp_path, 'bbb', said.append).cells == {}
    assert 'set aside as results_aaa.json' in said[0]
    assert json.loads((tmp_path / 'results_aaa.json').read_text())['cells'] == first.cells


def test_results_of_a_version_that_comes_back_are_taken_up_again(tmp_path):
    said = []
    for key, cell in (('aaa', 'pull_tissue/raw/0'), ('bbb', 'pull_tissue/pca/0')):
        results = Results(tmp_path, key, said.append)
        results.cells[cell] = {'task': 'pull_tissue'}
        results.save()
    assert set(Results(tmp_path, 'aaa', said.append).cells) == {'pull_tissue/raw/0'}
    assert '1 cells of this version were made before' in said[-1]
    assert set(Results(tmp_path, 'bbb').cells) == {'pull_tissue/pca/0'}


def test_the_version_follows_what_decides_a_result():
    plan = Plan(('pull_tissue',), ('raw',), (0,))
    more = Plan(('pull_tissue', 'open_drawer'), ('raw', 'vq'), (0, 1))
    assert version(plan) == version(more), 'more cells do not change the others'
    assert version(plan) != version(Plan(('pull_tissue',), ('raw',), (0,), steps=100))
    assert version(plan) != version(Plan(('pull_tissue',), ('raw',), (0,), method='smoke'))


@pytest.mark.parametrize(('cells', 'parallel', 'spare'), [(2, 2, False), (1, 2, True), (2, 1, True), (3, 4, False)])
def test_a_cell_learns_with_a_second_thread_where_a_core_is_left(tmp_path, monkeypatch, cells, parallel, spare):
    monkeypatch.setattr(table, 'core_count', lambda: 2)
    plan = Plan(('pull_tissue',), ('raw', 'pca', 'vq', 'latent_prior')[: cells + 1], (0,))
    results = Results(tmp_path, 'aaa')
    results.cells['pull_tissue/raw/0'] = {'imitation': {}, 'learned': {}}  # done: counts no more
    works = [work for work in table._works(plan, tmp_path, results, parallel) if work.function is table.learn]
    assert [work.arguments[-1] for work in works] == [spare] * cells


def test_a_plan_holds_every_cell():
    values = {
        'tasks': 'pull_tissue,open_drawer',
        'interfaces': 'raw',
        'seeds': '0, 1',
        'steps': 0,
        'smoke': False,
        'presence': 0.5,
    }
    assert make_plan(values).cells == [
        ('pull_tissue', 'raw', 0), ('open_drawer', 'raw', 0), ('pull_tissue', 'raw', 1), ('open_drawer', 'raw', 1),
    ]  # fmt: skip
    smoke = make_plan({**values, 'smoke': True})
    assert smoke.method == 'smoke' and smoke.steps < 1000 and smoke.episodes < 20


def test_quick_figures_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    assert main(['bench', 'safety', 'commands:=1000']) == 0
    out = capsys.readouterr().out
    assert '0 of 1000; ' in out and out.splitlines()[0].endswith(': met')
    assert json.loads((tmp_path / 'bench' / 'safety.json').read_text())['values']['commands'] == 1000


def test_a_machine_alone_is_late_with_what_takes_longer_than_the_period():
    assert loop_on_time(work=0.001, seconds=0.2, period=0.02, tolerance=1) == 1
    assert loop_on_time(work=0.05, seconds=0.1, period=0.01, tolerance=0.01) == 0


def test_the_scripted_person_is_scored_without_a_camera(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    assert main('bench operator task:=open_drawer episodes:=2 seed:=1'.split()) == 0
    assert 'demonstrations of open_drawer' in capsys.readouterr().out
    found = json.loads((tmp_path / 'bench' / 'operator_open_drawer.json').read_text())
    assert found['values']['successes'] == found['n'] == 2 and found['values']['ticks'] > 20
    assert found['command'] == 'dexrl bench operator task:=open_drawer seed:=1 episodes:=2'


@pytest.mark.timeout(900)  # a minute and a half; more where other work goes on
def test_the_smoke_table_is_made_whole_and_not_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    words = ['bench', 'table', 'smoke:=true', 'steps:=60']
    assert main(words) == 0
    path = tmp_path / 'bench' / 'smoke' / 'results.json'
    results = json.loads(path.read_text())
    assert set(results['cells']) == {'pull_tissue/latent_prior/0', 'pull_tissue/vq/0'} and not results['failed']
    for cell in results['cells'].values():
        assert cell['env_steps'] == 60 and cell['imitation']['n'] == cell['learned']['n'] == 2
    assert '| pull_tissue |' in (path.parent / 'results.md').read_text()
    assert (path.parent / 'latent_flow_pull_tissue.png').stat().st_size > 10_000
    capsys.readouterr()
    assert main(words) == 0
    assert json.loads(path.read_text())['cells'] == results['cells'], 'what was there is not run again'
