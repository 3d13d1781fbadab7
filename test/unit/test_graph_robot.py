"""Graphs of a real robot: the arm's own bring-up and controller, and whoever reads its cameras."""

from pathlib import Path

import pytest
import yaml

from dex_rl_nodes import config
from dex_rl_nodes.arm_bringup import arm_bringup
from dex_rl_nodes.config import load_robot
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import APPLICATIONS
from dex_rl_nodes.supervisor import command_line

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures('robots_with_serials')


def test_the_arm_is_started_by_its_own_bringup_and_controller():
    app = APPLICATIONS['robot']
    started = {process.name: process for process in app.build(app.values({'robot': 'fr3_ruiyan', 'namespace': 'left'}))}
    arm = started['arm']
    assert (arm.package, arm.executable, arm.is_launch_file) == ('franka_bringup', 'franka.launch.py', True)
    given = dict(argument.split(':=', 1) for argument in arm.arguments)
    assert given['robot_type'] == 'fr3' and given['load_gripper'] == 'false' and given['namespace'] == 'left'
    controllers = yaml.safe_load(Path(given['controllers_yaml']).read_text().replace('/**:', '', 1).split('/**:')[0])
    spawner = started['spawner_cartesian_impedance_controller']
    assert spawner.arguments[0] in controllers['controller_manager']['ros__parameters']
    assert spawner.may_end and spawner.namespace == 'left'
    assert 'arm_adapter' in started
    emulated = app.build(app.values({'robot': 'fr3_ruiyan', 'devices': 'emulated'}))
    assert not {'arm', 'arm_adapter'} & {process.name for process in emulated}


def test_frames_are_published_where_robot_state_publisher_is_installed(monkeypatch):
    app = APPLICATIONS['robot']

    def publishers(**texts):
        found = [p for p in app.build(app.values(texts)) if p.package == 'robot_state_publisher']
        assert all(('robot_description', p.remaps[0][1]) == p.remaps[0] for p in found)
        return {p.name: p.parameters['robot_description'] for p in found}

    assert not publishers()
    monkeypatch.setattr('dex_rl_nodes.arm_bringup.is_installed', lambda package: package == 'robot_state_publisher')
    simulated = publishers()
    assert 'fr3_joint7' in simulated['robot_state_publisher_robot']
    assert 'wrist_color_optical_frame' in simulated['robot_state_publisher_hand']
    real = publishers(robot='fr3_ruiyan')
    assert list(real) == ['robot_state_publisher_hand'], 'the arm is described by its own bring-up'
    assert 'wrist_color_optical_frame' not in real['robot_state_publisher_hand'], 'the camera says its own frames'


def test_an_arm_that_is_started_elsewhere_is_left_alone(monkeypatch):
    robot = load_robot('fr3_ruiyan')
    settings = {**robot.devices, 'arm': {**robot.devices['arm'], 'bringup': ''}}
    assert arm_bringup(robot.model_copy(update={'devices': settings}), '') == []
    settings['arm'] = {'controllers': 'none.yaml'}
    with pytest.raises(UserError, match=r'devices.arm.controllers: there is no file .*none\.yaml'):
        arm_bringup(robot.model_copy(update={'devices': settings}), '')


def test_without_a_ros_installation_the_arm_is_named(tmp_path):
    arm = arm_bringup(load_robot('fr3_ruiyan'), '')[0]
    with pytest.raises(UserError, match=r'franka.launch.py of franka_bringup, .* ROS .* devices.arm.bringup'):
        command_line(arm, tmp_path)


def test_the_gains_of_the_arm_avoid_the_known_traps():
    sections = yaml.safe_load((ROOT / 'config' / 'controllers' / 'fr3_impedance.yaml').read_text())['/**']
    assert {'controller_manager', 'franka_robot_state_broadcaster'} < set(sections), 'a repeated key hides another'
    assert not sections['controller_manager']['ros__parameters']['overruns']['manage'], 'on Jazzy it skips cycles'
    gains = sections['cartesian_impedance_controller']['ros__parameters']
    assert gains['end_effector_frame'] == 'fr3_link8' and not gains['use_gravity_compensation']
    assert gains['nullspace']['damping'] > 0, 'the default was negative up to 2.3.1'
    largest = gains['variable_max_stiffness']
    for axis in 'xyz':
        assert gains['task'][f'k_pos_{axis}'] <= largest['translational'], 'it would be clamped'
        assert gains['task'][f'k_rot_{axis}'] <= largest['rotational']
        assert gains['task'][f'k_pos_{axis}'] * gains['task']['error_clip'][axis] <= 20.0, 'N'
    assert 0.9 <= gains['filter']['target_pose'] < 1.0, 'near 1 smooths'
    assert load_robot('fr3_ruiyan').devices['arm']['controller_frame'] == 'flange'


