"""The preflight without a device: limits, workspaces, another robot's file, and topics as they were heard."""

import json
import types

import numpy as np
import pytest

from dex_rl_nodes import config, diagnosis
from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.descriptions import CURRENT_POSE, FRONT_IMAGE, GLOVE, HAND_JOINTS, IMAGES, MEASURED_JOINTS
from dex_rl_nodes.drivers.emulators.hands import RuiyanEmulator
from dex_rl_nodes.drivers.emulators.operator_devices import OperatorDevices
from dex_rl_nodes.drivers.hand import JOINTS
from dex_rl_nodes.drivers.settings import device_settings, motor_current
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import refusal
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import ARM_JOINTS, ArmState
from dex_rl_nodes.robot.arm_state import ArmMode
from dex_rl_nodes.robot.limits import read_limits
from dex_rl_nodes.robot.preflight import (
    TopicSample,
    check_arm,
    check_controllers,
    check_limits,
    check_mode,
    check_topic,
)

ROBOT = load_robot('fr3_ruiyan')
PANDA_LOW = [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]
PANDA_HIGH = [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]
HOME = [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]


def with_limits(**arm):
    return ROBOT.model_copy(update={'limits': {'arm': arm}})


def texts(findings, level):
    found = list(findings)
    assert all(finding.fix or finding.level == 'good' for finding in found), found
    return [f'{finding.subject}: {finding.text}' for finding in found if finding.level == level]


# Files


@pytest.mark.parametrize('name', config.names('robots'))
def test_the_files_of_the_package_are_good(name):
    tasks = [load_task(task) for task in config.names('tasks')]
    found = list(check_limits(load_robot(name), tasks))
    assert [finding.level for finding in found] == ['good'], found


@pytest.mark.parametrize(
    ('limits', 'words'),
    [
        ({'joint_low': [-2.0] * 8}, 'limits.arm.joint_low: has 8 numbers, but the robot has 7 of them'),
        ({'joint_low': PANDA_LOW, 'joint_high': PANDA_HIGH}, 'is it the file of another robot'),
        ({'joint_velocity': [2.62] * 4 + [5.26, 6.0, 5.26]}, 'joint 6 may go'),
        ({'speed': 1.0}, 'limits.arm.speed: is not a known limit'),
    ],
)
def test_limits_that_cannot_be_are_named_and_nothing_starts(limits, words):
    (finding,) = check_limits(with_limits(**limits), [])
    assert finding.level == 'bad' and words in finding.text
    with pytest.raises(UserError):
        read_limits(with_limits(**limits))


def test_limits_that_are_wider_than_older_robots_allow_are_a_warning():
    wider = [-2.9, -1.78, -2.9, -3.04, -2.8, 0.55, -3.0]
    assert 'joint 1 from -2.9 to 2.7437 rad' in texts(check_limits(with_limits(joint_low=wider), []), 'warning')[0]


def test_a_hand_current_that_never_stops_it_is_named():
    for current, cap in ((0.7, 600), (0.5, 400)):
        devices = {**ROBOT.devices, 'hand': {**ROBOT.devices['hand'], 'current': cap}}
        robot = ROBOT.model_copy(update={'limits': {'hand': {'current': current}}, 'devices': devices})
        said = f'hand.current {current:g} A never stops it: its motors take {cap / 1000:g} A at most'
        assert said in texts(check_limits(robot, [], motor_current(robot)), 'bad')[0]
    robot = ROBOT.model_copy(update={'limits': {'hand': {'current': 2.0}}})
    assert 'hand.current 2 A never stops it' in texts(check_limits(robot, []), 'bad')[0]


def test_a_camera_slower_than_the_control_tick_is_named():
    slow = {view: camera.model_copy(update={'rate': 5.0}) for view, camera in ROBOT.cameras.items()}
    found = texts(check_limits(ROBOT.model_copy(update={'cameras': slow}), []), 'bad')
    assert 'camera front gives 5 frames per second, a tick needs 10' in found[0]


