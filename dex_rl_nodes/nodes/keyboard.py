"""Marks and stop from a keyboard, for people without the buttons of a SpaceMouse.

Marks are the message of those buttons, on a topic of its own; a stop is a call of command_mux/stop.
"""

from typing import Any

from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from dex_rl_nodes.descriptions import KEYBOARD
from dex_rl_nodes.drivers.keyboard import Terminal
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.node import Node, run_node
from dex_rl_nodes.records import Mark
from dex_rl_nodes.robot.teleop import read_teleop

KEYS = {'s': Mark.SUCCESS, 'f': Mark.FAILURE, 'd': Mark.DISCARD, 'p': Mark.PAUSE}
_STOP, _STOP_SERVICE = ' ', 'command_mux/stop'
_PERIOD = 0.05  # s
_RELEASE = 'command_mux/reset_stop std_srvs/srv/Trigger'
_ANSWER = 1.0  # s


class Keyboard(Node):
    """Publishes a press and a release for every key that marks; the space bar stops the robot."""

    def __init__(self, descriptor: int = 0, **options: Any) -> None:
        super().__init__('keyboard', **options)
        self._buttons = {mark: index for index, mark in read_teleop(self.robot).mark_buttons.items()}
        self.advertise(KEYBOARD)
        self._stop_client = self.client(_STOP_SERVICE)
        self._terminal = Terminal(descriptor)
        self._begun = False
        self.every(_PERIOD, self._read)

    def _read(self) -> None:
        if not self._begun:  # not before the node is made: only from then on is it closed however it ends
            self._begun = True
            self._terminal.begin()
            marks = ', '.join(f'{key} {mark.name.lower()}' for key, mark in KEYS.items())
            self._say(f'space stops the robot, {marks}, q ends this program')
        try:
            keys = self._terminal.read()
        except LinkLost:
            self.finish()
            return
        for key in keys.lower():
            if key == _STOP:
                self._stop()
            elif key == 'q':
                self.finish()
            elif key in KEYS:
                self._mark(KEYS[key])

    def _stop(self) -> None:
        if not self._stop_client.service_is_ready():
            self._say(f'nobody offers {_STOP_SERVICE}; use the stop of the arm')
            return
        self.wait_for(f'the answer of {_STOP_SERVICE}', _ANSWER, 'use the stop of the arm')
        self.ask(self._stop_client, Trigger.Request(), self._stopped)

    def _stopped(self, answer: Any) -> None:
        self.arrived(f'the answer of {_STOP_SERVICE}')
        self._say(f'{answer.message}; release it with: ros2 service call {_RELEASE}')

    def _mark(self, mark: Mark) -> None:
        if mark not in self._buttons:
            self._say(
                f'no button means {mark.name.lower()} in config/robots/{self.robot.name}.yaml (teleop.mark_buttons)'
            )
            return
        if not self.count_subscribers(KEYBOARD):
            self._say('nobody listens; is a graph without lockstep running in this ROS_DOMAIN_ID and namespace?')
            return
        pressed = [0] * (max(self._buttons.values()) + 1)
        released = list(pressed)
        pressed[self._buttons[mark]] = 1
        for buttons in (pressed, released):
            message = Joy(buttons=buttons)
            message.header.stamp = conversions.time_message(self.get_clock().now().nanoseconds)
            self.publish(KEYBOARD, message)
        self._say(mark.name.lower())

    def _say(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """The terminal is as it was before."""
        self._terminal.close()


def main() -> None:
    """Entry point."""
    run_node(Keyboard)


if __name__ == '__main__':
    main()
