"""Graphs: typed arguments, and processes that fit the declarations of their nodes."""

import os
import re
import tempfile
from itertools import product
from pathlib import Path

import pytest

from dex_rl_nodes import config
from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import APPLICATIONS, application, environment
from dex_rl_nodes.launch_command import main, run, show_arguments
from dex_rl_nodes.parameters import COMMON
from dex_rl_nodes.process import PACKAGE
from dex_rl_nodes.sole_graph import device_folder, domain_of

ROOT = Path(__file__).parents[2]
EXPECTED_REFUSALS = ('operator:=human', 'lockstep:=true needs robot:=sim', 'robot:=sim has no devices to emulate')
pytestmark = pytest.mark.usefixtures('robots_with_serials')
FIXED_NAMES = {'collect_demos', 'train', 'online_rl', 'evaluate', 'robot', 'view'}


def every_choice(app):
    """Values of the arguments that have choices, in every combination that matters to the graph."""
    names = [a.name for a in app.arguments if a.choices and a.name not in ('interface', 'method', 'task')]
    choices = [a.choices for a in app.arguments if a.name in names]
    for values in product(*choices):
        yield dict(zip(names, values))


def graphs():
    for app in APPLICATIONS.values():
        for texts in every_choice(app):
            for extra in ({}, {'namespace': 'left'}, {'lockstep': 'true'}):
                if set(extra) <= {argument.name for argument in app.arguments}:
                    try:
                        yield app, app.build(app.values({**texts, **extra}))
                    except UserError as error:
                        assert any(words in str(error) for words in EXPECTED_REFUSALS), error


def test_the_launch_files_people_know_exist():
    assert set(APPLICATIONS) == FIXED_NAMES
    assert {path.name for path in (ROOT / 'launch').iterdir() if path.is_file()} == {
        f'{n}.launch.py' for n in FIXED_NAMES
    }


def test_arguments_are_described_and_their_defaults_allowed():
    for app in APPLICATIONS.values():
        for argument in app.arguments:
            assert argument.description, argument.name
            assert not argument.refusal(argument.default), argument.name
            assert argument.name in show_arguments(app)


def test_processes_exist_and_get_declared_parameters():
    seen = set()
    for _, processes in graphs():
        assert len({process.name for process in processes}) == len(processes)
        for process in processes:
            if process.package != PACKAGE or not process.is_node:
                continue
            seen.add(process.name)
            node = NODES[process.executable]
            declared = {p.name: p for p in (*COMMON, *node.parameters)}
            for name, value in process.parameters.items():
                if name == 'use_sim_time':  # every node has it
                    assert value is True
                    continue
                assert name in declared, f'{process.name} has no parameter {name}'
                assert not declared[name].refusal(value), f'{process.name}: {declared[name].refusal(value)}'
    assert seen == set(NODES) - {'keyboard'}, 'a keyboard needs a terminal, which no graph has'


def test_every_topic_of_a_graph_has_a_publisher():
    """Except what a person's devices, or the arm's own driver, may publish."""
    outside = {'franka_robot_state_broadcaster/current_pose', 'franka_robot_state_broadcaster/measured_joint_states'}
    outside |= {
        topic
        for node in NODES.values()
        for topic in node.publishes
        if topic.startswith(('spacenav', 'glove', 'keyboard', 'camera'))
    }
    outside |= {'reset_command', 'arm_state'}  # of the arm adapter of a real robot
    outside |= {'/diagnostics', 'learner_state', 'policy_weights', 'transition_ack'}
    for app in (APPLICATIONS['online_rl'], APPLICATIONS['evaluate']):
        nodes = [NODES[p.executable] for p in app.build(app.values({})) if p.is_node]
        published = {topic for node in nodes for topic in node.publishes} | outside
        for node in nodes:
            assert set(node.subscribes) <= published, node.name


def test_every_graph_ends_with_something():
    for app, processes in graphs():
        ends = [process.name for process in processes if process.ends_graph]
        assert len(ends) == (0 if app.name == 'robot' else 1), app.name


def test_namespace_separates_everything():
    app = APPLICATIONS['online_rl']
    for process in app.build(app.values({'namespace': 'left', 'lockstep': 'true'})):
        if process.is_node:
            assert process.namespace == 'left'
            assert ('/clock', 'clock') in process.remaps


