"""The gate every command passes first: size, finiteness, range, and time.

Stamps are those of the control tick, in nanoseconds; `now` is a clock comparable with them (ROS time; in lockstep the
tick itself).
"""

import math

import numpy as np

from dex_rl_nodes.records import ARM_DIM, HAND_DIM, ActionCommand
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.limits import TimingLimits

IMPLAUSIBLE = 10.0  # units; a policy plus its residual stays within 2, so beyond this the sender is broken
VALUE_PROBLEMS = (SafetyEvent.COMMAND_NOT_FINITE, SafetyEvent.COMMAND_WRONG_SIZE, SafetyEvent.COMMAND_IMPLAUSIBLE)


class CommandGate:
    """Decides whether a command is executed (None), held or refused (the event says why).

    Commands may come irregularly, but not more often than the control rate in the long run, or every step being within
    its limit would not bound the velocity: each command puts off the next one by a period, less a tolerance.
    """

    def __init__(self, timing: TimingLimits, period: float):
        self._future = int(timing.future * 1e9)
        self._stale = int(timing.stop_periods * period * 1e9)
        self._period = int(period * 1e9)
        self._tolerance = int(timing.early_fraction * period * 1e9)
        self.reset(0)

    def reset(self, stamp: int) -> None:
        """An episode begins: commands before its first tick are leftovers of the previous one."""
        self._last = stamp - 1
        self._due = stamp

    def refuse(self, command: ActionCommand, now: int) -> SafetyEvent | None:
        """Event when the command must be ignored altogether: it belongs to no new tick."""
        if command.stamp == self._last:
            return SafetyEvent.COMMAND_REPEATED
        if command.stamp < self._last:
            return SafetyEvent.COMMAND_OUT_OF_ORDER
        if command.stamp > now + self._future:
            return SafetyEvent.COMMAND_FROM_FUTURE
        return None

    def hold(self, command: ActionCommand, now: int) -> SafetyEvent | None:
        """Event when the tick counts but its command must not move the robot. Call once per tick not refused."""
        self._last = command.stamp
        if command.stamp < self._due - self._tolerance:
            return SafetyEvent.COMMAND_BURST
        self._due = max(self._due, command.stamp) + self._period
        if now - command.stamp > self._stale:
            return SafetyEvent.COMMAND_STALE
        return check_values(command)


def check_values(command: ActionCommand) -> SafetyEvent | None:
    """Event when the numbers of a command cannot be meant."""
    try:
        arm, hand = np.asarray(command.arm, np.float64), np.asarray(command.hand, np.float64)
    except (TypeError, ValueError):
        return SafetyEvent.COMMAND_WRONG_SIZE
    if arm.shape != (ARM_DIM,) or hand.shape != (HAND_DIM,):
        return SafetyEvent.COMMAND_WRONG_SIZE
    numbers = arm.tolist() if command.hold_hand else arm.tolist() + hand.tolist()
    if not all(map(math.isfinite, numbers)):
        return SafetyEvent.COMMAND_NOT_FINITE
    return SafetyEvent.COMMAND_IMPLAUSIBLE if max(map(abs, numbers)) > IMPLAUSIBLE else None
