"""The part of `./dexrl doctor` that runs in the environment; prints its findings as one line of JSON."""

import glob
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata

Row = tuple[str, str, str, str]  # level, subject, text, fix
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


def devices(robot: str) -> Iterator[Row]:
    """Whether the devices of a real robot can be opened."""
    from dex_rl_nodes.config import load_robot
    from dex_rl_nodes.drivers.settings import device_settings

    settings = device_settings(load_robot(robot))
    for name in ('hand', 'glove'):
        port = getattr(settings, name).port
        if not os.path.exists(port):
            found = ', '.join(sorted(glob.glob('/dev/ttyUSB*') + glob.glob('/dev/ttyACM*'))) or 'none'
            fix = f'plug it in, or set devices.{name}.port in config/robots/{robot}.yaml (serial ports now: {found})'
            yield 'bad', name, f'{port} does not exist', fix
        elif not os.access(port, os.R_OK | os.W_OK):
            yield 'bad', name, f'no permission for {port}', 'sudo usermod -aG dialout $USER, then log in again'
        else:
            yield 'good', name, port, ''
    readable = [path for path in sorted(glob.glob('/dev/hidraw*')) if os.access(path, os.R_OK)]
    fix = '' if readable else 'plug it in and allow reading /dev/hidraw* (udev rule, docs/hardware.md)'
    yield 'good' if readable else 'bad', 'SpaceMouse', ', '.join(readable) or 'no readable /dev/hidraw*', fix
    cameras = load_robot(robot).cameras
    present = sorted(glob.glob('/dev/video*'))
    fix = '' if present else 'plug in the RealSense cameras and install ros-$ROS_DISTRO-realsense2-camera'
    text = f'{len(cameras)} expected; video devices: {", ".join(present) or "none"}'
    yield 'good' if present else 'bad', 'cameras', text, fix
    for view, camera in cameras.items():
        if not camera.serial:
            fix = f'set cameras.{view}.serial in config/robots/{robot}.yaml'
            yield 'warning', f'camera {view}', 'no serial number: two cameras cannot be told apart', fix


def main() -> None:
    """Print every finding for the robot named on the command line."""
    rows = [*versions(), *messages(), *drawing(), *weights()]
    if (robot := sys.argv[1]) != 'sim':
        rows += devices(robot)
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