@pytest.mark.parametrize(
    ('task', 'table', 'level', 'words'),
    [
        ({'workspace_low': [0.6, -0.3, 0.02]}, 0.0, 'bad', 'may start outside of it'),
        ({}, 0.6, 'bad', 'nothing in it, above the table'),
        ({}, 0.29, 'bad', 'or below the table'),
        ({'workspace_high': [1.2, 0.3, 0.55]}, 0.0, 'warning', 'the arm 0.855 m'),
    ],
)
def test_a_workspace_that_cannot_be_is_named(task, table, level, words):
    changed = load_task('pull_tissue').model_copy(update=task)
    found = texts(check_limits(with_limits(table_height=table), [changed]), level)
    assert len(found) == 1 and found[0].startswith('workspace pull_tissue') and words in found[0]


def test_a_file_of_another_robot_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / 'robots'
    folder.mkdir()
    views = ', '.join(f'{view}: {{topic: camera/{view}/color/image_raw}}' for view in ('front', 'wrist'))
    (folder / 'fr3_ruiyan.yaml').write_text(f'name: panda_allegro\ncameras: {{{views}}}\n')
    monkeypatch.setattr(config, 'config_directory', lambda: tmp_path)
    with pytest.raises(UserError, match='describes the robot "panda_allegro", not "fr3_ruiyan"; put the right file'):
        load_robot('fr3_ruiyan')


# Topics


def heard(rate=100.0, seconds=2.0, age=0.01, **fields):
    count = round(rate * seconds)
    return TopicSample(seconds, count, [age] * count, **{'frames': {'base'}, **fields})


def joints(positions=HOME, names=ARM_JOINTS, **fields):
    return heard(joints=dict(zip(names, positions)), frames={''}, **fields)


def test_an_arm_that_talks_is_good():
    assert {finding.level for finding in check_arm(ROBOT, heard(), joints())} == {'good'}


@pytest.mark.parametrize(
    ('sample', 'words'),
    [
        (heard(rate=5.0), 'at least 20 are needed'),
        (heard(age=3600.0), 'stamps are +3600.00 s old'),
        (heard(age=-2.0), 'stamps are -2.00 s old'),
        (heard(backwards=4), '4 stamps were not newer'),
        (heard(frames={'world'}), 'frame world, not base or fr3_link0'),
    ],
)
def test_what_the_pose_of_the_arm_does_wrong_is_named(sample, words):
    found = texts(check_arm(ROBOT, sample, joints()), 'bad')
    assert len(found) == 1 and words in found[0]


def test_an_arm_that_is_silent_is_a_warning():
    found = texts(check_arm(ROBOT, TopicSample(2.0), TopicSample(2.0)), 'warning')
    assert found == ['arm pose: nothing heard in 2 s', 'arm joints: nothing heard in 2 s']


def test_joints_of_another_robot_and_outside_of_their_range_are_named():
    panda = joints(names=[f'panda_joint{i}' for i in range(1, 8)])
    assert 'joint fr3_joint1 is missing; there are panda_joint1' in texts(check_arm(ROBOT, heard(), panda), 'bad')[0]
    bent = joints([*HOME[:3], -0.1, *HOME[4:]])
    assert 'joint 4 is at -0.100 rad' in texts(check_arm(ROBOT, heard(), bent), 'bad')[0]


def test_the_controller_must_be_there_and_active():
    states = {'joint_state_broadcaster': 'active', 'impedance': 'inactive'}
    assert 'impedance is inactive' in texts(check_controllers(states, 'impedance'), 'warning')[0]
    assert texts(check_controllers({'impedance': 'active'}, 'impedance'), 'good')
    assert 'ghost is not loaded; controllers: impedance' in texts(check_controllers(states, 'ghost'), 'bad')[0]


@pytest.mark.parametrize(
    ('state', 'level', 'words'),
    [
        (ArmState(mode=ArmMode.MOVE), 'good', 'move'),
        (ArmState(mode=ArmMode.IDLE), 'warning', 'the arm is not moved by its controller (mode idle)'),
        (ArmState(mode=ArmMode.USER_STOPPED), 'bad', 'the user stop of the arm is pressed'),
        (ArmState(mode=ArmMode.REFLEX, last_errors=['joint_reflex']), 'bad', 'stopped itself (joint_reflex)'),
        (ArmState(mode=ArmMode.MOVE, errors=['cartesian_reflex']), 'bad', 'stopped itself (cartesian_reflex)'),
    ],
)
def test_the_mode_of_the_arm_is_named(state, level, words):
    (text,) = texts(check_mode(state), level)
    assert words in text


