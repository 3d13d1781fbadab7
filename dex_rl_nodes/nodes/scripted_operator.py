"""A person in simulation: watches the scene, and moves SpaceMouse and glove."""

from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from sensor_msgs.msg import JointState, Joy

from dex_rl_nodes.descriptions import CURRENT_POSE, GLOVE, JOY, TWIST
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.drivers.emulators.operator_devices import OperatorDevices
from dex_rl_nodes.drivers.emulators.serial_device import private_folder
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.records import HAND_JOINTS, EpisodeState, OperatorInput, RobotReading, SimState
from dex_rl_nodes.robot.teleop import ScriptedHands, read_teleop
from dex_rl_nodes.sim.assistant import Assistant
from dex_rl_nodes.sim.operator import ScriptedOperator

_SKILLS = {
    'demonstrate': ('demonstrate',),
    'examples': ('survey', 'negative'),
    'intervene': ('assist',),  # of an Assistant
}  # what is done in one episode after the other, by mode


class ScriptedOperatorNode(EpisodeNode):
    """Wraps ScriptedOperator; acts once per SimState, with its stamp.

    With a `device_folder` it holds an emulated SpaceMouse and glove, and their drivers publish what it does.
    """

    def __init__(self, core: ScriptedOperator | None = None, **options: Any):
        super().__init__('scripted_operator', **options)
        self._mode = self.setting('mode')
        kind = Assistant if self._mode == 'intervene' else ScriptedOperator
        self._core = core or kind(self.task, self.robot)
        self._hands = ScriptedHands(read_teleop(self.robot))
        self._present = False
        self._scene: SimState | None = None
        self._pose: tuple[int, np.ndarray] | None = None  # stamp and value, also below
        self._hand: tuple[int, np.ndarray] | None = None
        self._devices: OperatorDevices | None = None
        if folder := self.setting('device_folder'):
            self._devices = OperatorDevices(private_folder(folder), device_settings(self.robot).glove)
            self._devices.plug_in()
            self._rest()
        else:
            self.advertise(TWIST, JOY, GLOVE)
        self.subscribe(CURRENT_POSE, self._on_pose)
        self.subscribe(HAND_TOPIC, self._on_hand)
        self.subscribe_ticks('sim_state', self._on_scene)
        self.follow_episodes()

    def begin(self, episode: EpisodeState) -> None:
        skills = _SKILLS[self._mode]
        self._core.skill = skills[episode.episode % len(skills)]
        self._core.reset(episode.seed)
        # a stream of its own, so that who is present does not depend on what else is drawn
        somebody = np.random.default_rng([episode.seed, 0x1A]).random() < self.setting('presence')
        self._present = self._mode in ('demonstrate', 'examples') or (self._mode == 'intervene' and somebody)
        self._scene = None

    def end(self, episode: EpisodeState) -> None:
        self._rest()

    def _rest(self) -> None:
        """Let go of emulated devices, which would go on telling what was done last.

        The hand in the glove is where the next episode starts, long before a button is pressed: what the glove says
        at the press is what it is compared with.
        """
        if self._devices is not None:
            self._devices.show(np.zeros(6), [], np.array(self.task.start.hand))

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = conversions.stamp_ns(message.header.stamp), conversions.pose_array(message.pose)
        self._act()

    def _on_hand(self, message: JointState) -> None:
        hand = self.joint_values(HAND_TOPIC, message, HAND_JOINTS)
        if hand is not None:
            self._hand = conversions.stamp_ns(message.header.stamp), hand.astype(np.float32)
            self._act()

    def _on_scene(self, scene: SimState) -> None:
        self._scene = scene
        self._act()

    def _act(self) -> None:
        """Act on the newest scene, once what arm and hand report is there (in lockstep: that of the same tick)."""
        scene, pose, hand = self._scene, self._pose, self._hand
        if scene is None or pose is None or hand is None:
            return
        if self.lockstep and not scene.stamp == pose[0] == hand[0]:
            return
        self._scene = None
        action = OperatorInput(glove=hand[1])
        if self._present:
            reading = RobotReading(scene.stamp, pose[1], hand[1])
            action = self._core.act(dict(zip(scene.names, scene.values.tolist())), reading)
        self._publish(action, scene.stamp)

    def _publish(self, action: OperatorInput, stamp: int) -> None:
        axes, buttons = self._hands.axes(action), self._hands.buttons(action)
        if self._devices is not None:
            self._devices.show(axes, buttons, action.glove)
            return
        twist, joy = TwistStamped(), Joy(buttons=buttons)
        twist.header.stamp = joy.header.stamp = conversions.time_message(stamp)
        twist.header.frame_id = self.robot.base_frame
        linear, angular = twist.twist.linear, twist.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = axes.tolist()
        joy.axes = axes.tolist()
        self.publish(JOY, joy)
        self.publish(GLOVE, conversions.joint_state(HAND_JOINTS, action.glove, stamp))
        self.publish(TWIST, twist)

    def close(self) -> None:
        if self._devices is not None:
            self._devices.unplug()


def main() -> None:
    """Entry point."""
    run_node(ScriptedOperatorNode)


if __name__ == '__main__':
    main()
