"""Configuration files: what a task, a robot and a method are.

A file in config/<kind>/<name>.yaml is checked against the model of its kind; what is wrong is said in
one sentence that names file and field. Every field carries its meaning and unit, once, here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.paths import config_directory

Vector3 = Annotated[list[float], Field(min_length=3, max_length=3)]
Vector6 = Annotated[list[float], Field(min_length=6, max_length=6)]

INTERFACES = ('latent_prior', 'raw', 'pca', 'vq', 'latent_prior_no_bottleneck', 'latent_prior_no_history')


class Model(BaseModel):
    """A frozen record that refuses unknown fields, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)


VIEWS = ('front', 'wrist')  # what every network sees, in this order


class Camera(Model):
    """One colour camera."""

    topic: str = Field(description='camera/<view>/color/image_raw, which all nodes read; file: the topic in its bag')
    serial: str = Field('', description='serial number; may be empty in simulation and of the only RealSense')
    width: int = Field(172, ge=32, le=1920, description='image width (px)')
    height: int = Field(128, ge=32, le=1080, description='image height (px)')
    rate: float = Field(10.0, gt=0, le=90, description='frames per second (Hz)')
    driver: Literal['realsense', 'v4l2', 'file'] = Field('realsense', description='what kind of source it is')
    device: str = Field(
        '', description='v4l2: path or number of the device; file: bag folder, video or folder of images'
    )
    format: str = Field('', pattern='^(....)?$', description='v4l2: pixel format, such as MJPG or YUYV; empty: any')
    loop: bool = Field(True, description='file: start again at the end')


class Robot(Model):
    """A robot: what its devices are called and what it may do."""

    name: str
    control_rate: float = Field(10.0, gt=0, le=50, description='control ticks per second (Hz)')
    translation_scale: float = Field(0.02, gt=0, description='arm translation per tick at unit command (m)')
    rotation_scale: float = Field(0.10, gt=0, description='arm rotation per tick at unit command (rad)')
    cameras: dict[str, Camera] = Field(description='views, by name: front, wrist')
    base_frame: str = Field('base', description='frame of every TCP pose')
    limits: dict = Field(default_factory=dict, description='limits of arm and hand, see robot/limits.py')
    devices: dict = Field(default_factory=dict, description='settings of the device drivers')
    teleop: dict = Field(default_factory=dict, description='how SpaceMouse and glove are read, see robot/teleop.py')

    @field_validator('cameras')
    @classmethod
    def _on_the_topics_that_nodes_read(cls, cameras: dict[str, Camera]) -> dict[str, Camera]:
        if set(cameras) != set(VIEWS):
            raise ValueError(f'the views must be {" and ".join(VIEWS)}, not {", ".join(cameras) or "none"}')
        for view, camera in cameras.items():
            read = f'camera/{view}/color/image_raw'
            if camera.driver != 'file' and camera.topic != read:
                raise ValueError(f'{view}.topic must be {read}, which is what the nodes read, not {camera.topic}')
        return cameras


class StartPose(Model):
    """Where an episode starts."""

    position: Vector3 = Field(description='nominal TCP position, base frame (m)')
    rotation: Vector3 = Field(description='nominal TCP rotation vector, base frame (rad)')
    position_range: Vector3 = Field(description='uniform randomisation, plus or minus (m)')
    rotation_range: Vector3 = Field(description='uniform randomisation, plus or minus (rad)')
    hand: Vector6 = Field(description='hand target, normalised travel')


class Evaluation(Model):
    """How the task is scored."""

    episodes: int = Field(20, gt=0, description='evaluation episodes')
    seed: int = Field(description='seed of the first evaluation start; never used elsewhere')