def test_a_mode_that_is_only_repeated_counts_for_nothing():
    (text,) = texts(check_mode(ArmState(mode=ArmMode.MOVE), stands_still=True), 'bad')
    assert 'says nothing about itself: it stopped itself' in text


def test_a_camera_that_is_published_is_judged_by_its_topic():
    sample = heard(30.0, frames={'camera_color_optical_frame'})
    found = diagnosis.camera_findings({'front': ROBOT.cameras['front']}, {FRONT_IMAGE: sample}, 'x.yaml')
    assert 'frame camera_color_optical_frame, not front_color_optical_frame' in texts(found, 'bad')[0]


def test_cameras_that_may_be_exchanged_are_named_also_while_they_are_published():
    samples = {IMAGES[view]: heard(30.0, frames={f'{view}_color_optical_frame'}) for view in IMAGES}
    found = texts(diagnosis.camera_findings(ROBOT.cameras, samples, 'x.yaml'), 'bad')
    assert found == [f'camera {view}: no serial number: two cameras cannot be told apart' for view in IMAGES]


@pytest.mark.parametrize(
    ('names', 'rate', 'words'),
    [(JOINTS, 120.0, ''), (JOINTS, 10.0, 'at least 20 are needed'), (JOINTS[1:], 120.0, 'thumb_rotation is missing')],
)
def test_what_a_driver_publishes_is_judged_by_its_topic_and_its_port_left_alone(names, rate, words):
    def by_port():
        raise AssertionError('the driver holds the port')
        yield

    sample = joints([0.4] * len(names), names, rate=rate)
    found = list(diagnosis.serial_findings('hand', sample, 20.0, by_port()))
    assert [words in text for text in texts(found, 'bad')] == ([True] if words else []), found


@pytest.mark.parametrize('sample', [None, TopicSample(2.0)])
def test_what_nobody_publishes_is_asked_on_its_port(sample):
    asked = [refusal('hand', UserError('/dev/hand does not exist; plug it in'))]
    assert list(diagnosis.serial_findings('hand', sample, 20.0, asked)) == asked


def test_a_topic_has_no_findings_but_its_rate_when_all_is_well():
    (finding,) = check_topic('arm pose', heard(50.0), 20.0)
    assert (finding.level, finding.text) == ('good', '50 messages per second')


# All of it


def test_the_preflight_of_a_robot_that_is_not_there_names_every_device(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis.shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=1e13))
    devices = {**ROBOT.devices, 'spacemouse': {'path': str(tmp_path / 'mouse')}}
    devices |= {name: {**ROBOT.devices[name], 'port': str(tmp_path / name)} for name in ('hand', 'glove')}
    absent = {'driver': 'v4l2', 'device': str(tmp_path / 'camera')}
    cameras = {view: camera.model_copy(update=absent) for view, camera in ROBOT.cameras.items()}
    robot = ROBOT.model_copy(update={'devices': devices, 'cameras': cameras})
    monkeypatch.setattr(config, 'load_robot', lambda name: robot)
    monkeypatch.setattr(diagnosis, '_heard', lambda *_: diagnosis.Heard(diagnosis.defaultdict(TopicSample), None, {}))
    found = list(diagnosis.robot_findings('fr3_ruiyan'))
    bad = [finding.subject for finding in found if finding.level == 'bad']
    # both cameras are one device, and that is not there
    assert bad == ['arm controller', 'hand', 'glove', 'SpaceMouse', 'camera wrist', 'camera front', 'camera wrist']
    assert [finding.level for finding in found if finding.subject == 'limits'] == ['good']
    json.dumps([vars(finding) for finding in found])


