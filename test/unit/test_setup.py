"""Set-up: what is rebuilt when, what survives an interruption, and what is said when something is missing."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dex_rl_nodes import interrupt
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.setup import build, command, doctor, environment, places, system
from dex_rl_nodes.setup.environment import Environment, correct_exports
from dex_rl_nodes.setup.places import Places, build_hash, find_places
from dex_rl_nodes.setup.steps import Progress, Runner, exclusive, last_words
from dex_rl_nodes.stages import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_ros(monkeypatch, tmp_path):
    for name in ('ROS_DISTRO', 'DEXRL_TORCH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('DEXRL_HOME', str(tmp_path / 'home'))


@pytest.fixture
def runner(tmp_path):
    with (tmp_path / 'lock').open('w') as lock:
        yield Runner(Progress(1), tmp_path / 'logs', lock.fileno())


def dexrl(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / 'dexrl', *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_needs_no_set_up(tmp_path):
    result = dexrl('--help')
    assert result.returncode == 0
    for name in ('launch', 'train', 'bench', 'test', 'setup', 'doctor'):
        assert f'  {name}' in result.stdout
    assert not (tmp_path / 'home').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['lunch'], ['no command "lunch"', 'launch', 'doctor']),
        (['setup', 'now'], ['setup takes no arguments', 'now']),
        (['doctor', 'robot:=r2d2'], ['robot must be one of', 'sim']),
        (['doctor', 'sim'], ['doctor takes robot:=NAME and namespace:=NAME']),
        (['doctor', 'namespace:=left-arm'], ['namespace "left-arm" is not one of ROS']),
    ],
)
def test_wrong_commands_are_refused_in_one_sentence(arguments, words):
    result = dexrl(*arguments)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_home_inside_the_checkout_is_refused():
    result = dexrl('setup', DEXRL_HOME=str(ROOT / 'here'))
    assert result.returncode == 2 and 'lies inside the checkout' in result.stderr


def test_old_ros_distributions_are_refused(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'foxy')
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/foxy')
    with pytest.raises(UserError, match='foxy is sourced, but dex_rl_nodes needs humble or newer'):
        find_places()


def test_a_build_of_pytorch_that_does_not_exist_is_refused():
    result = dexrl('setup', DEXRL_TORCH='rocm')
    assert result.returncode == 2 and 'DEXRL_TORCH must be cpu or cuda, not "rocm"' in result.stderr


@pytest.mark.parametrize(
    ('text', 'version'),
    [
        ('NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025', 580),
        ('NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build', 575),
        ('something else', 0),
    ],
)
def test_the_driver_of_a_card_is_known_where_the_card_is(monkeypatch, tmp_path, text, version):
    file, device = tmp_path / 'version', tmp_path / 'nvidiactl'
    monkeypatch.setattr(places, '_DRIVER', file)
    monkeypatch.setattr(places, '_CARD', device)
    assert places.card_driver() == 0
    file.write_text(text)
    assert places.card_driver() == 0
    device.touch()
    assert places.card_driver() == version


def test_each_kind_of_machine_has_its_own_environment(monkeypatch):
    monkeypatch.setattr(places, 'card_driver', lambda: 570)
    kinds = [find_places()]
    monkeypatch.setattr(places, 'card_driver', lambda: 580)
    kinds.append(find_places())
    monkeypatch.setenv('DEXRL_TORCH', 'cpu')
    assert find_places() == kinds[0]
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/jazzy')
    kinds.append(find_places())
    assert len({kind.environment for kind in kinds}) == 3
    assert [kind.distribution for kind in kinds] == ['', '', 'jazzy']
    assert kinds[2].build != kinds[0].build


def test_a_changed_message_asks_for_a_build_and_a_changed_module_does_not(monkeypatch, tmp_path):
    monkeypatch.setattr(places, 'CHECKOUT', tmp_path)
    (tmp_path / 'msg').mkdir()
    for name in ('CMakeLists.txt', 'package.xml', 'msg/A.msg', 'module.py'):
        (tmp_path / name).write_text('one')
    before = build_hash(tmp_path)
    (tmp_path / 'module.py').write_text('two')
    assert build_hash(tmp_path) == before
    (tmp_path / 'msg' / 'A.msg').write_text('two')
    changed = build_hash(tmp_path)
    (tmp_path / 'msg' / 'B.msg').write_text('two')
    assert len({before, changed, build_hash(tmp_path)}) == 3


def test_paths_of_the_build_machine_are_replaced_once(tmp_path):
    share = tmp_path / 'share' / 'cmake'
    share.mkdir(parents=True)
    text = '/opt/python/cp311-cp311/include/python3.11;/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy'
    (share / 'a.cmake').write_text(text)
    (share / 'no_suffix').write_bytes(b'\xff\xfe' + text.encode())
    (share / 'other.cmake').write_text('/usr/include')
    assert correct_exports(tmp_path, '/inc', '/site') == 2
    assert (share / 'a.cmake').read_text() == '/inc;/site/numpy'
    assert (share / 'no_suffix').read_bytes() == b'\xff\xfe/inc;/site/numpy'
    assert correct_exports(tmp_path, '/inc', '/site') == 0


def test_a_package_cut_off_while_it_was_installed_is_installed_again(tmp_path, runner):
    site = tmp_path / 'env' / 'lib' / 'python3.11' / 'site-packages'
    for name, files in (('whole-1.0', ('METADATA', 'RECORD')), ('torn-1.0', ('METADATA',))):
        (site / f'{name}.dist-info').mkdir(parents=True)
        for file in files:
            (site / f'{name}.dist-info' / file).touch()
    Environment(Places(tmp_path / 'env', tmp_path, ''), runner)._forget_torn_packages()
    assert [path.name for path in site.iterdir()] == ['whole-1.0.dist-info']


def test_a_complete_step_is_not_done_again(tmp_path, runner):
    steps = Environment(Places(tmp_path / 'env', tmp_path, ''), runner)
    done = []

    def fail():
        done.append('fail')
        raise UserError('no')

    with pytest.raises(UserError):
        steps._once('a', 'step a', fail)
    for _ in range(2):
        steps._once('a', 'step a', lambda: done.append('a'))
    assert done == ['fail', 'a']


def test_a_torn_build_is_started_afresh_and_a_broken_one_is_reported(tmp_path, runner, monkeypatch):
    where = Places(tmp_path / 'env', tmp_path / 'build', '')
    (where.build / 'build').mkdir(parents=True)
    attempts = []

    def colcon(*_):
        attempts.append((where.build / 'build').exists())
        if attempts[-1]:
            raise UserError('file truncated')

    monkeypatch.setattr(build, '_colcon', colcon)
    with pytest.raises(UserError):
        build.build(where, runner)
    assert attempts == [True]  # nothing was torn: a mistake in the sources, told at once
    build.build(where, runner)
    assert attempts == [True, True, False]
    build.build(where, runner)
    assert len(attempts) == 3


def test_a_failing_program_is_named_with_its_words_and_log(runner):
    code = 'print("fetching")\nprint("ERROR: no such wheel")\nprint("bye")\nraise SystemExit(1)'
    with pytest.raises(UserError) as error:
        runner.run('pip', [sys.executable, '-c', code])
    assert 'pip failed (ERROR: no such wheel)' in str(error.value)
    assert str(runner.logs / 'pip.log') in str(error.value)


def test_last_words_without_an_error(tmp_path):
    (tmp_path / 'a.log').write_text('one\n\ntwo\n')
    assert last_words(tmp_path / 'a.log') == 'two'


def test_stopping_ends_the_programs(runner):
    started, errors = time.monotonic(), []

    def work():
        try:
            runner.run('sleep', ['sleep', '60'])
        except (KeyboardInterrupt, UserError) as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not runner._children:
        assert time.monotonic() - started < 10
    runner.stop()
    thread.join(10)
    assert not thread.is_alive() and errors and runner._children[0].poll() is not None


def test_work_done_together_reports_the_failure(runner):
    done = []

    def fail():
        raise UserError('no')

    with pytest.raises(UserError, match='no'):
        runner.together(fail, lambda: done.append(1))
    assert done == [1]


def test_a_second_set_up_waits_and_says_so(tmp_path, monkeypatch):
    path, order, said = tmp_path / 'lock', [], threading.Event()

    class Written(io.StringIO):
        def write(self, text):
            count = super().write(text)
            if 'another set-up is running' in self.getvalue():  # a line may be written in pieces
                said.set()
            return count

    def second():
        with exclusive(path):
            order.append('second')

    monkeypatch.setattr(sys, 'stderr', Written())
    with exclusive(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(30)
        order.append('first')
    thread.join(10)
    assert order == ['first', 'second']


def test_progress_counts_and_times_steps(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', written)
    progress = Progress(2)
    with progress.step('one'):
        pass
    with pytest.raises(ValueError), progress.step('two'):
        raise ValueError
    assert re.search(r'\[1/2\] one: \d+\.\d s\n\[2/2\] two \.\.\.', written.getvalue())


def test_missing_libraries_are_named_with_their_packages(monkeypatch, runner):
    lacking = [
        system.Requirement('a C++ compiler', lambda: False, ('g++',)),
        system.Requirement('EGL', lambda: False, ('libegl1',)),
    ]
    monkeypatch.setattr(system, 'REQUIREMENTS', lacking)
    monkeypatch.setattr(system.shutil, 'which', lambda name: '/usr/bin/' + name)
    monkeypatch.setattr(system.os, 'geteuid', lambda: 1000)
    line = 'sudo apt-get install --yes --no-install-recommends g++ libegl1'
    with pytest.raises(UserError, match=re.escape(f'lacks a C++ compiler, EGL; run "{line}" and start again')):
        system.ensure(runner)


def test_root_installs_what_is_missing_after_renewing_the_lists(monkeypatch, runner):
    there = []
    monkeypatch.setattr(system, 'REQUIREMENTS', [system.Requirement('EGL', lambda: bool(there), ('libegl1',))])
    monkeypatch.setattr(system.shutil, 'which', lambda name: '/usr/bin/' + name)
    monkeypatch.setattr(system.os, 'geteuid', lambda: 0)
    lines = []

    def run(_name, line, _variables=None):
        lines.append(' '.join(line))
        if len(lines) == 1:
            raise UserError('unable to locate package')
        if 'install' in line:
            there.append(True)

    monkeypatch.setattr(runner, 'run', run)
    system.ensure(runner)
    install = 'apt-get install --yes --no-install-recommends libegl1'
    assert lines == [install, 'apt-get update', install]


def test_pytorch_falls_back_when_the_cpu_index_cannot_be_reached(monkeypatch, runner, tmp_path):
    calls = []

    def pip(_log, *words):
        calls.append(words[-1])
        if words[-1].endswith('+cpu'):
            raise UserError('no route')

    steps = Environment(Places(tmp_path / 'env', tmp_path, ''), runner)
    monkeypatch.setattr(steps, '_pip', pip)
    steps._install_torch()
    assert [call.split('==')[0] for call in calls] == ['torch', 'torch'] and calls[0] == f'{calls[1]}+cpu'


def test_keyboard_arguments_are_those_of_ros():
    words = command.keyboard_arguments(['namespace:=/left'])
    assert words == ['--ros-args', '-r', '__ns:=/left']
    with pytest.raises(UserError, match='keyboard takes namespace:=NAME, not "task:=x"'):
        command.keyboard_arguments(['task:=x'])
    with pytest.raises(UserError, match='namespace "left-arm" is not one of ROS; use letters, digits and _'):
        command.keyboard_arguments(['namespace:=left-arm'])


def test_a_device_that_hangs_is_a_finding_of_the_doctor(monkeypatch, tmp_path):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired('diagnosis', timeout)

    monkeypatch.setattr(doctor, 'run_variables', lambda _: {})
    monkeypatch.setattr(doctor.subprocess, 'run', hang)
    places = Places(tmp_path, tmp_path, '')
    monkeypatch.setattr(Places, 'is_complete', lambda _: True)
    (finding,) = doctor._environment(places, 'fr3_ruiyan', '')
    assert finding.level == 'bad' and 'no answer within 120 s: a device hangs' in finding.text


def test_tensorboard_shows_the_runs(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(command.os, 'execv', lambda _, words: started.append(words))
    monkeypatch.setattr(command, 'run_variables', lambda _: {})
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    for words in ([], ['--logdir', 'mine']):
        command.hand_over(Places(tmp_path, tmp_path, ''), 'tensorboard', words)
    assert [words[2:] for words in started] == [
        ['tensorboard.main', '--logdir', str(tmp_path)], ['tensorboard.main', '--logdir', 'mine'],
    ]  # fmt: skip


def test_ctrl_c_waits_for_those_who_accept_it(monkeypatch, tmp_path):
    held = {}

    def note(_, words):
        held[words[2]] = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        interrupt.accept()

    monkeypatch.setattr(command.os, 'execv', note)
    monkeypatch.setattr(command, 'run_variables', lambda _: {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    for name in command.MODULES:
        command.hand_over(Places(tmp_path, tmp_path, ''), name, [])
    ours = {words[0] for words in command.MODULES.values() if words[0].startswith('dex_rl_nodes')}
    assert {module for module, kept in held.items() if kept} == ours and held['pytest'] is False


def test_tests_and_benches_do_not_meet_the_robot_of_the_shell(monkeypatch, tmp_path):
    """A lab exports the domain of its robot in every shell, and a bench commands the hand that it finds."""
    domains = {}

    def note(_, words):
        domains[words[-1]] = os.environ['ROS_DOMAIN_ID']
        interrupt.accept()  # what comes in its place would

    monkeypatch.setattr(command.os, 'execv', note)
    monkeypatch.setattr(command, 'run_variables', lambda _: {})
    monkeypatch.setattr(command, 'DOMAINS', range(7, 9))
    monkeypatch.chdir(tmp_path)
    for name in ('bench', 'test', 'launch', 'keyboard'):
        monkeypatch.setenv('ROS_DOMAIN_ID', '7')
        for variable in ('DEXRL_TEST_DOMAIN', 'DEXRL_SHELL_DOMAIN'):
            monkeypatch.setenv(variable, '')
            monkeypatch.delenv(variable)
        monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
        command.hand_over(Places(tmp_path, tmp_path, ''), name, [name])
        alone = os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        assert alone == (name in ('bench', 'test'))
    assert domains == {'bench': '8', 'test': '8', 'launch': '7', 'keyboard': '7'}


@pytest.mark.parametrize(('shell', 'first', 'worker'), [('7', '94', 'gw2'), ('7', '7', 'gw0'), ('0', '33', 'gw0')])
def test_no_worker_of_the_tests_is_in_the_domain_of_the_shell(shell, first, worker):
    code = f'import sys; sys.path.insert(0, "{command.CHECKOUT}/test"); import conftest, os; '
    code += 'print(os.environ["ROS_DOMAIN_ID"], os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"])'
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('DEXRL_', 'ROS_'))}
    given = {'ROS_DOMAIN_ID': shell, 'DEXRL_TEST_DOMAIN': first, 'PYTEST_XDIST_WORKER': worker}
    given |= {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
    said = subprocess.run(
        [sys.executable, '-c', code], env={**kept, **given}, capture_output=True, text=True, check=True
    )
    domain, reach = said.stdout.split()
    assert domain != shell and 1 <= int(domain) <= 101 and reach == 'LOCALHOST'


def test_every_command_that_is_suggested_exists():
    places = [command.CHECKOUT / 'README.md', command.CHECKOUT / 'CONTRIBUTING.md']
    for folder, kind in (('dex_rl_nodes', '*.py'), ('docs', '*.md'), ('launch', '*.py'), ('config', '*.yaml')):
        places += (command.CHECKOUT / folder).rglob(kind)
    suggested = {word for place in places for word in re.findall(r'\./dexrl (\w+)', place.read_text())}
    suggested |= {words.split()[0] for words in prepare._COMMANDS.values()}
    assert suggested - {'COMMAND'} <= {*command.MODULES, 'setup', 'doctor'}
    assert {'launch', 'train', 'prepare', 'bench'} <= suggested


def test_usage_names_every_command():
    assert set(command.MODULES) | {'setup', 'doctor'} == set(re.findall(r'^  (\w+) ', command.USAGE, re.MULTILINE))


def test_setup_imports_nothing_that_is_not_python():
    code = 'import sys; sys.path.insert(0, "."); import dex_rl_nodes.setup.command, dex_rl_nodes.setup.doctor'
    result = subprocess.run(
        [sys.executable, '-I', '-S', '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert environment.CPU_INDEX.startswith('https://')


def test_an_unreachable_index_is_said_plainly(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(Places, 'python', Path(sys.executable))
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')  # nobody listens on port 9
    for name in ('PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    steps = Environment(Places(tmp_path / 'env', tmp_path, ''), runner)
    with pytest.raises(UserError, match=r'no package index can be reached \(see .*pip\.log\); check network and proxy'):
        steps._pip('pip', '--retries', '1', '--target', tmp_path / 'out', 'no-such-package-of-ours')


def test_other_machines_are_told_to_install_ros(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(environment.platform, 'machine', lambda: 'aarch64')
    with pytest.raises(UserError, match='exists for x86-64 Linux, not for aarch64 Linux; install ROS 2'):
        Environment(Places(tmp_path / 'env', tmp_path, ''), runner).make_base()


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        ('RMW_IMPLEMENTATION', 'nope', 'names no middleware; unset it'),
        ('MUJOCO_GL', 'nope', 'one of: egl, osmesa, glfw'),
        ('DEXRL_HOME', '/dev/null/x', 'can be no folder, for /dev/null is none'),
        ('DEXRL_HOME', '~nosuchaccount/x', 'cannot be resolved'),
    ],
)
def test_a_variable_of_the_shell_that_cannot_be_meant_is_one_sentence(monkeypatch, capsys, name, value, said):
    monkeypatch.setenv(name, value)
    assert command.main(['doctor']) == 2
    printed = capsys.readouterr()
    assert printed.err.count('\n') == 1 and said in printed.err and name in printed.err


def test_a_reader_who_has_left_is_no_error_of_ours(monkeypatch):
    program = [
        sys.executable,
        '-B',
        '-c',
        'import sys; from dex_rl_nodes.setup.command import main; sys.exit(main(["--help"]))',
    ]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, '')
    closed = subprocess.run(
        ['sh', '-c', 'exec "$0" "$@" >&-', *program], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, '')
