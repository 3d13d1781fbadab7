"""Marks and stop from a keyboard, for people without the buttons of a SpaceMouse.

Marks are the message of those buttons, on a topic of its own; the rest are services, so that every key means one thing,
whatever was done before.
"""

import time
from typing import Any

from sensor_msgs.msg import Joy
from std_srvs.srv import SetBool, Trigger

from dex_rl_nodes.descriptions import KEYBOARD
from dex_rl_nodes.drivers.keyboard import Terminal
from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.records import Mark
from dex_rl_nodes.robot.teleop import KEY_MARKS

KEYS = {'s': Mark.SUCCESS, 'f': Mark.FAILURE, 'd': Mark.DISCARD}
SERVICES = {
    ' ': ('command_mux/stop', Trigger.Request()),
    'r': ('command_mux/reset_stop', Trigger.Request()),
    'p': ('episode_manager/pause', SetBool.Request(data=True)),
    'g': ('episode_manager/pause', SetBool.Request(data=False)),
}
_BUTTONS = {mark: index for index, mark in KEY_MARKS.items()}
_PERIOD = 0.05  # s
_ANSWER = 1.0  # s


class Keyboard(Node):
    """Publishes a press and a release for every key that marks; the space bar stops the robot, r releases the stop."""

    def __init__(self, descriptor: int = 0, **options: Any) -> None:
        super().__init__('keyboard', **options)
        self.advertise(KEYBOARD)
        self._by_service = {service: self.client(service) for service, _ in SERVICES.values()}
        self._terminal = Terminal(descriptor)
        self._unanswered: dict[str, float] = {}  # services that were called, and until when they have time (monotonic)
        self._begun = False
        self.every(_PERIOD, self._read)

    def _read(self) -> None:
        if not self._begun:  # not before the node is made: only from then on is it closed however it ends
            self._begun = True
            self._terminal.begin()
            marks = ', '.join(f'{key} {mark.name.lower()}' for key, mark in KEYS.items())
            self._say(f'space stops the robot, r releases the stop, p pauses, g goes on, {marks}, q ends this program')
        try:
            keys = self._terminal.read()
        except LinkLost:
            self.finish()
            return
        now = time.monotonic()
        for service in [service for service, due in self._unanswered.items() if now > due]:
            del self._unanswered[service]
            self._say(f'{service} did not answer within {_ANSWER:g} s; use the stop of the arm')
        for key in keys.lower():
            if key in SERVICES:
                self._call(key)
            elif key == 'q':
                self.finish()
            elif key in KEYS:
                self._mark(KEYS[key])

    def _call(self, key: str) -> None:
        service, request = SERVICES[key]
        client = self._by_service[service]
        if not client.service_is_ready():
            self._say(f'nobody offers {service}; use the stop of the arm')
            return
        self._unanswered[service] = time.monotonic() + _ANSWER

        def answered(answer: Any) -> None:
            self._unanswered.pop(service, None)
            self._say(answer.message)

        self.ask(client, request, answered)

    def _mark(self, mark: Mark) -> None:
        if not self.count_subscribers(KEYBOARD):
            self._say('nobody listens; is a graph without lockstep running in this ROS_DOMAIN_ID and namespace?')
            return
        pressed = [0] * (max(KEY_MARKS) + 1)
        released = list(pressed)
        pressed[_BUTTONS[mark]] = 1
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
