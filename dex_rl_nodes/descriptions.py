"""What topics carry and what nodes do: read by the nodes, graph.py and the README tables. Knows no ROS."""

from dataclasses import dataclass

from dex_rl_nodes.parameters import Parameter
from dex_rl_nodes.run_directory import PURPOSES


@dataclass(frozen=True)
class Topic:
    """Type and QoS profile (a name of nodes/qos.py) of a topic; relative name."""

    type: str
    qos: str


@dataclass(frozen=True)
class NodeDescription:
    """One node: what it is for, its topics and services (names of TOPICS and SERVICES) and its own parameters."""

    name: str
    purpose: str
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()


FRONT_IMAGE = 'camera/front/color/image_raw'
WRIST_IMAGE = 'camera/wrist/color/image_raw'
IMAGES = {'front': FRONT_IMAGE, 'wrist': WRIST_IMAGE}
INFOS = {view: f'camera/{view}/color/camera_info' for view in IMAGES}
CURRENT_POSE = 'franka_robot_state_broadcaster/current_pose'
MEASURED_JOINTS = 'franka_robot_state_broadcaster/measured_joint_states'
HAND_JOINTS = 'hand/joint_states'
HAND_COMMAND = 'hand/command'
TWIST = 'spacenav/twist_stamped'
JOY = 'spacenav/joy'
GLOVE = 'glove/joint_states'
KEYBOARD = 'keyboard/joy'


def _own(name: str, qos: str = 'TICK') -> Topic:
    return Topic(f'dex_rl_nodes/msg/{name}', qos)


TOPICS = {
    FRONT_IMAGE: Topic('sensor_msgs/msg/Image', 'SENSOR'),
    WRIST_IMAGE: Topic('sensor_msgs/msg/Image', 'SENSOR'),
    'camera/front/color/camera_info': Topic('sensor_msgs/msg/CameraInfo', 'SENSOR'),
    'camera/wrist/color/camera_info': Topic('sensor_msgs/msg/CameraInfo', 'SENSOR'),
    CURRENT_POSE: Topic('geometry_msgs/msg/PoseStamped', 'SENSOR'),
    MEASURED_JOINTS: Topic('sensor_msgs/msg/JointState', 'SENSOR'),
    'joint_states': Topic('sensor_msgs/msg/JointState', 'SENSOR'),
    'robot_description': Topic('std_msgs/msg/String', 'STATE'),
    'hand_description': Topic('std_msgs/msg/String', 'STATE'),
    HAND_JOINTS: Topic('sensor_msgs/msg/JointState', 'SENSOR'),
    'target_pose': Topic('geometry_msgs/msg/PoseStamped', 'COMMAND'),
    HAND_COMMAND: Topic('sensor_msgs/msg/JointState', 'COMMAND'),
    TWIST: Topic('geometry_msgs/msg/TwistStamped', 'SENSOR'),
    JOY: Topic('sensor_msgs/msg/Joy', 'SENSOR'),
    GLOVE: Topic('sensor_msgs/msg/JointState', 'SENSOR'),
    KEYBOARD: Topic('sensor_msgs/msg/Joy', 'DIAGNOSTICS'),  # a press must arrive, also when its release follows at once
    'teleop_command': _own('TeleopCommand'),
    'policy_step': _own('PolicyStep'),
    'core_action': _own('CoreAction'),
    'action_command': _own('ActionCommand'),
    'executed_action': _own('ExecutedAction'),
    'reset_command': _own('ActionCommand'),
    'arm_state': _own('ArmState', 'STATE'),
    'safety_stop': Topic('std_msgs/msg/String', 'STATE'),
    'hand_prior': _own('HandPrior'),
    'reward': _own('Reward'),
    'step_result': _own('StepResult'),
    'episode': _own('EpisodeState'),
    'transitions': _own('Transition', 'EXPERIENCE'),
    'transition_ack': _own('TransitionAck', 'STATE'),
    'policy_weights': _own('PolicyWeights', 'STATE'),
    'learner_state': _own('LearnerState', 'STATE'),
    'recorded': Topic('std_msgs/msg/Header', 'STATE'),
    'sim_state': _own('SimState'),
    '/clock': Topic('rosgraph_msgs/msg/Clock', 'DIAGNOSTICS'),
    '/diagnostics': Topic('diagnostic_msgs/msg/DiagnosticArray', 'DIAGNOSTICS'),
}

