"""The SpaceMouse through hidraw, with the topics of the spacenav package. Silent while the device is absent."""

from typing import Any

from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy

from dex_rl_nodes.descriptions import JOY, TWIST
from dex_rl_nodes.drivers.devices import Reconnecting, SpaceMouseReader, find_spacemouse
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.drivers.spacemouse import ros_axes
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, OK, Node
from dex_rl_nodes.robot.teleop import read_teleop


class SpaceMouseDriver(Node):
    """Publishes the newest state of the device at a fixed rate."""

    def __init__(self, **options: Any) -> None:
        super().__init__('spacemouse_driver', **options)
        settings = device_settings(self.robot).spacemouse
        path = self.setting('port') or settings.path
        dead_zone = read_teleop(self.robot).dead_zone
        self._mouse = Reconnecting(lambda: SpaceMouseReader(path or find_spacemouse()[0], dead_zone=dead_zone))
        self._published, self._buttons_known = 0, False
        self.advertise(TWIST, JOY)
        self.create_timer(1 / settings.rate, self._publish_state)

    def _publish_state(self) -> None:
        state = self._mouse.read()
        if state is None:
            return
        self._published += 1
        axes = ros_axes(state.axes).tolist()
        twist = TwistStamped()
        twist.header.stamp = conversions.time_message(self.get_clock().now().nanoseconds)
        twist.header.frame_id = self.robot.base_frame
        linear, angular = twist.twist.linear, twist.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = axes
        self.publish(TWIST, twist)
        self._buttons_known = state.buttons is not None
        if self._buttons_known:  # to say that none is pressed would let go of a hand that a person holds
            self.publish(JOY, Joy(header=twist.header, axes=axes, buttons=[int(pressed) for pressed in state.buttons]))

    def diagnose(self) -> None:
        """Presence and rate."""
        rate, self._published = self._published, 0
        values = {'rate (Hz)': float(rate), 'reconnections': max(self._mouse.reconnections, 0)}
        if rate:
            told = 'ok' if self._buttons_known else 'ok; its buttons are known once one has changed'
            self.report('spacemouse', OK, told, **values)
        else:
            silent = 'it says nothing while it is pushed; look at its battery and its receiver'
            problem = self._mouse.problem or (silent if self._mouse.device else 'not read yet')
            self.report('spacemouse', ERROR, problem, **values)

    def close(self) -> None:
        """Give the device back."""
        self._mouse.close()


def main() -> None:
    """Entry point."""
    run_node(SpaceMouseDriver)


if __name__ == '__main__':
    main()