def test_the_preflight_of_a_whole_robot_of_emulated_devices_is_good(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis.shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=1e13))
    devices = {**ROBOT.devices, 'spacemouse': {'path': str(tmp_path / 'spacemouse')}}
    devices |= {name: {**ROBOT.devices[name], 'port': str(tmp_path / name), 'rate': 1} for name in ('hand', 'glove')}
    cameras = {}
    for value, (view, camera) in enumerate(ROBOT.cameras.items()):
        with BagWriter(tmp_path / view) as bag:
            for index in range(10):
                pixels = np.full((48, 64, 3), 10 * index + value, np.uint8)
                bag.write_image(f'/{camera.topic}', pixels, index * 25_000_000)
        fields = {'driver': 'file', 'device': str(tmp_path / view), 'width': 64, 'height': 48, 'rate': 1.0}
        cameras[view] = camera.model_copy(update=fields)
    # a busy machine must not fail this, so little is asked of it
    robot = ROBOT.model_copy(update={'devices': devices, 'cameras': cameras, 'control_rate': 1.0})
    monkeypatch.setattr(config, 'load_robot', lambda name: robot)
    topics = {CURRENT_POSE: heard(), MEASURED_JOINTS: joints()}
    controllers = {device_settings(robot).arm.controller: 'active'}
    answer = diagnosis.Heard(diagnosis.defaultdict(TopicSample, topics), ArmState(mode=ArmMode.MOVE), controllers)
    monkeypatch.setattr(diagnosis, '_heard', lambda *_: answer)
    operator = OperatorDevices(tmp_path, device_settings(robot).glove)
    operator.plug_in()
    try:
        with RuiyanEmulator(tmp_path / 'hand', start=[0.4] * 6) as hand:
            found = list(diagnosis.robot_findings('fr3_ruiyan'))
            assert hand.moves == 0 and hand.motors.position == [0.4] * 6
    finally:
        operator.unplug()
    assert {finding.level for finding in found} == {'good'}, found
    subjects = {finding.subject.split()[0] for finding in found}
    assert subjects == {'limits', 'arm', 'hand', 'glove', 'SpaceMouse', 'camera', 'disk,'}


def test_beside_a_running_graph_the_ports_of_hand_and_glove_are_left_alone(monkeypatch):
    hands = joints([0.4] * 6, JOINTS)
    topics = {CURRENT_POSE: heard(), MEASURED_JOINTS: joints(), HAND_JOINTS: hands, GLOVE: hands}
    monkeypatch.setattr(diagnosis, '_heard', lambda *_: diagnosis.Heard(diagnosis.defaultdict(TopicSample, topics)))
    monkeypatch.setattr(diagnosis, 'camera_findings', lambda *_: iter(()))
    found = [finding for finding in diagnosis.robot_findings('fr3_ruiyan') if finding.subject in ('hand', 'glove')]
    assert [(finding.subject, finding.level) for finding in found] == [('hand', 'good'), ('glove', 'good')]


def test_a_left_hand_is_reminded_of_what_is_written_for_a_right_one(monkeypatch):
    glove = {**ROBOT.devices['glove'], 'port': '/dev/dex_glove_left'}
    robot = ROBOT.model_copy(update={'devices': {**ROBOT.devices, 'side': 'left', 'glove': glove}})
    monkeypatch.setattr(config, 'load_robot', lambda name: robot)
    monkeypatch.setattr(diagnosis, '_heard', lambda *_: diagnosis.Heard(diagnosis.defaultdict(TopicSample)))
    monkeypatch.setattr(diagnosis, 'camera_findings', lambda *_: iter(()))
    found = [finding for finding in diagnosis.robot_findings('fr3_ruiyan') if finding.level == 'warning']
    assert any('hand_model.py are those of a right hand, but side is left' in finding.text for finding in found)


def test_a_ros_that_does_not_answer_is_said(monkeypatch):
    monkeypatch.setattr(diagnosis.sys, 'executable', '/bin/false')
    with pytest.raises(UserError, match='cannot be heard: no output; see the lines about ROS'):
        diagnosis._heard('fr3_ruiyan')


def test_a_robot_without_devices_says_so(monkeypatch):
    monkeypatch.setattr(diagnosis, '_heard', lambda *_: diagnosis.Heard(diagnosis.defaultdict(TopicSample)))
    (*_, last) = diagnosis.robot_findings('sim')
    assert last.level == 'bad' and 'has no devices' in last.text


@pytest.mark.parametrize(('free', 'level'), [(1000e9, 'good'), (300e9, 'warning'), (20e9, 'bad')])
def test_a_disk_that_a_session_would_fill_is_told_before(tmp_path, monkeypatch, free, level):
    camera = config.Camera(topic='camera/front/color/image_raw', width=640, height=480, rate=30.0)
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(diagnosis.shutil, 'disk_usage', lambda folder: usage if folder == tmp_path else None)
    found = diagnosis.space_finding({'front': camera, 'wrist': camera}, tmp_path / 'not' / 'yet')
    assert found.level == level and '199 GB an hour' in found.text and bool(found.fix) == (level != 'good')