SERVICES = {
    'reset_scene': 'dex_rl_nodes/srv/ResetScene',
    'fetch_transitions': 'dex_rl_nodes/srv/FetchTransitions',
    'command_mux/reset_stop': 'std_srvs/srv/Trigger',
    'command_mux/stop': 'std_srvs/srv/Trigger',
    'episode_manager/pause': 'std_srvs/srv/SetBool',
    'arm_adapter/scene_ready': 'std_srvs/srv/Trigger',
    'glove_driver/calibrate_open': 'std_srvs/srv/Trigger',
    'glove_driver/calibrate_fist': 'std_srvs/srv/Trigger',
}

_RECORDED = Parameter('recorded', False, 'lockstep: wait for the recorder, so that it misses nothing')
_DRY_RUN = Parameter('dry_run', False, 'do everything but move the robot')
_REALTIME = Parameter(
    'realtime_priority', 10, 'real time: before usual processes, where the system allows it; 0: not', '', 0, 40
)
_THREADS = Parameter('threads', 1, 'threads of PyTorch', minimum=1, maximum=64)

_DEVICE_FOLDER = Parameter(
    'device_folder', '', 'folder in which emulated devices appear and are used instead of their topics; empty: none'
)

SIM_ROBOT = NodeDescription(
    'sim_robot',
    'The simulated robot: arm, hand and cameras with the topics of their drivers.',
    publishes=(
        *IMAGES.values(),
        'camera/front/color/camera_info',
        'camera/wrist/color/camera_info',
        CURRENT_POSE,
        MEASURED_JOINTS,
        'joint_states',
        'robot_description',
        'hand_description',
        HAND_JOINTS,
        'sim_state',
        '/clock',
    ),
    subscribes=('target_pose', HAND_COMMAND, 'episode'),
    serves=('reset_scene',),
    parameters=(
        Parameter('state_rate', 50.0, 'rate of pose and joint topics in real time', 'Hz', 10.0, 500.0),
        Parameter('command_deadline', 30.0, 'lockstep: longest wait for the commands of a tick', 's', 1.0, 600.0),
        _DEVICE_FOLDER,
        _REALTIME,
    ),
)

SCRIPTED_OPERATOR = NodeDescription(
    'scripted_operator',
    'A person in simulation: watches the scene and moves SpaceMouse and glove.',
    publishes=(TWIST, JOY, GLOVE),
    subscribes=('sim_state', 'episode', CURRENT_POSE, HAND_JOINTS),
    parameters=(
        Parameter(
            'mode',
            'demonstrate',
            'demonstrate: does the task; examples: in turn does it after a look around, and nearly does it; '
            'intervene: pushes the policy back where it comes down beside, takes over when it gets nowhere',
            choices=('demonstrate', 'examples', 'intervene'),
        ),
        Parameter(
            'presence', 1.0, 'intervene: share of the episodes in which somebody watches', minimum=0.0, maximum=1.0
        ),
        _DEVICE_FOLDER,
    ),
)

POLICY = NodeDescription(
    'policy',
    'Keeps the control tick; encodes the cameras once and computes the frozen base action.',
    publishes=('policy_step', 'action_command'),
    subscribes=(*IMAGES.values(), CURRENT_POSE, HAND_JOINTS, 'hand_prior', 'executed_action', 'recorded', 'episode'),
    parameters=(
        _RECORDED,
        Parameter(
            'source', 'model', 'model: the trained policy; zero: hold still (collecting)', choices=('model', 'zero')
        ),
        _THREADS,
        _REALTIME,
    ),
)

LMPM_DECODER = NodeDescription(
    'lmpm_decoder',
    'The action interface: keeps the hand history, publishes the prior, decodes core actions to hand targets.',
    publishes=('hand_prior', 'action_command'),
    subscribes=('core_action', 'executed_action', 'episode'),
    parameters=(_THREADS, _REALTIME),
)

RESIDUAL_ACTOR = NodeDescription(
    'residual_actor',
    'Adds the scaled residual to the base action, with the newest weights of the learner.',
    publishes=('core_action',),
    subscribes=('policy_step', 'policy_weights', 'episode'),
    parameters=(
        Parameter(
            'residual',
            'learned',
            'learned: weights of the learner (zero until the first ones come); none: the base policy alone',
            choices=('learned', 'none'),
        ),
        _THREADS,
        _REALTIME,
    ),
)

