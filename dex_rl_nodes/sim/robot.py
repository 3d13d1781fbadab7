"""The simulated robot: what stands in below the drivers."""

from collections import deque

import mujoco
import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import HAND_JOINTS, RobotReading
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.robot.start import draw_start
from dex_rl_nodes.sim import arm, hand, tasks, world
from dex_rl_nodes.sim.impedance import CartesianImpedance
from dex_rl_nodes.sim.renderer import CameraRenderer
from dex_rl_nodes.sim.tasks.base import FailureClass

_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_OVER = np.array([0.03, 0.03, 0.02, 0.3])  # plus or minus, of the hand over what was arranged (m, m, m, rad)
_SETTLE = 0.4  # the scene comes to rest before an episode starts (s)
_STALL_TIME = 2.0  # no motion for so long is a stall (s)
_STALL_ARM = 0.012  # motion of the TCP that is none (m)
_STALL_HAND = 0.06  # motion of the fingers that is none (normalised travel)


class SimRobot:
    """Arm, hand, cameras and scene of one task, advanced by its owner.

    Poses are those of the TCP in the base frame: x, y, z (m) and quaternion x, y, z, w. The same seed gives the same
    episode, bit for bit. Images must be rendered from one thread, the one of the first `render`.

    Args:
        task, robot: configuration.
        arranged: episodes begin where they usually end, see SimTask.arrange, with the hand over the place.
    """

    def __init__(self, task: Task, robot: Robot, arranged: bool = False):
        self.task, self.robot, self._arranged = task, robot, arranged
        self.sim_task = tasks.make(task.name, task.scene)
        for view in robot.cameras:
            if view not in world.FIELD_OF_VIEW:
                raise UserError(f'the simulated robot has no camera "{view}"; it has: {", ".join(world.FIELD_OF_VIEW)}')
        self._model = mujoco.MjModel.from_xml_string(world.mjcf(self.sim_task.fragment(), robot.cameras))
        self._data = mujoco.MjData(self._model)
        self._scratch = mujoco.MjData(self._model)
        self.sim_task.bind(self._model, self._data)
        self._site = self.sim_task.site('tcp')
        self._controller = CartesianImpedance(self._model, self._data, self._site)
        self._hand_address = self._model.jnt_qposadr[[self.sim_task.joint(name) for name in hand.JOINT_NAMES]]
        self._cameras = {
            view: mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, view) for view in robot.cameras
        }
        self._renderer: CameraRenderer | None = None
        self._start_hand = np.asarray(task.start.hand, float)
        self._hand_target = np.zeros(6)  # where the motors shall go, normalised travel
        self._hand_command = np.zeros(6)  # where they have got to, at their speed
        self._epoch = 0.0  # simulated time of all episodes before this one (s)
        self._due = 0.0  # time of this episode up to which the robot was asked to advance (s)
        self._scene: dict[str, float] | None = None
        self._track: deque = deque()
        self._reached = False

    # Episodes.

    @property
    def start_hand(self) -> np.ndarray:
        """Hand target at the start of this episode (6,), normalised travel."""
        return self._start_hand.astype(np.float32)

    def reset(self, seed: int) -> RobotReading:
        """Start a new episode: draw start pose and scene, let it settle, return what the robot reports."""
        rng = np.random.default_rng(seed)
        pose = draw_start(self.task.start, rng)
        self._epoch += self._data.time
        mujoco.mj_resetData(self._model, self._data)
        self.sim_task.randomise(rng)
        if self._arranged:
            pose, self._start_hand = self._arrange(rng)
        position, quaternion, fingers = pose[:3], pose[[6, 3, 4, 5]], self._start_hand
        try:
            posture = arm.inverse_kinematics(self._model, self._scratch, self._site, position, quaternion)
        except ValueError as error:
            what = 'a scene arranged' if self._arranged else 'start'
            raise UserError(f'config/tasks/{self.task.name}.yaml: {what}: {error}; choose a start nearer') from None
        self._data.qpos[:7] = posture
        self._hand_target[:] = self._hand_command[:] = fingers
        joints = np.concatenate([hand.TRAVEL, hand.DISTAL_TRAVEL[1:]]) * np.concatenate([fingers, fingers[1:]])
        self._data.qpos[self._hand_address] = joints
        mujoco.mj_forward(self._model, self._data)
        self._controller.reset(position, quaternion, posture)
        self._due = 0.0
        self.advance(_SETTLE)
        self._track.clear()
        self._reached = False
        self._watch()
        return self.read()

    def _arrange(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Arrange the scene; returns a TCP pose (7,) about where a person ends, and fingers (6,)."""
        mujoco.mj_forward(self._model, self._data)
        self.sim_task.arrange(rng)
        mujoco.mj_forward(self._model, self._data)
        place = np.array(self.sim_task.plan()[-1].target(self.sim_task.scene())) + rng.uniform(-1, 1, 4) * _OVER
        rotation = rotations.from_rotvec(np.asarray(self.task.start.rotation))
        usual, closed = np.asarray(self.task.start.hand), np.asarray(self.sim_task.grip.closed)
        fingers = usual + rng.uniform() ** 2 * (closed - usual)  # more often open
        return np.concatenate((place[:3], rotations.turned(rotation, np.array([0.0, 0.0, place[3]])))), fingers

    def set_targets(self, target_pose: np.ndarray, hand_target: np.ndarray) -> None:
        """Where arm (7,) and hand (6,) shall go; they hold the last targets."""
        self.set_arm_target(target_pose)
        self.set_hand_target(hand_target)

    def set_arm_target(self, target_pose: np.ndarray) -> None:
        """Where the TCP shall go (7,)."""
        pose = np.asarray(target_pose, float)
        self._controller.set_target(pose[:3], pose[[6, 3, 4, 5]] / np.linalg.norm(pose[3:]))

    def set_hand_target(self, hand_target: np.ndarray) -> None:
        """Where the motors of the hand shall go (6,), normalised travel."""
        self._hand_target[:] = np.clip(hand_target, 0.0, 1.0)

    def advance(self, seconds: float) -> None:
        """Let simulated time pass; rounding to time steps does not accumulate.

        Where the physics diverges, MuJoCo would start the scene anew, and time with it; here everything stands still
        where it was instead, and goes on from there.
        """
        self._due += seconds
        step = hand.SPEED * self._model.opt.timestep
        data, command = self._data, self._hand_command
        steps = round((self._due - data.time) / self._model.opt.timestep)
        position, then = data.qpos.copy(), data.time + steps * self._model.opt.timestep
        for _ in range(steps):
            command += np.minimum(np.maximum(self._hand_target - command, -step), step)
            data.ctrl[:] = command * hand.TRAVEL
            data.qfrc_applied[:7] = self._controller.torque()
            mujoco.mj_step(self._model, data)
        if any(data.warning[kind].number for kind in _DIVERGED):
            mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.time = position, then
            mujoco.mj_forward(self._model, data)
        self._scene = None
        self._watch()

    def step(self, target_pose: np.ndarray, hand_target: np.ndarray) -> None:
        """One control tick: set the targets and advance by one control period."""
        self.set_targets(target_pose, hand_target)
        self.advance(1.0 / self.robot.control_rate)

    # What the robot reports.

    @property
    def time(self) -> int:
        """Simulated time in ns; it goes on over resets."""
        return round((self._epoch + self._data.time) * 1e9)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of all joints, arm first, as in `joint_positions`."""
        return arm.JOINT_NAMES + hand.JOINT_NAMES

    @property
    def joint_positions(self) -> np.ndarray:
        """Joint positions in rad, for RViz."""
        return np.concatenate([self._data.qpos[:7], self._data.qpos[self._hand_address]])

    def read(self) -> RobotReading:
        """What arm and hand report now."""
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._site])
        motors = self._data.qpos[self._hand_address[:6]] / hand.TRAVEL
        return RobotReading(
            stamp=self.time,
            tcp_pose=np.concatenate([self._data.site_xpos[self._site], quaternion[[1, 2, 3, 0]]]),
            hand=np.clip(motors, 0.0, 1.0).astype(np.float32),
            joint_position=self._data.qpos[:7].copy(),
            joint_velocity=self._data.qvel[:7].copy(),
        )

    def snapshot(self):
        """A copy of the present state, for `render` while time goes on."""
        state = mujoco.MjData(self._model)
        mujoco.mj_copyData(state, self._model, self._data)
        return state

    def render(self, view: str, state=None) -> np.ndarray:
        """Image of one camera, uint8 (height, width, 3) RGB.

        Args:
            view: name of the camera.
            state: of `snapshot`; None: the present one.

        Raises:
            UserError: there is no off-screen OpenGL; names the package.
        """
        if self._renderer is None:
            self._renderer = CameraRenderer(self._model)
        camera = self.robot.cameras[view]
        return self._renderer.render(state or self._data, self._cameras[view], camera.width, camera.height)

    def intrinsics(self, view: str) -> tuple[float, float, float, float]:
        """Pinhole parameters fx, fy, cx, cy (px) of a camera; there is no distortion."""
        camera = self.robot.cameras[view]
        focal = camera.height / 2 / np.tan(np.radians(world.FIELD_OF_VIEW[view]) / 2)
        return focal, focal, camera.width / 2, camera.height / 2

    # The truth, for labels and scores only.

    def scene(self) -> dict[str, float]:
        """What a person would see, SI units, base frame; see the task for the names.

        `<joint>_target`, normalised travel, is where a motor of the hand is told to go, which its person feels.
        """
        if self._scene is None:
            targets = zip(HAND_JOINTS, self._hand_target.tolist(), strict=True)
            self._scene = {**self.sim_task.scene(), **{f'{joint}_target': target for joint, target in targets}}
        return self._scene

    def success(self) -> bool:
        """Whether the success condition of the task holds now."""
        return self.scene()['success'] > 0

    def failure(self) -> FailureClass:
        """What kept the episode from success, if it ended now (LAMP, appendix E).

        arm: the TCP never came where the interaction starts, or carries what it holds to no good end;
        stall: it got there and stopped moving; hand: it got there and the fingers do not hold.
        """
        if not self._reached:
            return 'arm'
        positions = np.array([entry[1] for entry in self._track])
        hands = np.array([entry[2] for entry in self._track])
        if np.ptp(positions, axis=0).max() < _STALL_ARM and np.ptp(hands, axis=0).max() < _STALL_HAND:
            return 'stall'
        return 'arm' if self.scene()['held'] > 0 else 'hand'

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _watch(self) -> None:
        """Remember what `failure` looks at."""
        seen = self.scene()
        self._reached = self._reached or seen['near'] > 0
        now = self._data.time
        self._track.append((now, self._data.site_xpos[self._site].copy(), self._hand_command.copy()))
        while self._track[0][0] < now - _STALL_TIME:
            self._track.popleft()
