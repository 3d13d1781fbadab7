"""The hand: hand/command in, hand/joint_states out, both in normalised travel."""

import time
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from dex_rl_nodes.config import is_simulated
from dex_rl_nodes.descriptions import HAND_COMMAND, HAND_JOINTS
from dex_rl_nodes.drivers.hand import JOINTS, Hand, HandController, HandSettings, InspireHand, RuiyanHand
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, Node
from dex_rl_nodes.robot import hand_model
from dex_rl_nodes.robot.urdf import hand_urdf

MODELS = {'ruiyan': RuiyanHand, 'inspire': InspireHand}
_STALE = 0.1  # s; feedback counts only when every motor answered within it


class HandDriver(Node):
    """Exchanges with the hand at a fixed rate. Does not move it before a command comes."""

    def __init__(self, **options: Any) -> None:
        super().__init__('hand_driver', **options)
        settings = device_settings(self.robot).hand
        self._settings = settings
        self._refused = 0
        self._exchanges = 0
        port = self.setting('port') or settings.port
        hand = HandSettings(
            port, settings.baud, settings.speed, settings.current, hand_id=settings.hand_id, force=settings.force
        )

        def connect() -> Hand:
            return MODELS[settings.model](hand)

        patience = self.setting('start_deadline')
        self._controller = HandController(connect, settings.largest_step, settings.command_timeout, patience=patience)
        self.subscribe(HAND_COMMAND, self._command)
        self.advertise(HAND_JOINTS)
        self._describes = not is_simulated(self.setting('robot'))  # a simulation says itself what it looks like
        if self._describes:
            self.advertise('joint_states', 'hand_description')
            self.publish('hand_description', String(data=hand_urdf()))
        self._controller.cycle(time.monotonic())
        self._reported = time.monotonic()
        self.create_timer(1 / settings.rate, self._cycle)

    def _command(self, message: JointState) -> None:
        try:
            self._controller.command(conversions.joint_positions(message, JOINTS), time.monotonic())
        except ValueError as error:
            self._refused += 1
            self.get_logger().warning(f'hand command refused: {error}', throttle_duration_sec=1.0)

    def _cycle(self) -> None:
        now = time.monotonic()
        reading = self._controller.cycle(now)
        if reading is None:
            return
        self._exchanges += 1
        stamp = self.get_clock().now().nanoseconds  # first: ages are those of the stamp or more
        if np.all(reading.age(time.monotonic()) < _STALE):
            message = conversions.joint_state(JOINTS, reading.position, stamp)
            message.effort = (self._settings.current_unit * reading.current).tolist()  # A
            self.publish(HAND_JOINTS, message)
            if self._describes:
                angles = hand_model.joint_angles(reading.position)
                self.publish('joint_states', conversions.joint_state(hand_model.JOINT_NAMES, angles, stamp))

    def diagnose(self) -> None:
        """Rate of the bus, age per motor, faults."""
        now = time.monotonic()
        rate, self._exchanges = self._exchanges / max(now - self._reported, 1e-3), 0
        self._reported = now
        controller = self._controller
        values = {'rate (Hz)': rate, 'reconnections': controller.reconnections, 'commands refused': self._refused}
        if controller.hand is not None:
            ages = controller.hand.reading.age(now)
            values |= {'baud': controller.hand.baud, 'readings not believed': controller.hand.reading.doubted}
            values |= {f'{joint} age (s)': float(age) for joint, age in zip(JOINTS, ages)}
            values |= {'fault': '; '.join(f'{joint} {fault}' for joint, fault in controller.hand.faults().items())}
        if controller.problem:
            self.report('hand', ERROR, controller.problem, **values)
        else:
            self.report('hand', **values)

    def close(self) -> None:
        """The hand stays where it is, and does not go on pressing towards a target ahead of it."""
        self._controller.close()


def main() -> None:
    """Entry point."""
    run_node(HandDriver)


if __name__ == '__main__':
    main()