REWARD_CLASSIFIER = NodeDescription(
    'reward_classifier',
    'Judges from the cameras whether the task is done.',
    publishes=('reward',),
    subscribes=('policy_step', 'episode'),
    parameters=(_THREADS,),
)

LEARNER = NodeDescription(
    'learner',
    'Learns the residual from transitions, beside the robot; publishes weights, writes checkpoints and metrics.',
    publishes=('policy_weights', 'learner_state', 'transition_ack'),
    subscribes=('transitions',),
    calls=('fetch_transitions',),
    parameters=(
        Parameter('checkpoint_every', 1000, 'updates between two checkpoints', 'updates', 1, 1000000),
        Parameter('niceness', 10, 'how far the process stands back behind the robot', minimum=0, maximum=19),
        _THREADS,
    ),
)

TELEOP = NodeDescription(
    'teleop',
    'Turns SpaceMouse and glove into commands that take over arm and hand.',
    publishes=('teleop_command',),
    subscribes=(TWIST, JOY, GLOVE, KEYBOARD, 'episode'),
    parameters=(Parameter('rate', 50.0, 'teleop commands per second in real time', 'Hz', 10.0, 200.0), _REALTIME),
)

COMMAND_MUX = NodeDescription(
    'command_mux',
    'The only publisher to the robot: chooses between policy and operator, and keeps every command within limits.',
    publishes=('target_pose', HAND_COMMAND, 'executed_action', 'safety_stop'),
    subscribes=(
        'action_command',
        'teleop_command',
        'reset_command',
        CURRENT_POSE,
        MEASURED_JOINTS,
        'arm_state',
        HAND_JOINTS,
        *IMAGES.values(),
        'learner_state',
        'episode',
        '/diagnostics',
    ),
    serves=('command_mux/reset_stop', 'command_mux/stop'),
    parameters=(
        _DRY_RUN,
        Parameter(
            'teleop_required',
            True,
            'the robot holds while nobody could take over; lockstep: every tick waits for the command with its stamp',
        ),
        Parameter('watch_rate', 50.0, 'how often silence and second publishers are looked for', 'Hz', 10.0, 200.0),
        _REALTIME,
    ),
)

_RUN_PURPOSE = Parameter(
    'purpose',
    'online',
    'demos: demonstrations; reward: recordings for the classifier; online: learning; evaluation: scoring',
    choices=PURPOSES,
)

EPISODE_MANAGER = NodeDescription(
    'episode_manager',
    'Starts and ends episodes and decides how they ended.',
    publishes=('episode', 'step_result'),
    subscribes=(
        'policy_step',
        'core_action',
        'reward',
        'teleop_command',
        'executed_action',
        'safety_stop',
        'sim_state',
        'recorded',
    ),
    serves=('episode_manager/pause',),
    calls=('reset_scene',),
    parameters=(
        _RUN_PURPOSE,
        _RECORDED,
        Parameter(
            'episodes',
            0,
            'number of episodes, of earlier sessions too; 0: as the task says (reward: 20)',
            '',
            0,
            100000,
        ),
        Parameter(
            'steps', 0, 'online: number of transitions, earlier sessions included; 0: as the task says', '', 0, 10**9
        ),
        Parameter(
            'attempts', 0, 'collecting: episodes per wanted one, then it is given up; 0: any number', '', 0, 1000
        ),
        Parameter('residual', 'learned', 'evaluation: which residual is scored', choices=('learned', 'none')),
        Parameter('teleop_required', True, 'lockstep: every tick waits for the teleop command with its stamp'),
        Parameter('start_deadline', 120.0, 'longest wait for the other nodes at the start', 's', 1.0, 3600.0),
        Parameter('reset_deadline', 60.0, 'longest wait for reset_scene', 's', 1.0, 7200.0),
        Parameter('silence', 10.0, 'real time: an episode without a tick for so long is broken off', 's', 1.0, 600.0),
    ),
)