class Task(Model):
    """A task: what is wanted, where it starts and how it is judged."""

    name: str
    description: str
    demonstrations: int = Field(gt=0, description='successful demonstrations to collect; so many are learned from')
    near_misses: int = Field(
        28, gt=0, le=500, description='failures shown to the classifier; more where something is put down'
    )
    arrangements: int = Field(
        0, ge=0, le=2500, description='scenes put by hand as after a success, or nearly so, and shown to the classifier'
    )
    online_steps: int = Field(gt=0, description='budget of online transitions')
    episode_steps: int = Field(gt=0, description='time limit of an episode (ticks)')
    success_hold: int = Field(3, ge=1, description='ticks the classifier must stay above its threshold')
    start: StartPose
    workspace_low: Vector3 = Field(description='lower corner of the workspace box of the TCP (m)')
    workspace_high: Vector3 = Field(description='upper corner of the workspace box of the TCP (m)')
    crops: dict[str, Annotated[list[float], Field(min_length=4, max_length=4)]] = Field(
        description='per view: top, left, bottom, right of the task crop as fractions of the image'
    )
    evaluation: Evaluation
    scene: dict = Field(default_factory=dict, description='parameters of the simulated scene')


class Method(Model):
    """A learning method: settings of the parts of learning/."""

    name: str
    description: str
    prior: dict = Field(default_factory=dict, description='settings of the action interface, see learning/')
    encoder: dict = Field(default_factory=dict, description='settings of the visual encoder')
    policy: dict = Field(default_factory=dict, description='settings of the base policy')
    reward: dict = Field(default_factory=dict, description='settings of the reward classifier')
    residual: dict = Field(default_factory=dict, description='settings of residual actor, critic and algorithm')


EMULATED = '_emulated'  # behind the name of a robot: the same robot, of emulated devices and a simulated arm

Kind = Literal['tasks', 'robots', 'methods']
_MODELS: dict[str, type[Model]] = {'tasks': Task, 'robots': Robot, 'methods': Method}
M = TypeVar('M', bound=Model)


def names(kind: Kind) -> list[str]:
    """Names of the configurations of a kind that exist."""
    return sorted(path.stem for path in (config_directory() / kind).glob('*.yaml'))


def _load(kind: Kind, name: str) -> Model:
    path = config_directory() / kind / f'{name}.yaml'
    if name not in names(kind):
        raise UserError(f'unknown {kind[:-1]} "{name}"; choose one of: {", ".join(names(kind))}')
    loaded = read(path, _MODELS[kind])
    if loaded.name != name:
        raise UserError(
            f'{path} describes the {kind[:-1]} "{loaded.name}", not "{name}"; put the right file there, '
            'or correct its name'
        )
    return loaded


def read(path: Path, model: type[M]) -> M:
    """Read one YAML file as a model.

    Raises:
        UserError: the file is missing, is not YAML, or a field is wrong; names the field.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}') from None
    except yaml.YAMLError as error:
        raise UserError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from None
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(str(part) for part in first['loc']) or 'the file'
        raise UserError(f'{path}: {where}: {first["msg"].removeprefix("Value error, ")}') from None


def load_task(name: str) -> Task:
    """Configuration of a task; UserError names the valid ones."""
    return _load('tasks', name)


def is_simulated(robot: str) -> bool:
    """Whether no real robot of this name can move."""
    return robot == 'sim' or robot.endswith(EMULATED)


def robot_names() -> list[str]:
    """Names of all robots, and of those with emulated devices."""
    known = names('robots')
    return known + [f'{name}{EMULATED}' for name in known if name != 'sim']


def load_robot(name: str) -> Robot:
    """Configuration of a robot; UserError names the valid ones.

    With emulated devices all values are those of the robot, but its cameras are as small and slow as those of the
    simulated robot: they are drawn in software.
    """
    robot = _load('robots', name.removesuffix(EMULATED))
    if not name.endswith(EMULATED):
        return robot
    usual = {key: Camera.model_fields[key].default for key in ('width', 'height', 'rate')}
    return robot.model_copy(
        update={'cameras': {view: camera.model_copy(update=usual) for view, camera in robot.cameras.items()}}
    )


def without_serial(cameras: Mapping[str, Camera]) -> list[str]:
    """Views whose RealSense could be taken for another one, because it has no serial number."""
    views = [view for view, camera in cameras.items() if camera.driver == 'realsense']
    return [view for view in views if len(views) > 1 and not cameras[view].serial]


def load_method(name: str) -> Method:
    """Configuration of a method; UserError names the valid ones."""
    return _load('methods', name)