@pytest.mark.parametrize('installed', [True, False])
def test_cameras_are_read_by_realsense2_camera_where_it_is_installed(monkeypatch, tmp_path, installed):
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / ('realsense2_camera' if installed else 'another')).touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/none:{tmp_path}')
    app = APPLICATIONS['robot']

    def readers(**texts):
        processes = app.build(app.values({'robot': 'fr3_ruiyan', **texts}))
        return {p.name: p.parameters.get('views') for p in processes if 'camera' in p.executable}

    theirs, ours = {'front': None, 'wrist': None}, {'camera_driver': 'front,wrist'}
    assert readers() == (theirs if installed else ours)
    started = {p.name: p for p in app.build(app.values({'robot': 'fr3_ruiyan', 'cameras': 'realsense2_camera'}))}
    for view in theirs:
        assert (started[view].namespace, started[view].parameters['camera_name']) == ('camera', view)
        streams = {name for name, value in started[view].parameters.items() if value is False}
        assert streams == {f'enable_{name}' for name in ('depth', 'infra', 'infra1', 'infra2', 'gyro', 'accel')}
        assert started[view].remaps == (('~/color/image_rect_raw', '~/color/image_raw'),), 'older drivers of the D405'
    assert readers(cameras='camera_driver') == ours
    assert readers(cameras='realsense2_camera') == theirs


def test_two_realsense_without_serial_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(config, 'load_robot', load_robot)
    app = APPLICATIONS['robot']
    for cameras in ('realsense2_camera', 'camera_driver'):
        values = app.values({'robot': 'fr3_ruiyan', 'cameras': cameras})
        with pytest.raises(UserError, match=r'front\.serial and cameras\.wrist\.serial in /.*/config/robots/fr3_'):
            app.build(values)
    assert app.build(app.values({'robot': 'fr3_ruiyan', 'devices': 'emulated'}))


def test_a_camera_on_a_topic_that_nobody_reads_is_refused(monkeypatch, tmp_path):
    (tmp_path / 'robots').mkdir()
    text = (ROOT / 'config' / 'robots' / 'fr3_ruiyan.yaml').read_text().replace('camera/wrist/', 'camera/hand/')
    path = tmp_path / 'robots' / 'fr3_ruiyan.yaml'
    monkeypatch.setattr(config, 'config_directory', lambda: tmp_path)
    path.write_text(text)
    with pytest.raises(
        UserError, match=r'yaml: cameras: wrist\.topic must be camera/wrist/color/image_raw, .* not cam'
    ):
        load_robot('fr3_ruiyan')
    path.write_text(text.replace("image_raw, serial: ''", 'image_raw, driver: file, device: bag'))
    assert load_robot('fr3_ruiyan').cameras['wrist'].topic == 'camera/hand/color/image_raw'
    path.write_text(text.replace('  wrist: {', '  side: {'))
    with pytest.raises(UserError, match=r'the views must be front and wrist, not front, side'):
        load_robot('fr3_ruiyan')


def test_a_camera_that_is_no_realsense_is_read_by_our_driver(monkeypatch):
    robot = config.load_robot('fr3_ruiyan')
    webcam = robot.cameras['front'].model_copy(update={'driver': 'v4l2', 'device': '/dev/video0'})
    robot = robot.model_copy(update={'cameras': {**robot.cameras, 'front': webcam}})
    monkeypatch.setattr(config, 'load_robot', lambda name: robot)
    app = APPLICATIONS['robot']
    processes = app.build(app.values({'robot': 'fr3_ruiyan', 'cameras': 'realsense2_camera'}))
    assert {p.name: p.parameters.get('views') for p in processes if 'camera' in p.executable} == {
        'camera_driver': 'front',
        'wrist': None,
    }