REPLAY_RECORDER = NodeDescription(
    'replay_recorder',
    'Writes the topics it reads to bags; hands numbered transitions, which have a bag of their own, to the learner.',
    publishes=('transitions', 'recorded'),
    subscribes=(
        *IMAGES.values(),
        *INFOS.values(),
        CURRENT_POSE,
        MEASURED_JOINTS,
        HAND_JOINTS,
        'target_pose',
        HAND_COMMAND,
        TWIST,
        JOY,
        GLOVE,
        'teleop_command',
        'policy_step',
        'core_action',
        'action_command',
        'executed_action',
        'reset_command',
        'arm_state',
        'reward',
        'step_result',
        'episode',
        'transition_ack',
        'learner_state',
        'sim_state',
        '/diagnostics',
    ),
    serves=('fetch_transitions',),
    parameters=(
        _RUN_PURPOSE,
        Parameter('queue', 256, 'received messages that may wait for the disk, in MB', 'MB', 8, 8192),
    ),
)

ARM_ADAPTER = NodeDescription(
    'arm_adapter',
    'Between episodes of a real robot: recovers the arm from errors, brings it to the start pose, waits for the scene.',
    publishes=('reset_command', 'arm_state'),
    subscribes=('target_pose', CURRENT_POSE, MEASURED_JOINTS, HAND_JOINTS, 'teleop_command', 'episode'),
    serves=('reset_scene', 'arm_adapter/scene_ready'),
    parameters=(
        Parameter(
            'scene',
            'person',
            'person: waits until a person says that the scene is put back; as_is: goes on',
            choices=('person', 'as_is'),
        ),
        _DRY_RUN,
        Parameter('scene_deadline', 600.0, 'longest wait for the person', 's', 1.0, 3600.0),
        Parameter('speed', 0.1, 'speed of the TCP on the way to the start pose', 'm/s', 0.01, 0.3),
        Parameter('clearance', 0.05, 'how far above the start pose the TCP travels at least', 'm', 0.0, 0.3),
        Parameter('motion_deadline', 60.0, 'longest way to the start pose', 's', 1.0, 600.0),
        Parameter('recovery_deadline', 15.0, 'longest error recovery of the arm', 's', 1.0, 120.0),
        Parameter('distance', 0.02, 'of the TCP from the start pose that is near enough', 'm', 0.001, 0.1),
        _REALTIME,
    ),
)

_PORT = Parameter('port', '', 'device path; empty: the one of config/robots/')

HAND_DRIVER = NodeDescription(
    'hand_driver',
    'Driver of the six-motor hand (Ruiyan, Inspire).',
    publishes=(HAND_JOINTS, 'joint_states', 'hand_description'),
    subscribes=(HAND_COMMAND,),
    parameters=(
        _PORT,
        Parameter('start_deadline', 0.0, 'longest wait at the start for the hand to appear', 's', 0.0, 600.0),
        _REALTIME,
    ),
)

GLOVE_DRIVER = NodeDescription(
    'glove_driver',
    'Driver of the glove.',
    publishes=(GLOVE,),
    serves=('glove_driver/calibrate_open', 'glove_driver/calibrate_fist'),
    parameters=(_PORT, _REALTIME),
)

SPACEMOUSE_DRIVER = NodeDescription(
    'spacemouse_driver',
    'Driver of the SpaceMouse.',
    publishes=(TWIST, JOY),
    parameters=(_PORT, _REALTIME),
)

KEYBOARD_NODE = NodeDescription(
    'keyboard',
    'Keys for stop, release, pause and marks; runs in a terminal of its own: ./dexrl keyboard.',
    publishes=(KEYBOARD,),
    calls=('command_mux/stop', 'command_mux/reset_stop', 'episode_manager/pause'),
)

CAMERA_DRIVER = NodeDescription(
    'camera_driver',
    'Driver of V4L2 cameras and recordings, and of RealSense where realsense2_camera is not installed.',
    publishes=(*IMAGES.values(), *INFOS.values()),
    parameters=(Parameter('views', '', 'which cameras, with commas between; empty: all of config/robots/'), _REALTIME),
)

NODES = {
    node.name: node
    for node in (
        SIM_ROBOT, SCRIPTED_OPERATOR, TELEOP, POLICY, RESIDUAL_ACTOR, LMPM_DECODER, COMMAND_MUX, REWARD_CLASSIFIER,
        EPISODE_MANAGER, REPLAY_RECORDER, LEARNER, ARM_ADAPTER, HAND_DRIVER, GLOVE_DRIVER, SPACEMOUSE_DRIVER,
        CAMERA_DRIVER, KEYBOARD_NODE,
    )
}  # fmt: skip