def test_preparation_runs_first_and_can_be_left_out():
    app = APPLICATIONS['online_rl']
    first = [process for process in app.build(app.values({})) if process.runs_first]
    assert [process.arguments[0] for process in first] == ['prepare']
    assert not any(process.runs_first for process in app.build(app.values({'prepare': 'false'})))


@pytest.mark.parametrize(
    ('texts', 'words'),
    [
        ({'tsk': 'pull_tissue'}, ['no argument "tsk"', 'task', 'robot', 'prepare']),
        ({'task': 'fly'}, ['task must be one of', 'pull_tissue']),
        ({'interface': 'telepathy'}, ['interface must be one of', 'latent_prior']),
        ({'method': 'luck'}, ['method must be one of', 'lamp']),
        ({'robot': 'r2d2'}, ['robot must be one of', 'sim']),
        ({'seed': 'many'}, ['seed must be a whole number']),
        ({'seed': '-1'}, ['seed must be at least 0']),
        ({'prepare': 'perhaps'}, ['prepare must be true or false']),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(texts, words):
    with pytest.raises(UserError) as error:
        APPLICATIONS['online_rl'].values(texts)
    assert all(word in str(error.value) for word in words), error.value
    assert '\n' not in str(error.value)


def test_unknown_launch_file_lists_the_known_ones():
    with pytest.raises(UserError, match=r'online_rl\.launch\.py'):
        application('online.launch.py')
    assert application('launch/online_rl.launch.py').name == 'online_rl'


def test_recording_needs_an_operator():
    app = APPLICATIONS['collect_demos']
    with pytest.raises(UserError, match='needs somebody who shows the task'):
        app.build(app.values({'operator': 'none'}))


def test_only_a_scripted_operator_gives_up():
    app = APPLICATIONS['collect_demos']
    emulated = {'robot': 'fr3_ruiyan', 'devices': 'emulated'}
    for who, attempts in (('scripted', 3), ('human', None)):
        manager = next(p for p in app.build(app.values({**emulated, 'operator': who})) if p.name == 'episode_manager')
        assert manager.parameters.get('attempts') == attempts


def test_the_scripted_operator_shows_what_the_purpose_is_for():
    app = APPLICATIONS['collect_demos']
    for purpose, mode in (('demos', 'demonstrate'), ('reward', 'examples')):
        operator = next(p for p in app.build(app.values({'purpose': purpose})) if p.name == 'scripted_operator')
        assert operator.parameters['mode'] == mode


def test_somebody_stands_by_when_a_robot_is_evaluated():
    app = APPLICATIONS['evaluate']

    def build(**texts):
        return {process.name: process for process in app.build(app.values(texts))}

    nobody, somebody = build(), build(robot='fr3_ruiyan')
    assert 'spacemouse_driver' not in nobody and not nobody['command_mux'].parameters['teleop_required']
    assert {'spacemouse_driver', 'glove_driver', 'teleop'} <= set(somebody)
    assert somebody['episode_manager'].parameters['teleop_required']
    assert 'spacemouse_driver' in build(robot='fr3_ruiyan', devices='emulated', operator='human')
    with pytest.raises(UserError, match='an evaluation on a robot needs somebody'):
        build(robot='fr3_ruiyan', operator='none')


def test_somebody_stands_by_when_a_robot_learns():
    app = APPLICATIONS['online_rl']
    with pytest.raises(UserError, match=r'somebody who can take over and stop it; use operator:=human'):
        app.build(app.values({'robot': 'fr3_ruiyan', 'operator': 'none'}))
    for texts in ({}, {'robot': 'fr3_ruiyan', 'devices': 'emulated'}):
        assert app.build(app.values({**texts, 'operator': 'none'}))


@pytest.mark.parametrize('name', ['collect_demos', 'online_rl', 'evaluate'])
def test_a_person_needs_a_robot_with_devices(name):
    app = APPLICATIONS[name]
    with pytest.raises(UserError, match='use robot:=fr3_ruiyan devices:=emulated operator:=human'):
        app.build(app.values({'operator': 'human'}))
    processes = app.build(app.values({'robot': 'fr3_ruiyan', 'devices': 'emulated', 'operator': 'human'}))
    assert {'spacemouse_driver', 'glove_driver'} <= {process.name for process in processes}


def test_a_dry_run_reaches_whoever_moves_the_robot_and_is_recorded_elsewhere():
    app = APPLICATIONS['collect_demos']
    for name, found in (('mine', 'mine_dry'), ('dry', 'dry'), ('my_dry', 'my_dry'), ('laundry', 'laundry_dry')):
        for texts in ({}, {'dry_run': 'true'}):
            values = app.values({'robot': 'fr3_ruiyan', 'run': name, **texts})
            if name == found and not texts:
                with pytest.raises(UserError, match=f'"{name}" is the name of a dry run'):
                    app.build(values)
                continue
            started = {p.name: p.parameters for p in app.build(values)}
            for node in ('command_mux', 'arm_adapter'):
                assert started[node]['dry_run'] is bool(texts)
            assert started['replay_recorder']['run'] == (found if texts else name)


@pytest.mark.parametrize('name', ['train', 'online_rl'])
def test_nothing_is_learned_from_what_a_dry_run_recorded(name):
    app = APPLICATIONS[name]
    with pytest.raises(UserError, match='"my_dry" is the name of a dry run'):
        app.build(app.values({'run': 'my_dry'}))


@pytest.mark.parametrize('name', ['online_rl', 'evaluate'])
def test_nothing_is_learned_or_scored_in_a_dry_run(name):
    with pytest.raises(UserError, match='has no argument "dry_run"'):
        APPLICATIONS[name].values({'dry_run': 'true'})


def test_only_the_arm_adapter_gives_a_reset_up():
    app = APPLICATIONS['collect_demos']
    started = {p.name: p.parameters for p in app.build(app.values({'robot': 'fr3_ruiyan'}))}
    longest = {p.name: p.maximum for p in NODES['arm_adapter'].parameters if p.name.endswith('_deadline')}
    again = longest['motion_deadline'] + longest['recovery_deadline']  # when somebody pushes the arm away
    assert started['episode_manager']['reset_deadline'] > sum(longest.values()) + again


def test_presence_reaches_the_scripted_operator():
    app = APPLICATIONS['online_rl']
    started = {process.name: process for process in app.build(app.values({'presence': '0.7'}))}
    assert started['scripted_operator'].parameters['presence'] == 0.7


def test_emulated_devices_run_the_drivers_of_the_robot_against_the_simulation():
    app = APPLICATIONS['collect_demos']
    values = {'robot': 'fr3_ruiyan', 'devices': 'emulated', 'namespace': 'left'}
    started = {process.name: process.parameters for process in app.build(app.values(values))}
    folder = started['sim_robot']['device_folder']
    assert folder == started['scripted_operator']['device_folder'] and folder.endswith('-left-devices')
    for name in ('hand', 'glove', 'spacemouse'):
        assert started[f'{name}_driver']['port'] == f'{folder}/{name}'
    assert {parameters['robot'] for parameters in started.values()} == {'fr3_ruiyan_emulated'}
    robot, real = config.load_robot('fr3_ruiyan_emulated'), config.load_robot('fr3_ruiyan')
    assert (robot.limits, robot.teleop, robot.devices) == (real.limits, real.teleop, real.devices)
    assert {camera.topic for camera in robot.cameras.values()} == {camera.topic for camera in real.cameras.values()}


def test_a_person_may_hold_real_devices_at_an_emulated_robot():
    app = APPLICATIONS['collect_demos']
    values = {'robot': 'fr3_ruiyan', 'devices': 'emulated', 'operator': 'human'}
    started = {process.name: process.parameters for process in app.build(app.values(values))}
    assert 'port' not in started['glove_driver'] and 'scripted_operator' not in started


def test_prepare_trains_for_emulated_devices_in_simulation():
    app = APPLICATIONS['online_rl']
    processes = app.build(app.values({'robot': 'fr3_ruiyan', 'devices': 'emulated'}))
    (first,) = [process for process in processes if process.runs_first]
    assert first.arguments[0] == 'prepare' and 'robot:=fr3_ruiyan_emulated' in first.arguments


def test_the_simulated_robot_has_no_devices_to_emulate():
    with pytest.raises(UserError, match='use devices:=emulated with robot:=fr3_ruiyan'):
        APPLICATIONS['robot'].values({'devices': 'emulated'})


def test_devices_that_a_killed_graph_left_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setenv('ROS_DOMAIN_ID', '202')
    folder = Path(device_folder({}))
    folder.mkdir()
    (folder / 'hand').symlink_to('/dev/pts/0')
    with APPLICATIONS['robot'].alone('', os.environ):
        assert not folder.exists()
        folder.mkdir()
    assert not folder.exists()


def test_a_scripted_operator_needs_the_simulation():
    app = APPLICATIONS['collect_demos']
    with pytest.raises(UserError, match='operator:=human'):
        app.build(app.values({'robot': 'fr3_ruiyan', 'operator': 'scripted'}))


@pytest.mark.parametrize('namespace', ['left-arm', '2nd', 'left//arm', 'left arm', '~left'])
@pytest.mark.parametrize('name', ['online_rl', 'view'])
def test_a_namespace_that_ros_does_not_allow_is_refused(name, namespace):
    with pytest.raises(UserError, match='is not one of ROS; use letters, digits and _'):
        APPLICATIONS[name].values({'namespace': namespace})


def test_slashes_around_a_namespace_do_not_matter():
    for text, namespace in (('', ''), ('/', ''), ('left', 'left'), ('/lab_1/left/', 'lab_1/left')):
        assert APPLICATIONS['view'].values({'namespace': text})['namespace'] == namespace


def test_view_without_a_ros_installation_says_so():
    with pytest.raises(UserError, match='rviz2'):
        run(['view.launch.py'])


def test_a_second_graph_in_the_same_domain_is_refused():
    app, variables = APPLICATIONS['online_rl'], {'ROS_DOMAIN_ID': '201'}
    with app.alone('', variables):
        with pytest.raises(UserError, match=r'online_rl\.launch\.py .* domain 201; stop it, or set'):
            with APPLICATIONS['evaluate'].alone('', variables):
                pass
        with app.alone('left', variables), APPLICATIONS['view'].alone('', variables):
            pass
    with app.alone('', variables):
        pass


def test_another_account_of_the_machine_is_refused_too(monkeypatch, tmp_path):
    monkeypatch.setattr('dex_rl_nodes.sole_graph._SHARED', tmp_path)
    app, old = APPLICATIONS['online_rl'], os.umask(0o077)
    try:
        with app.alone('', {}):
            monkeypatch.setattr('dex_rl_nodes.sole_graph.os.getuid', lambda: 4242)
            with pytest.raises(UserError, match='already runs'), APPLICATIONS['evaluate'].alone('', {}):
                pass
    finally:
        os.umask(old)
    (lock,) = tmp_path.glob('*.lock')
    assert lock.stat().st_mode & 0o777 == 0o666


def test_environment_keeps_what_a_person_set():
    fresh = environment({})
    assert fresh['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert Path(fresh['FASTRTPS_DEFAULT_PROFILES_FILE']).name == 'localhost.xml'
    subnet = environment({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'})
    assert Path(subnet['FASTRTPS_DEFAULT_PROFILES_FILE']).name == 'network.xml'
    assert environment({'FASTRTPS_DEFAULT_PROFILES_FILE': 'mine.xml'}).keys() == {
        'ROS_AUTOMATIC_DISCOVERY_RANGE',
        'MUJOCO_GL',
    }
    assert environment({'ROS_DISTRO': 'humble'})['ROS_LOCALHOST_ONLY'] == '1'


def test_profiles_are_there_and_large_enough():
    for name in ('localhost.xml', 'network.xml'):
        text = (ROOT / 'config' / 'fastdds' / name).read_text()
        assert int(re.search(r'<segment_size>(\d+)<', text).group(1)) == 32 * 2**20
    assert '127.0.0.1' in (ROOT / 'config' / 'fastdds' / 'localhost.xml').read_text()


def test_what_the_system_refuses_is_one_sentence(monkeypatch, capsys):
    def refuse(*_):
        raise OSError(28, 'No space left on device', '/tmp/dexrl-lock')

    monkeypatch.setattr('dex_rl_nodes.launch_command.run', refuse)
    assert main() == 2
    assert capsys.readouterr().err == 'dexrl: /tmp/dexrl-lock: No space left on device; free some space\n'

    def fail(*_):
        raise ConnectionResetError(104, 'Connection reset by peer')

    monkeypatch.setattr('dex_rl_nodes.launch_command.run', fail)
    with pytest.raises(ConnectionResetError):  # nothing that a person could mend
        main()


@pytest.mark.parametrize('domain', ['233', 'abc', '-1', '1.5'])
def test_a_domain_that_is_none_is_refused(domain):
    with pytest.raises(UserError, match=f'ROS_DOMAIN_ID is "{domain}"; it must be a number from 0 to 232'):
        domain_of({'ROS_DOMAIN_ID': domain})
    assert domain_of({'ROS_DOMAIN_ID': '232'}) == 232 and domain_of({}) == 0
