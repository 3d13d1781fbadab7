"""Which processes, parameters and remaps make an application: the one description.

The files in launch/ (through nodes/launch_description.py) and the runner of `./dexrl launch` (supervisor.py) read it.
An application has typed arguments; from their values it builds the list of its processes.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from dex_rl_nodes import config, parameter_file
from dex_rl_nodes.arm_bringup import arm_bringup, frame_publishers
from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.series import ATTEMPTS, COLLECTING, REWARD_EPISODES
from dex_rl_nodes.namespace import parse_namespace
from dex_rl_nodes.parameters import COMMON, Parameter, Value, parse_all
from dex_rl_nodes.paths import config_directory
from dex_rl_nodes.process import Process, is_installed
from dex_rl_nodes.run_directory import DRY, RunDirectory, dry_name, refuse_dry
from dex_rl_nodes.sole_graph import device_folder, sole_graph
from dex_rl_nodes.stages.command import COMMANDS, EPISODES, STEPS

STAGES = 'stages'  # the executable that runs one stage in one process


@dataclass(frozen=True)
class Application:
    """A graph with a name: what a launch file starts."""

    name: str
    description: str
    arguments: tuple[Parameter, ...]
    build: Callable[[dict[str, Value]], list[Process]]
    drives_robot: bool = True  # only one such graph per domain and namespace

    def values(self, texts: Mapping[str, str]) -> dict[str, Value]:
        """Argument values from `name:=text` pairs, with defaults.

        Raises:
            UserError: an unknown argument (names the valid ones) or a value that is not allowed.
        """
        values = parse_all(f'{self.name}.launch.py', self.arguments, texts)
        if 'run' in values:
            RunDirectory(str(values['run']))  # refuses what can be no name
        if 'namespace' in values:
            values['namespace'] = parse_namespace(str(values['namespace']))
        if values.get('devices') == 'emulated':
            if values['robot'] == 'sim':
                raise UserError('robot:=sim has no devices to emulate; use devices:=emulated with robot:=fr3_ruiyan')
            values['robot'] = f'{values["robot"]}{config.EMULATED}'
        return values

    def alone(self, namespace: str, variables: Mapping[str, str]) -> AbstractContextManager[None]:
        """Hold domain and namespace while it runs, where it drives a robot; UserError when another graph holds them."""
        return sole_graph(self.name, namespace, variables) if self.drives_robot else nullcontext()


_common = {parameter.name: parameter for parameter in COMMON}
TASK = replace(_common['task'], choices=tuple(config.names('tasks')))
ROBOT = replace(_common['robot'], choices=tuple(config.names('robots')))
METHOD = replace(_common['method'], choices=tuple(config.names('methods')))
RUN, INTERFACE, SEED, LOCKSTEP = (_common[name] for name in ('run', 'interface', 'seed', 'lockstep'))
NAMESPACE = Parameter('namespace', '', 'namespace of all nodes and topics, so that two robots can share a domain')
OPERATOR = Parameter(
    'operator',
    'auto',
    'who holds SpaceMouse and glove; auto: scripted in simulation, human on a robot; human: not with robot:=sim',
    choices=('auto', 'scripted', 'human', 'none'),
)
CAMERAS = Parameter(
    'cameras',
    'auto',
    'robot: who reads RealSense cameras; auto: realsense2_camera where it is installed',
    choices=('auto', 'realsense2_camera', 'camera_driver'),
)
DEVICES = Parameter(
    'devices',
    'real',
    'robot: real, or emulated: its drivers speak with emulated devices, which are wired to a simulated arm and scene',
    choices=('real', 'emulated'),
)
WATCHER = replace(
    OPERATOR,
    description='who stands by to stop, pause, discard and mark; auto: nobody in simulation, human on a robot',
    choices=('auto', 'human', 'none'),
)
PARAMETER_FILE = Parameter('parameter_file', '', 'YAML file of node parameters, read after the ones given here')
SETTINGS = (TASK, ROBOT, INTERFACE, METHOD, RUN, SEED)


def environment(present: Mapping[str, str]) -> dict[str, str]:
    """Variables every process needs beside the present ones; what a person has set stays."""
    added = {}
    if 'ROS_AUTOMATIC_DISCOVERY_RANGE' not in present and 'ROS_LOCALHOST_ONLY' not in present:
        # Humble knows only the second
        humble = present.get('ROS_DISTRO') == 'humble'
        added = {'ROS_LOCALHOST_ONLY': '1'} if humble else {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    every = {**present, **added}
    local = every.get('ROS_AUTOMATIC_DISCOVERY_RANGE') == 'LOCALHOST' or every.get('ROS_LOCALHOST_ONLY') == '1'
    profile = str(config_directory() / 'fastdds' / ('localhost.xml' if local else 'network.xml'))
    names = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')  # Fast DDS 2 and 3
    if not any(name in present for name in names):
        added |= dict.fromkeys(names, profile)
    if 'MUJOCO_GL' not in present:
        added['MUJOCO_GL'] = 'egl'
    return added


def _node(name: str, values: dict[str, Value], **options) -> Process:
    """A node of this package with the common parameters and its own; `options` go to Process."""
    own = options.pop('parameters', {})
    parameters = {parameter.name: values[parameter.name] for parameter in COMMON if parameter.name in values} | own
    remaps: tuple[tuple[str, str], ...] = ()
    if values.get('lockstep'):
        parameters['use_sim_time'] = True
        if values['namespace']:
            remaps = (('/clock', 'clock'),)  # two simulations keep two clocks
    return Process(name, name, parameters=parameters, remaps=remaps, namespace=str(values['namespace']), **options)


def _robot(values: dict[str, Value]) -> list[Process]:
    """The robot itself: the simulated one, or the drivers of hand and cameras (the arm has its own bring-up)."""
    if values['robot'] == 'sim':
        return [_node('sim_robot', values), *frame_publishers(values)]
    if values['lockstep']:
        raise UserError('lockstep:=true needs robot:=sim: real and emulated devices do not wait for commands')
    if config.is_simulated(str(values['robot'])):
        folder = device_folder(values)
        hand = {'port': f'{folder}/hand', 'start_deadline': _HAND_DEADLINE}
        return [
            _node('sim_robot', values, parameters={'device_folder': folder}),
            _node('hand_driver', values, parameters=hand, on_exit='restart'),
            *frame_publishers(values),
        ]
    still = {'dry_run': values['dry_run']} if 'dry_run' in values else {}
    adapter = _node('arm_adapter', values, parameters=still, on_exit='restart')
    drivers = [adapter, _node('hand_driver', values, on_exit='restart')]
    arm = arm_bringup(config.load_robot(str(values['robot'])), str(values['namespace']))
    return [*arm, *drivers, *_cameras(values), *frame_publishers(values)]


def _cameras(values: dict[str, Value]) -> list[Process]:
    """The cameras of a real robot: RealSense by their own ROS package where it is installed, all others by ours."""
    who = values['cameras']
    if who == 'auto':
        who = 'realsense2_camera' if is_installed('realsense2_camera') else 'camera_driver'
    cameras = config.load_robot(str(values['robot'])).cameras
    if unknown := config.without_serial(cameras):
        fields = ' and '.join(f'cameras.{view}.serial' for view in unknown)
        raise UserError(
            'without serial numbers one RealSense may be taken for the other; '
            f'set {fields} in {config_directory() / "robots" / str(values["robot"])}.yaml '
            '(rs-enumerate-devices -s lists them)'
        )
    ours = [view for view in cameras if who == 'camera_driver' or cameras[view].driver != 'realsense']
    parameters = {'views': ','.join(ours)}
    processes = [_node('camera_driver', values, parameters=parameters, on_exit='restart')] if ours else []
    namespace = '/'.join(part for part in (str(values['namespace']), 'camera') if part)
    for view, camera in cameras.items():
        if view in ours:
            continue
        profile = f'{camera.width}x{camera.height}x{camera.rate:g}'
        # the colour of a D435 is set up at one, that of a D405 at the other; frames are named after camera_name
        parameters = {'rgb_camera.color_profile': profile, 'depth_module.color_profile': profile}
        # the node itself streams whatever it is not told to leave out; a D405 takes colour from the infrared module
        parameters |= {'camera_name': view, **dict.fromkeys(_NO_STREAMS, False)}
        if camera.serial:
            parameters['serial_no'] = f'_{camera.serial}'  # with the underscore it stays text
        # it names its topics after its node: camera/<view>/color/image_raw; that of a D405 up to 4.57.3 is another
        driver = Process(view, 'realsense2_camera_node', 'realsense2_camera', parameters=parameters)
        remaps = (('~/color/image_rect_raw', '~/color/image_raw'),)
        processes.append(replace(driver, namespace=namespace, remaps=remaps, on_exit='restart'))
    return processes


def _who(values: dict[str, Value]) -> str:
    """Who holds SpaceMouse and glove."""
    auto = 'scripted' if config.is_simulated(str(values['robot'])) else 'human'
    return auto if values['operator'] == 'auto' else str(values['operator'])


def _operator(values: dict[str, Value], mode: str = '') -> list[Process]:
    """Whoever holds SpaceMouse and glove, and the node that reads them."""
    who = _who(values)
    simulated, ports = config.is_simulated(str(values['robot'])), {}
    if who == 'scripted' and not simulated:
        raise UserError(
            'operator:=scripted needs robot:=sim or devices:=emulated; '
            f'with robot:={values["robot"]} use operator:=human'
        )
    if who == 'human' and values['robot'] == 'sim':
        raise UserError(
            'robot:=sim has no SpaceMouse and glove; use robot:=fr3_ruiyan devices:=emulated operator:=human'
        )
    scripted: dict[str, Value] = {'mode': mode} if mode else {}
    if 'presence' in values:
        scripted['presence'] = values['presence']
    if who == 'scripted' and values['robot'] != 'sim':
        folder = scripted['device_folder'] = device_folder(values)
        ports = {name: {'port': f'{folder}/{name}'} for name in ('spacemouse', 'glove')}
    drivers = [
        _node(f'{name}_driver', values, parameters=ports.get(name, {}), on_exit='restart')
        for name in ('spacemouse', 'glove')
    ]
    devices = {
        'scripted': [_node('scripted_operator', values, parameters=scripted), *(drivers if ports else [])],
        'human': drivers,
        'none': [],
    }
    return [*devices[who], _node('teleop', values)]


def _episodes(values: dict[str, Value], purpose: str) -> list[Process]:
    """What keeps episodes and records them, whatever acts."""
    operated = values['operator'] != 'none'
    manager = {name: values[name] for name in ('episodes', 'steps', 'residual') if name in values}
    manager |= {'purpose': purpose, 'teleop_required': operated, 'recorded': True}
    if purpose in COLLECTING and _who(values) == 'scripted':
        manager['attempts'] = ATTEMPTS
    if not config.is_simulated(str(values['robot'])):
        manager['reset_deadline'] = _RESET_DEADLINE
    return [
        _node('command_mux', values, parameters={'teleop_required': operated, 'dry_run': bool(values.get('dry_run'))}),
        _node('replay_recorder', values, parameters={'purpose': purpose}),
        _node('episode_manager', values, parameters=manager, ends_graph=True),
    ]


def _learned_action(values: dict[str, Value], residual: str) -> list[Process]:
    """The chain from cameras to commands of a trained policy."""
    return [
        _node('policy', values, parameters={'recorded': True}),
        _node('lmpm_decoder', values),
        _node('residual_actor', values, parameters={'residual': residual}),
        _node('reward_classifier', values),
    ]


def _stage(values: dict[str, Value], *words: str, **options) -> Process:
    arguments = [*words, *(f'{name}:={values[name]}' for name in (parameter.name for parameter in SETTINGS))]
    return Process(words[0], STAGES, is_node=False, arguments=tuple(arguments), **options)


def _collect_demos(values: dict[str, Value]) -> list[Process]:
    purpose = str(values['purpose'])
    if values['operator'] == 'none':
        raise UserError('recording needs somebody who shows the task; use operator:=scripted or operator:=human')
    if values['dry_run']:  # nothing shall ever be learned from a robot that stood still
        values = {**values, 'run': dry_name(str(values['run']))}
    else:
        refuse_dry(str(values['run']))
    mode = 'demonstrate' if purpose == 'demos' else 'examples'
    policy = _node('policy', values, parameters={'source': 'zero', 'recorded': True})
    return [*_robot(values), *_operator(values, mode), policy, *_episodes(values, purpose)]


def _train(values: dict[str, Value]) -> list[Process]:
    refuse_dry(str(values['run']))
    return [_stage(values, 'train', str(values['stage']), ends_graph=True)]


def _online_rl(values: dict[str, Value]) -> list[Process]:
    refuse_dry(str(values['run']))
    simulated = config.is_simulated(str(values['robot']))
    if values['operator'] == 'none' and not simulated:
        raise UserError('learning on a robot needs somebody who can take over and stop it; use operator:=human')
    stage = 'prepare' if simulated else 'check'  # on a robot a person collects: say what is missing, do not start it
    first = [_stage(values, stage, runs_first=True)] if values['prepare'] else []
    return [
        *first,
        *_robot(values),
        *_operator(values, 'intervene'),
        *_learned_action(values, 'learned'),
        *_episodes(values, 'online'),
        _node('learner', values, on_exit='restart'),
    ]


def _evaluate(values: dict[str, Value]) -> list[Process]:
    simulated = config.is_simulated(str(values['robot']))
    if values['operator'] == 'auto':
        values = {**values, 'operator': 'none' if simulated else 'human'}
    if values['operator'] == 'none' and not simulated:
        raise UserError(
            'an evaluation on a robot needs somebody who puts the scene back and can stop it; use operator:=human'
        )
    return [
        *_robot(values),
        *_operator(values),
        *_learned_action(values, str(values['residual'])),
        *_episodes(values, 'evaluation'),
    ]


def _view(values: dict[str, Value]) -> list[Process]:
    layouts = config_directory() / 'view'
    viewer = {
        'rviz': ('rviz2', 'rviz2', ('-d', str(layouts / 'dex_rl_nodes.rviz'))),
        'rqt': ('rqt_gui', 'rqt_gui', ('--perspective-file', str(layouts / 'dex_rl_nodes.perspective'))),
        'foxglove': ('foxglove_bridge', 'foxglove_bridge', ()),
    }
    package, executable, arguments = viewer[str(values['viewer'])]
    return [
        Process(
            executable, executable, package, arguments=arguments, namespace=str(values['namespace']), ends_graph=True
        )
    ]


_NO_STREAMS = tuple(
    f'enable_{name}' for name in ('depth', 'infra', 'infra1', 'infra2', 'gyro', 'accel')
)  # of RealSense
_HAND_DEADLINE = 120.0  # s until the emulated hand is there, which comes with the simulation
# As long as may be: arm_adapter ends a reset by deadlines of its own, and says why.
_RESET_DEADLINE = next(p.maximum for p in NODES['episode_manager'].parameters if p.name == 'reset_deadline')
_STAGE = Parameter('stage', 'all', 'what to train', choices=COMMANDS['train'].words)
_RECORDED_EPISODES = replace(EPISODES, description=f'{EPISODES.description} (purpose:=reward: {REWARD_EPISODES})')
_PURPOSE = Parameter(
    'purpose',
    'demos',
    'demos: demonstrations; reward: successes and near misses for the classifier',
    choices=('demos', 'reward'),
)
_PREPARE = Parameter('prepare', True, 'run the missing stages first (simulation), or name the missing one (robot)')
_VIEWER = Parameter('viewer', 'rviz', 'program to look with', choices=('rviz', 'rqt', 'foxglove'))
_RESIDUAL = next(parameter for parameter in NODES['residual_actor'].parameters if parameter.name == 'residual')
_PRESENCE = next(parameter for parameter in NODES['scripted_operator'].parameters if parameter.name == 'presence')
_DRY_RUN = next(parameter for parameter in NODES['command_mux'].parameters if parameter.name == 'dry_run')
_DRY_RUN = replace(_DRY_RUN, description=f'{_DRY_RUN.description}; records to run <run>_{DRY}')
_GRAPH = (*SETTINGS, DEVICES, CAMERAS, LOCKSTEP, NAMESPACE, PARAMETER_FILE)

APPLICATIONS = {
    application.name: application
    for application in (
        Application(
            'collect_demos',
            'Record demonstrations.',
            (*_GRAPH, _DRY_RUN, OPERATOR, _RECORDED_EPISODES, _PURPOSE),
            _collect_demos,
        ),
        Application(
            'train',
            'Train prior, base policy and reward classifier from bags.',
            (*SETTINGS, DEVICES, _STAGE),
            _train,
            False,
        ),
        Application(
            'online_rl',
            'Learn the residual online.',
            (*_GRAPH, OPERATOR, _PRESENCE, EPISODES, STEPS, _PREPARE),
            _online_rl,
        ),
        Application(
            'evaluate', 'Score a run over held-out starts.', (*_GRAPH, WATCHER, EPISODES, _RESIDUAL), _evaluate
        ),
        Application(
            'robot',
            'The robot alone: the simulated one, or its drivers.',
            (ROBOT, TASK, SEED, DEVICES, CAMERAS, LOCKSTEP, NAMESPACE, PARAMETER_FILE),
            _robot,
        ),
        Application('view', 'Look at a running graph.', (_VIEWER, NAMESPACE), _view, False),
    )
}


def application(launch_file: str) -> Application:
    """The application of `<name>.launch.py`; UserError lists the valid files."""
    name = os.path.basename(launch_file).removesuffix('.launch.py')
    if name not in APPLICATIONS:
        files = ', '.join(f'{known}.launch.py' for known in APPLICATIONS)
        wrong = f'there is no launch file "{launch_file}"' if launch_file else 'say which launch file'
        raise UserError(f'{wrong}; choose one of: {files}')
    return APPLICATIONS[name]


def check_parameter_file(values: Mapping[str, Value]) -> None:
    """UserError when a graph is given a parameter file in which something cannot be."""
    if path := str(values.get('parameter_file', '')):
        parameter_file.check(Path(path), str(values['namespace']), _robot(dict(values)))
