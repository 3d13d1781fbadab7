"""SpaceMouse and glove in, teleop_command out."""

from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import JointState, Joy

from dex_rl_nodes.descriptions import GLOVE, JOY, KEYBOARD, TWIST
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN
from dex_rl_nodes.records import HAND_JOINTS, EpisodeState
from dex_rl_nodes.robot.teleop import TeleopMapper, read_teleop

_DEVICES = (TWIST, JOY, GLOVE)


class Teleop(EpisodeNode):
    """Wraps TeleopMapper.

    Real time: commands at a fixed rate; devices are dated by their arrival. Lockstep: one command per tick, when all
    devices have spoken with its stamp.
    """

    def __init__(self, **options: Any):
        super().__init__('teleop', **options)
        self._mapper = TeleopMapper(read_teleop(self.robot))
        self._heard: dict[str, tuple[int, Any]] = {}  # stamp and value of each device
        self._invalid: set[str] = set()  # devices whose last word was no number
        self._published = -1  # stamp of the last command in lockstep
        self._refused = ''
        self.advertise('teleop_command')
        self.subscribe(TWIST, self._on_twist)
        self.subscribe(JOY, self._on_joy)
        self.subscribe(GLOVE, self._on_glove)
        self.follow_episodes()
        if not self.lockstep:
            # in lockstep the operator is scripted, and a pause, in which no tick comes, could never be ended
            self.subscribe(KEYBOARD, lambda message: self._mapper.keys(list(message.buttons)))
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self.create_timer(1 / self.setting('rate'), self._publish_now, clock=steady)

    def begin(self, episode: EpisodeState) -> None:
        if self.lockstep:
            self._mapper.reset()
            self._publish_tick()
        else:
            self._mapper.begin_episode()
            self.end(episode)

    def end(self, episode: EpisodeState) -> None:
        if not self.lockstep:
            self._mapper.drop_silent(self.get_clock().now().nanoseconds)

    def _on_twist(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        axes = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        self._hear(TWIST, message, axes, self._mapper.twist)

    def _on_joy(self, message: Joy) -> None:
        self._hear(JOY, message, list(message.buttons), self._mapper.buttons)

    def _on_glove(self, message: JointState) -> None:
        try:
            fingers = conversions.joint_positions(message, HAND_JOINTS)
        except ValueError as error:
            self._refused = f'{GLOVE}: {error}'
            return
        self._refused = ''
        self._hear(GLOVE, message, fingers, self._mapper.glove)

    def _hear(self, device: str, message: Any, value: Any, take: Any) -> None:
        if self.lockstep:
            self._heard[device] = conversions.stamp_ns(message.header.stamp), value
            self._publish_tick()
            return
        now = self.get_clock().now().nanoseconds
        if take(value, now) is False:
            self._invalid.add(device)
            return
        self._invalid.discard(device)
        self._heard[device] = now, value

    def _publish_tick(self) -> None:
        """Lockstep: the command of the tick, once every device has spoken in it."""
        stamps = {stamp for stamp, _ in self._heard.values()}
        if not self.running or len(self._heard) < len(_DEVICES) or len(stamps) > 1:
            return
        stamp = stamps.pop()
        if stamp < self.episode.stamp or stamp == self._published:
            return
        self._published = stamp
        twist, buttons, glove = (self._heard[device][1] for device in _DEVICES)
        self.publish('teleop_command', self._mapper.update(twist, buttons, glove, stamp))

    def _publish_now(self) -> None:
        self.publish('teleop_command', self._mapper.command(self.get_clock().now().nanoseconds))

    def diagnose(self) -> None:
        """Age of each device; an absent one is no error, for nobody may want to take over."""
        now = self.get_clock().now().nanoseconds
        silent = {device for device in _DEVICES if now - self._heard.get(device, (0, None))[0] > 1e9}
        for device in _DEVICES:
            heard = self._heard.get(device)
            age = 'never heard' if heard is None else f'{max(0.0, (now - heard[0]) * 1e-9):.2f}'
            level, message = (WARN, 'silent') if device in silent and not self.lockstep else (OK, 'ok')
            if level == WARN and device == JOY and TWIST not in silent:
                message = 'the SpaceMouse tells its buttons when one changes; press the right one and let go of it'
                level = OK if heard is None else WARN
            if device in self._invalid:
                level, message = WARN, 'sends what is no number, so it counts as silent; check its driver'
            self.report(device, level, message, age_s=age)
        self.report('glove message', WARN if self._refused else OK, self._refused or 'ok')


def main() -> None:
    """Entry point."""
    run_node(Teleop)


if __name__ == '__main__':
    main()
