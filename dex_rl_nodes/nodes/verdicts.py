"""Verdicts on ticks and what a person marks, brought together although topics overtake each other."""

from collections import deque

from dex_rl_nodes.records import Mark, PolicyStep, Reward, TeleopCommand


class Verdicts:
    """What is to be judged, tick by tick.

    Args:
        in_step: a mark belongs to the tick with its stamp; otherwise to the next one that is judged.
        operated: a tick is judged when the operator's command of its stamp has come.
    """

    def __init__(self, in_step: bool, operated: bool):
        self._in_step, self._operated = in_step, operated
        self._waiting: deque[PolicyStep | Reward] = deque()
        self.marks: deque[tuple[int, Mark]] = deque()  # with their stamps
        self.clear()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def discarded(self) -> bool:
        """Whether a person has discarded the episode, and no tick was judged since."""
        return any(mark == Mark.DISCARD for _, mark in self.marks)

    def clear(self) -> None:
        """A new episode begins."""
        self._waiting.clear()
        self.marks.clear()
        self.heard = -1  # stamp of the operator's newest command
        self.judged = -1  # newest tick that was judged

    def add(self, verdict: PolicyStep | Reward) -> bool:
        """Keep the verdict on a tick; False for one that was known."""
        if verdict.step <= (self._waiting[-1].step if self._waiting else self.judged):
            return False
        self._waiting.append(verdict)
        return True

    def hear(self, teleop: TeleopCommand, valid: tuple[Mark, ...]) -> None:
        """The operator's command of a tick, with its mark if that is a valid one."""
        if teleop.mark in valid:
            self.marks.append((teleop.stamp, teleop.mark))
        self.heard = teleop.stamp

    def pop(self) -> tuple[PolicyStep | Reward, Mark] | None:
        """The next tick of which everything has come, and the newest mark that belongs to it."""
        if not self._waiting or (self._operated and self.heard < self._waiting[0].stamp):
            return None
        verdict, mark = self._waiting.popleft(), Mark.NONE
        while self.marks and (not self._in_step or self.marks[0][0] <= verdict.stamp):
            _, mark = self.marks.popleft()
        self.judged = verdict.step
        return verdict, mark
