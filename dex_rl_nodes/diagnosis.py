"""The part of `./dexrl doctor` that runs in the environment; prints its findings as one line of JSON."""

import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from dex_rl_nodes.descriptions import CURRENT_POSE, GLOVE, HAND_JOINTS, IMAGES, MEASURED_JOINTS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding, refusal
from dex_rl_nodes.paths import runs_directory
from dex_rl_nodes.records import ArmState

Row = tuple[str, str, str, str]  # level, subject, text, fix
_PROBE_DEADLINE = 60.0  # s
_HOURS, _SESSION = 2.0, 0.25  # of recording: what a session takes, and too little for one demonstration after the other


class Heard(NamedTuple):
    """What ROS says of a robot."""

    topics: Mapping[str, Any]  # topic to TopicSample
    arm: ArmState | None = None
    controllers: Mapping[str, str] | None = None  # name to state; None: nobody can be asked
    arm_stands_still: bool = False  # its clock, in the states that come


LIBRARIES = ('numpy', 'torch', 'mujoco', 'safetensors', 'rosbags', 'pydantic')


def versions() -> Iterator[Row]:
    """Versions of the libraries that matter, and whether they load."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
            yield 'good', name, metadata.version(name), ''
        except Exception as error:  # a broken library may raise anything while it loads
            yield (
                'bad',
                name,
                f'does not load: {str(error).splitlines()[0]}',
                'delete the environment and run ./dexrl setup',
            )


def training() -> Iterator[Row]:
    """Where networks are trained, and why not on the card that is there."""
    import torch

    from dex_rl_nodes.learning.device import CPU, device_name, training_device
    from dex_rl_nodes.setup.places import OLDEST_DRIVER, card_driver

    driver = card_driver()
    if training_device() != CPU:
        yield 'good', 'training', f'on {device_name()}; the control loop computes on the processor', ''
    elif not driver:
        yield 'good', 'training', 'on the processor: no NVIDIA card', ''
    elif driver < OLDEST_DRIVER:
        text = f'on the processor, for the driver of the NVIDIA card is {driver}'
        yield 'warning', 'training', text, f'install driver {OLDEST_DRIVER} or newer, and run ./dexrl setup'
    elif torch.version.cuda is None:
        text = 'on the processor, for this PyTorch is the build without CUDA'
        yield 'warning', 'training', text, 'unset DEXRL_TORCH, or set it to cuda, and run ./dexrl setup'
    else:
        text = f'on the processor, for PyTorch (CUDA {torch.version.cuda}) cannot use the NVIDIA card'
        yield (
            'warning',
            'training',
            text,
            'look at CUDA_VISIBLE_DEVICES and nvidia-smi; cards before Turing (2018) are too old',
        )


def messages() -> Iterator[Row]:
    """Whether ROS and the messages of this package load."""
    try:
        importlib.import_module('rclpy')
        importlib.import_module('dex_rl_nodes.msg')
        importlib.import_module('dex_rl_nodes.srv')
        yield 'good', 'messages', 'dex_rl_nodes.msg and .srv load', ''
    except Exception as error:
        yield 'bad', 'messages', str(error).splitlines()[0], 'delete .dexrl in the checkout and run ./dexrl setup'
    supervisor = 'launch' if importlib.util.find_spec('launch_ros') else 'circus (`launch` is not installed)'
    yield 'good', 'graphs are run by', supervisor, ''


def drawing() -> Iterator[Row]:
    """Whether MuJoCo draws without a screen."""
    backend = os.environ.get('MUJOCO_GL', 'unset')
    try:
        import mujoco

        mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 16, 16).close()
        yield 'good', 'drawing', f'MUJOCO_GL={backend}', ''
    except Exception as error:
        fix = 'apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6; or try MUJOCO_GL=osmesa'
        yield 'bad', 'drawing', f'MUJOCO_GL={backend}: {str(error).splitlines()[0]}', fix


def weights() -> Iterator[Row]:
    """Which pretrained visual encoders are there."""
    from dex_rl_nodes.learning import pretrained

    for network in pretrained.NETWORKS:
        path = pretrained.find_pretrained(network)
        text = str(path) if path else 'not here; an encoder trained on the demonstrations is used instead'
        yield 'good', f'weights, {network}', text, ''


def robot_findings(name: str, namespace: str = '') -> Iterator[Finding]:
    """The preflight of a real robot: limits, arm, hand, glove, SpaceMouse, cameras. Nothing moves."""
    from dex_rl_nodes import config
    from dex_rl_nodes.drivers.preflight import hand, operator
    from dex_rl_nodes.drivers.settings import device_settings, motor_current
    from dex_rl_nodes.robot import preflight
    from dex_rl_nodes.robot.teleop import read_teleop

    file = f'config/robots/{name}.yaml'
    try:
        robot = config.load_robot(name)
        tasks = [config.load_task(task) for task in config.names('tasks')]
        yield from preflight.check_limits(robot, tasks, motor_current(robot))
        settings, dead_zone = device_settings(robot), read_teleop(robot).dead_zone
    except UserError as error:
        yield refusal('robot', error)
        return
    if settings.side == 'left':
        text = 'TCP and shape in dex_rl_nodes/robot/hand_model.py are those of a right hand, but side is left'
        yield Finding('warning', 'hand', text, 'mirror the y of TCP and of the fingers there, and the TCP set in Desk')
    try:
        topics, arm, controllers, stands_still = _heard(name, namespace)
        yield from preflight.check_arm(robot, topics[CURRENT_POSE], topics[MEASURED_JOINTS])
    except UserError as error:
        yield refusal('ROS topics', error)
        topics, arm, controllers, stands_still = Heard({})
    if arm is not None:
        yield from preflight.check_mode(arm, stands_still)
    if controllers is not None:
        yield from preflight.check_controllers(controllers, settings.arm.controller)
    rate = 2 * robot.control_rate  # two readings per tick
    by_port = hand.check_hand(settings.hand, file)
    yield from serial_findings('hand', topics.get(HAND_JOINTS), rate, by_port)
    by_port = operator.check_glove(settings.glove, settings.side, file)
    yield from serial_findings('glove', topics.get(GLOVE), rate, by_port)
    yield from operator.check_spacemouse(settings.spacemouse, dead_zone)
    yield from camera_findings(robot.cameras, topics, file)
    yield space_finding(robot.cameras, runs_directory().resolve())


def space_finding(cameras: Mapping[str, Any], runs: Path) -> Finding:
    """How long both cameras can be recorded before the disk is full, at worst: noise hardly compresses."""
    per_hour = sum(3 * camera.width * camera.height * camera.rate for camera in cameras.values()) * 3600 / 1e9
    free = shutil.disk_usage(next(path for path in (runs, *runs.parents) if path.exists())).free / 1e9
    hours = free / per_hour
    text = f'{free:.0f} GB free in {runs}: {hours:.1f} hours of both cameras, {per_hour:.0f} GB an hour at most'
    level = 'good' if hours >= _HOURS else 'warning' if hours >= _SESSION else 'bad'
    fix = '' if level == 'good' else 'free some space, set DEXRL_RUNS to a folder of a larger disk, or lower the rate'
    return Finding(level, 'disk, recordings', text, fix)


def serial_findings(subject: str, sample: Any, rate: float, by_port: Iterable[Finding]) -> Iterator[Finding]:
    """Hand or glove as it is heard: a driver that publishes it holds its port. Else as it answers on the port.

    Args:
        subject: what it is.
        sample: TopicSample of its joints; None when nobody has listened.
        rate: smallest rate (Hz).
        by_port: the check of the device itself, which begins when it is iterated.
    """
    from dex_rl_nodes.drivers.hand import JOINTS
    from dex_rl_nodes.robot.preflight import check_topic

    if sample is None or not sample.count:
        yield from by_port
        return
    yield from check_topic(subject, sample, rate)
    if missing := [joint for joint in JOINTS if joint not in sample.joints]:
        there = ', '.join(sample.joints) or 'none'
        yield Finding(
            'bad',
            subject,
            f'joint {missing[0]} is missing; there are {there}',
            f'let its driver name them {", ".join(JOINTS)}',
        )


def camera_findings(cameras: dict[str, Any], heard: Mapping[str, Any], file: str) -> Iterator[Finding]:
    """Which camera is which; those that are being published as they are heard, all others as devices."""
    from dex_rl_nodes.drivers.preflight.cameras import check_cameras, check_identity
    from dex_rl_nodes.process import is_installed
    from dex_rl_nodes.robot.preflight import check_topic

    yield from check_identity(cameras, file)
    silent = {}
    for view, camera in cameras.items():
        sample = heard.get(IMAGES.get(view, ''))
        if sample is not None and sample.count:
            frames = (f'{view}_color_optical_frame',)
            yield from check_topic(f'camera {view}', sample, camera.rate, frames)
        elif (
            camera.driver == 'realsense'
            and is_installed('realsense2_camera')
            and not importlib.util.find_spec('pyrealsense2')
        ):
            text = 'is read by realsense2_camera; start robot.launch.py and run this again to have it checked'
            yield Finding('warning', f'camera {view}', text)
        else:
            silent[view] = camera
    yield from check_cameras(silent, file)


def _heard(robot: str, namespace: str = '') -> Heard:
    """What ROS says, from a process of its own.

    Raises:
        UserError: that process gave no answer.
    """
    from dex_rl_nodes.graph import environment
    from dex_rl_nodes.robot.preflight import TopicSample

    command = [sys.executable, '-m', 'dex_rl_nodes.nodes.topic_probe', robot, '--ros-args', '-r', f'__ns:=/{namespace}']
    variables = {**os.environ, **environment(os.environ)}
    try:
        result = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=_PROBE_DEADLINE
        )
        answer = json.loads(result.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise UserError(f'no answer within {_PROBE_DEADLINE:g} s; see whether ros2 topic list works') from None
    except (IndexError, ValueError):
        words = (result.stderr.strip().splitlines() or ['no output'])[-1]
        raise UserError(f'cannot be heard: {words}; see the lines about ROS and messages above') from None
    samples = {
        topic: TopicSample(**{**found, 'frames': set(found['frames'])}) for topic, found in answer['topics'].items()
    }
    arm = answer['arm'] and ArmState(**answer['arm'])
    return Heard(defaultdict(TopicSample, samples), arm, answer['controllers'], answer['arm_stands_still'])


def main() -> None:
    """Print every finding for the robot, in the namespace, that the command line names."""
    robot, namespace = sys.argv[1:]
    rows = [*versions(), *training(), *messages(), *drawing(), *weights()]
    if robot != 'sim':
        rows += [dataclasses.astuple(finding) for finding in robot_findings(robot, namespace)]
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
