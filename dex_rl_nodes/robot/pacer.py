"""When the command of a tick leaves, in real time: on the beat of the ticks, not when its computation is ready."""


class CommandPacer:
    """Delays commands to a fixed time after the beat of the ticks, so that the robot hears them at even intervals.

    The beat follows the stamps of the ticks slowly: a frame that was taken or computed late does not move it. A command
    that is ready too late leaves at once.

    Args:
        period: control period (ns).
        delay: from a tick's place in the beat to its command (ns); what most computations need.
    """

    _FOLLOW = 8  # share of a tick's deviation that moves the beat: one in this many

    def __init__(self, period: int, delay: int):
        self._period = period
        self._delay = delay
        self._beat: int | None = None  # where the newest tick belongs (ns)

    def restart(self) -> None:
        """An episode begins: the next tick sets the beat."""
        self._beat = None

    def due(self, stamp: int) -> int:
        """When the command of a tick shall leave (ns, on the clock of the stamps).

        Args:
            stamp: of the tick; ticks in order.
        """
        if self._beat is None:
            self._beat = stamp
        else:
            expected = self._beat + max(1, round((stamp - self._beat) / self._period)) * self._period
            late = stamp - expected
            if abs(late) > self._period // 2:
                self._beat = stamp  # the clock was set, or there was a gap: the beat starts anew
            else:
                self._beat = expected + late // self._FOLLOW
        return self._beat + self._delay

    def wait(self, stamp: int, now: int) -> float:
        """Seconds from `now` until the command of a tick shall leave: between 0 and the delay."""
        return min(max(self.due(stamp) - now, 0), self._delay) * 1e-9
