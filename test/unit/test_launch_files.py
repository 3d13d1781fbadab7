"""The launch files against the real `launch` and `launch_ros`; skipped where they are not installed."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from dex_rl_nodes.descriptions import TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import APPLICATIONS
from dex_rl_nodes.process import Process, Restarts

ROOT = Path(__file__).parents[2]
needs_launch = pytest.mark.skipif(importlib.util.find_spec('launch_ros') is None, reason='launch is not installed')


@pytest.mark.parametrize('name', APPLICATIONS)
def test_file_is_short_and_standard(name):
    text = (ROOT / 'launch' / f'{name}.launch.py').read_text()
    assert len(text.splitlines()) <= 20
    assert 'def generate_launch_description() -> LaunchDescription:' in text
    assert f"describe('{name}')" in text


@needs_launch
@pytest.mark.parametrize('name', APPLICATIONS)
def test_declared_arguments_are_those_of_the_graph(name):
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(ROOT / 'launch' / f'{name}.launch.py'))
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    assert list(declared) == [argument.name for argument in APPLICATIONS[name].arguments]
    for argument in APPLICATIONS[name].arguments:
        assert argument.description in declared[argument.name].description
        assert list(declared[argument.name].choices or ()) == list(argument.choices)


def follow(actions, context):
    """Execute actions without starting a process; returns what would be started, and the event handlers."""
    from launch.actions import ExecuteProcess, RegisterEventHandler

    started, handlers, pending = [], [], list(actions)
    while pending:
        action = pending.pop(0)
        if isinstance(action, ExecuteProcess):
            started.append(action)
        elif isinstance(action, RegisterEventHandler):
            handlers.append(action.event_handler)
        else:
            pending = [*(action.visit(context) or []), *pending]
    return started, handlers


@needs_launch
@pytest.mark.parametrize('name', APPLICATIONS)
def test_what_launch_starts_are_the_processes_of_the_graph(name, monkeypatch):
    from launch import LaunchContext
    from launch.events.process import ProcessExited

    from dex_rl_nodes.nodes import launch_description

    monkeypatch.setenv('ROS_DOMAIN_ID', '202')
    app, context = APPLICATIONS[name], LaunchContext()
    processes = app.build(app.values({}))
    started, handlers = follow(launch_description.describe(name).entities, context)
    if any(process.runs_first for process in processes):
        assert len(started) == 1  # the others wait for it
        event = ProcessExited(action=started[0], name='', cmd=[], cwd=None, env=None, pid=1, returncode=0)
        then, _ = follow(handlers[0].handle(event, context), context)
        started += then
    launch_description._held.close()
    assert len(started) == len(processes)


@needs_launch
def test_a_failed_process_ends_the_launch_with_its_name():
    from launch import LaunchContext
    from launch.events.process import ProcessExited

    from dex_rl_nodes.nodes import launch_description

    context = LaunchContext()
    app = APPLICATIONS['robot']
    started, handlers = follow(launch_description._start(app.build(app.values({}))[0]), context)
    event = ProcessExited(action=started[0], name='', cmd=[], cwd=None, env=None, pid=1, returncode=3)
    with pytest.raises(UserError, match='sim_robot ended with exit code 3'):
        handlers[0].handle(event, context)


@needs_launch
@pytest.mark.parametrize('is_node', [True, False])
def test_whoever_ignores_ctrl_c_is_gone_within_five_seconds(is_node):
    from launch import LaunchContext
    from launch.utilities import perform_substitutions

    from dex_rl_nodes.nodes import launch_description

    started = launch_description._start(Process('node', 'node', 'package', is_node=is_node))[0]
    waits = (started._ExecuteLocal__sigterm_timeout, started._ExecuteLocal__sigkill_timeout)
    assert 4 <= sum(float(perform_substitutions(LaunchContext(), wait)) for wait in waits) < 5


@needs_launch
def test_a_launch_file_of_another_package_is_included(tmp_path, monkeypatch):
    from launch import LaunchContext

    from dex_rl_nodes.nodes import launch_description

    kind = {'is_node': False, 'is_launch_file': True}
    process = Process('arm', 'arm.launch.py', 'arm_bringup', arguments=('speed:=3',), **kind)
    with pytest.raises(UserError, match='arm.launch.py of arm_bringup, which is not installed'):
        launch_description._start(process)
    (tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages').mkdir(parents=True)
    (tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'arm_bringup').touch()
    (tmp_path / 'share' / 'arm_bringup' / 'launch').mkdir(parents=True)
    (tmp_path / 'share' / 'arm_bringup' / 'launch' / 'arm.launch.py').write_text(
        'from launch import LaunchDescription\n'
        'from launch.actions import DeclareLaunchArgument, ExecuteProcess\n'
        'from launch.substitutions import LaunchConfiguration\n\n\n'
        'def generate_launch_description():\n'
        "    return LaunchDescription([DeclareLaunchArgument('speed'),\n"
        "                              ExecuteProcess(cmd=['drive', LaunchConfiguration('speed')])])\n"
    )
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    context = LaunchContext()
    started, _ = follow(launch_description._start(process), context)
    assert [part.perform(context) for words in started[0].cmd for part in words] == ['drive', '3']


@needs_launch
def test_a_text_stays_a_text():
    from launch import LaunchContext
    from launch_ros.utilities import evaluate_parameters

    from dex_rl_nodes.nodes import launch_description

    parameters = {'robot_description': '<robot name="a: b"/>', 'serial_no': '_12', 'rate': 30.0, 'number': '831'}
    node, _ = launch_description._start(Process('node', 'node', 'package', parameters=parameters))
    assert evaluate_parameters(LaunchContext(), node._Node__parameters)[0] == parameters


@needs_launch
def test_a_spawner_may_end():
    from launch import LaunchContext
    from launch.events.process import ProcessExited

    from dex_rl_nodes.nodes import launch_description

    context = LaunchContext()
    process = Process('spawner', 'spawner', 'controller_manager', may_end=True)
    started, handler = launch_description._start(process)
    event = ProcessExited(action=started, name='', cmd=[], cwd=None, env=None, pid=1, returncode=0)
    assert not handler.event_handler.handle(event, context)
    failed = ProcessExited(action=started, name='', cmd=[], cwd=None, env=None, pid=1, returncode=1)
    with pytest.raises(UserError, match='spawner ended with exit code 1'):
        handler.event_handler.handle(failed, context)


@needs_launch
def test_restarts_are_counted_and_then_the_launch_ends():
    from launch import LaunchContext
    from launch.events.process import ProcessExited

    from dex_rl_nodes.nodes import launch_description

    context = LaunchContext()
    process = Process('learner', 'learner', on_exit='restart', max_restarts=2)
    started, handler = launch_description._start(process)
    event = ProcessExited(action=started, name='', cmd=[], cwd=None, env=None, pid=1, returncode=1)
    for _ in range(2):
        assert not handler.event_handler.handle(event, context)
    with pytest.raises(UserError, match='learner ended with exit code 1, so the graph stops'):
        handler.event_handler.handle(event, context)


def test_restarts_of_long_ago_are_forgotten():
    restarts = Restarts(2)
    assert [restarts.allow(ran) for ran in (1.0, 1.0, 100.0, 1.0, 1.0)] == [True, True, True, True, False]


def test_layouts_show_topics_that_exist():
    view = ROOT / 'config' / 'view'
    rviz = yaml.safe_load((view / 'dex_rl_nodes.rviz').read_text())
    assert rviz['Visualization Manager']['Tools'][0]['Class'] == 'rviz_default_plugins/MoveCamera'
    displays = rviz['Visualization Manager']['Displays']
    shown = [d[key]['Value'] for d in displays for key in ('Topic', 'Description Topic') if key in d]
    assert {'robot_description', 'hand_description'} <= set(shown)
    assert shown and set(shown) <= set(TOPICS)
    perspective = json.loads((view / 'dex_rl_nodes.perspective').read_text())
    plugins = perspective['groups']['pluginmanager']['groups']
    images = [g['groups']['plugin']['keys']['topic']['repr'].strip("'/") for n, g in plugins.items() if 'image' in n]
    assert len(images) == 2 and set(images) <= set(TOPICS)
    foxglove = json.loads((view / 'foxglove.json').read_text())
    for panel, settings in foxglove['configById'].items():
        for path in [*settings.get('paths', []), {'value': settings.get('imageMode', {}).get('imageTopic', '')}]:
            topic = path['value'].split('.')[0].strip('/')
            assert not topic or topic in TOPICS, panel
