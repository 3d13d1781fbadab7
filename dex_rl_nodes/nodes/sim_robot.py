"""The simulated robot, below the drivers: topics, types and units of cameras, arm and hand."""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String

from dex_rl_nodes.descriptions import CURRENT_POSE, HAND_COMMAND, IMAGES, INFOS, MEASURED_JOINTS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.drivers.emulators.hands import HANDS, EmulatedHand, FollowedMotors
from dex_rl_nodes.drivers.emulators.serial_device import private_folder
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.records import ARM_JOINTS, HAND_JOINTS, EpisodeState, RobotReading, SimState
from dex_rl_nodes.robot.urdf import arm_urdf, hand_urdf
from dex_rl_nodes.sim.renderer import CameraNoise
from dex_rl_nodes.sim.robot import SimRobot

_HAND_RATE = 100.0  # Hz, at which an emulated hand and the simulated one agree
_LET_GO, _LET_GO_DEADLINE = 0.1, 3.0  # s; without a command for so long the hand is let go, and how long that may take
_LONGEST_STEP = 0.1  # s; physics that is further behind real time skips the rest
_SWITCH = 5e-4  # s; the renderer must not wait longer for the interpreter while physics is computed
_COMMANDS = ('target_pose', HAND_COMMAND)


class SimRobotNode(EpisodeNode):
    """Wraps SimRobot, in real time or in lockstep.

    Real time: physics follows the steady clock in small steps on the executor's thread; images are rendered from a
    copy of the state on a second thread, so that neither waits for the other.
    Lockstep: the observation of a tick is published, then time stands still until the commands with its stamp come.
    With a `device_folder` the hand is an emulated device, which its driver commands and reads, and the cameras are as
    noisy as real ones.
    """

    def __init__(self, core: SimRobot | None = None, **options: Any):
        super().__init__('sim_robot', **options)
        self._core = core or SimRobot(self.task, self.robot)
        self._core.reset(self.setting('seed'))
        self._infos = {view: self._camera_info(view) for view in self.robot.cameras}
        self._prepared = -1  # episode the scene was last reset for
        self._since = 0  # time of the last reset (ns); in real time what was commanded before it is none
        self._tick = 0  # lockstep: stamp of the tick whose commands are waited for
        self._targets: dict[str, np.ndarray] = {}
        self._frames = Timing()
        self._frame_timers: list[Any] = []
        self._skipped_frames = self._behind = 0
        self._hand = self._plug_in_hand()
        left_out = (['/clock'] if not self.lockstep else []) + ([HAND_TOPIC] if self._hand else [])
        self.advertise(*(topic for topic in self.description.publishes if topic not in left_out))
        self.publish('robot_description', String(data=arm_urdf()))
        self.publish('hand_description', String(data=hand_urdf(with_camera=True)))
        self.subscribe('target_pose', self._on_target_pose)
        if self._hand is None:
            self.subscribe(HAND_COMMAND, self._on_hand_command)
        self.serve('reset_scene', self._on_reset_scene)
        if not self.lockstep:
            self._start_real_time()
        self.follow_episodes()

    # Episodes

    def _on_reset_scene(self, request: Any, response: Any) -> Any:
        if self.running and self.episode.episode == request.episode:
            response.message = 'this episode has begun'  # asked again while the first answer was under way
            return response
        self._stop_tick()
        self._targets.clear()
        try:
            self._let_go_of_hand()
            reading = self._core.reset(request.seed)
        except UserError as error:
            response.message = str(error)
            return response
        if self._hand is not None:
            self._hand.motors.target = self._core.start_hand.tolist()
            self._move_hand()
        self._prepared = request.episode
        if not self.lockstep:
            self._go_on_from_here()
        self._since = reading.stamp if self.lockstep else self._now()
        response.success = True
        response.start = conversions.time_message(self._since)
        response.hand_target = self._core.start_hand
        response.start_pose = conversions.pose_message(reading.tcp_pose)
        return response

    def begin(self, episode: EpisodeState) -> None:
        if self.lockstep and episode.episode == self._prepared:
            self._publish_tick()

    def end(self, episode: EpisodeState) -> None:
        self._stop_tick()

    # Commands

    def _on_target_pose(self, message: PoseStamped) -> None:
        self._take('target_pose', conversions.stamp_ns(message.header.stamp), conversions.pose_array(message.pose))

    def _on_hand_command(self, message: JointState) -> None:
        hand = self.joint_values(HAND_COMMAND, message, HAND_JOINTS)
        if hand is not None:
            self._take(HAND_COMMAND, conversions.stamp_ns(message.header.stamp), hand)

    def _take(self, topic: str, stamp: int, target: np.ndarray) -> None:
        if self.lockstep:
            if stamp != self._tick:
                return
            self.arrived(self._awaited(topic))
        elif stamp < self._since:  # what held the last episode at its end came in during the reset
            return
        if self._hand is not None:
            self._core.set_arm_target(target)
            return
        self._targets[topic] = target
        if len(self._targets) < len(_COMMANDS):
            return
        if self.lockstep:
            targets, self._targets, self._tick = self._targets, {}, 0
            self._core.step(*(targets[name] for name in _COMMANDS))
            self._publish_tick()
        else:
            self._core.set_targets(*(self._targets[name] for name in _COMMANDS))

    # Lockstep

    def _awaited(self, topic: str) -> str:
        return f'{topic} of the tick at {self._tick / 1e9:.3f} s'

    def _publish_tick(self) -> None:
        reading = self._core.read()
        self._tick = reading.stamp
        self.publish('/clock', ClockMessage(clock=conversions.time_message(self._tick)))
        self._publish_state(reading, self._tick)
        self._publish_scene(self._tick)
        self._publish_frames(self._tick, {view: self._core.render(view) for view in IMAGES})
        for topic in _COMMANDS:
            self.wait_for(self._awaited(topic), self.setting('command_deadline'), 'is command_mux running?')

    def _stop_tick(self) -> None:
        for topic in _COMMANDS:
            self.arrived(self._awaited(topic))
        self._tick = 0
        if self.lockstep:
            self._targets.clear()

    # Real time

    def _plug_in_hand(self) -> EmulatedHand | None:
        """The emulated hand whose motors are those of the simulation; None where the hand has topics."""
        folder = self.setting('device_folder')
        if not folder:
            return None
        # the hand answers in a thread, six times per exchange, and shall not wait long for its turn
        sys.setswitchinterval(0.001)
        emulator = HANDS[device_settings(self.robot).hand.model]
        start = FollowedMotors(self._core.start_hand.tolist())
        self._noise = CameraNoise(self.setting('seed'))
        hand = emulator(private_folder(folder) / 'hand', motors=start)
        hand.plug_in()
        self.every(1 / _HAND_RATE, self._move_hand)
        return hand

    def _move_hand(self) -> None:
        self._catch_up()
        self._core.set_hand_target(self._hand.motors.target)
        self._hand.motors.position = self._core.read().hand.tolist()

    def _let_go_of_hand(self) -> None:
        """Wait until the driver only reads: a hand that is put to its start by nobody would be driven back."""
        end = time.monotonic() + _LET_GO_DEADLINE
        while self._hand is not None and time.monotonic() - self._hand.moved_at < _LET_GO:
            if time.monotonic() > end:
                raise UserError('the hand is still commanded between two episodes; stop whoever publishes hand/command')
            time.sleep(0.01)

    def _start_real_time(self) -> None:
        sys.setswitchinterval(_SWITCH)
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix='renderer')
        # the first image tells whether there is OpenGL, and the renderer belongs to the thread that made it
        self._renderer.submit(self._core.render, next(iter(IMAGES))).result()
        self._rendering: Future = self._renderer.submit(int)
        self._last = time.monotonic()
        self.every(1 / self.setting('state_rate'), self._publish_new_state)
        rates = {view: self.robot.cameras[view].rate for view in IMAGES}
        for rate in set(rates.values()):
            views = [view for view in IMAGES if rates[view] == rate]
            self._frame_timers.append(self.every(1 / rate, partial(self._take_frames, views)))

    def _go_on_from_here(self) -> None:
        """The reset took time: none of it is caught up with, and frames are due at even intervals from now on."""
        self._last = time.monotonic()
        for timer in self._frame_timers:
            timer.reset()

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds

    def _catch_up(self) -> None:
        """Let simulated time catch up with real time."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        self._behind += elapsed > _LONGEST_STEP
        self._core.advance(min(elapsed, _LONGEST_STEP))

    def _publish_new_state(self) -> None:
        self._catch_up()
        self._publish_state(self._core.read(), self._now())

    def _take_frames(self, views: list[str]) -> None:
        self._catch_up()
        stamp = self._now()
        if 'front' in views:
            self._publish_scene(stamp)
        if not self._rendering.done():
            self._skipped_frames += len(views)
            return
        self._rendering.result()
        self._rendering = self._renderer.submit(self._render, self._core.snapshot(), stamp, views)

    def _render(self, snapshot: Any, stamp: int, views: list[str]) -> None:
        with self._frames:
            images = {view: self._core.render(view, snapshot) for view in views}
            if self._hand is not None:
                images = {view: self._noise.add(image) for view, image in images.items()}
        self._publish_frames(stamp, images)

    # Topics

    def _publish_state(self, reading: RobotReading, stamp: int) -> None:
        core = self._core
        joint_state = partial(conversions.joint_state, stamp=stamp)
        self.publish(CURRENT_POSE, conversions.pose_stamped(reading.tcp_pose, stamp, self.robot.base_frame))
        measured = joint_state(ARM_JOINTS, reading.joint_position, velocity=reading.joint_velocity)
        self.publish(MEASURED_JOINTS, measured)
        if self._hand is None:
            self.publish(HAND_TOPIC, joint_state(HAND_JOINTS, reading.hand))
        self.publish('joint_states', joint_state(core.joint_names, core.joint_positions))

    def _publish_scene(self, stamp: int) -> None:
        scene = self._core.scene()
        values = np.array(list(scene.values()), float)
        episode = max(self._prepared, 0)
        self.publish(
            'sim_state', SimState(stamp, episode, list(scene), values, self._core.success(), self._core.failure())
        )

    def _publish_frames(self, stamp: int, images: dict[str, np.ndarray]) -> None:
        # the front camera makes the tick, so its frame goes last
        for view in sorted(images, key=lambda view: view == 'front'):
            info = self._infos[view]
            info.header.stamp = conversions.time_message(stamp)
            self.publish(INFOS[view], info)
            self.publish(IMAGES[view], conversions.image_message(images[view], stamp, info.header.frame_id))

    def _camera_info(self, view: str) -> CameraInfo:
        fx, fy, cx, cy = self._core.intrinsics(view)
        camera = self.robot.cameras[view]
        info = CameraInfo(width=camera.width, height=camera.height, distortion_model='plumb_bob', d=[0.0] * 5)
        info.header.frame_id = f'{view}_color_optical_frame'
        info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
        info.r = np.eye(3).ravel()
        info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        return info

    def diagnose(self) -> None:
        if self.lockstep:
            return
        late = self._behind + self._skipped_frames
        counts = {'frames_skipped': self._skipped_frames, 'behind_real_time': self._behind}
        self.report('real time', WARN if late else OK, 'too slow' if late else 'ok', **counts, **self._frames.take())

    def close(self) -> None:
        if self._hand is not None:
            self._hand.unplug()
        if not self.lockstep:
            self._renderer.submit(self._core.close)
            self._renderer.shutdown()


def main() -> None:
    """Entry point."""
    run_node(SimRobotNode)


if __name__ == '__main__':
    main()
