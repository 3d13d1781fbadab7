"""The command mux: who moves the robot in this tick, within which limits, and what was executed in the end.

Takeover (LAMP, appendix D): SpaceMouse motion replaces the arm command; while its right button is held the hand follows
the glove as a change from where the hand was when the button went down; otherwise the policy's hand command is left
alone. Every source passes the same filter from the same executed targets, so taking over and handing back never moves a
target by more than one tick's limit.
"""

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.records import (
    ARM_DIM,
    HAND_DIM,
    ActionCommand,
    ArmState,
    ExecutedAction,
    RobotReading,
    Source,
    TeleopCommand,
)
from dex_rl_nodes.robot import arm_state
from dex_rl_nodes.robot.events import EventLog, Reaction, SafetyEvent
from dex_rl_nodes.robot.gate import VALUE_PROBLEMS, CommandGate
from dex_rl_nodes.robot.limits import Limits
from dex_rl_nodes.robot.safety import SafetyFilter, Step
from dex_rl_nodes.robot.units import join_action
from dex_rl_nodes.robot.watchdog import Watchdog

_ARM_STATE_AGE = 1.0  # s; it comes ten times a second


class CommandMux:
    """Arbiter and safety supervisor; the only place that decides a target of the robot."""

    def __init__(self, robot: Robot, task: Task, limits: Limits | None = None):
        """Raises UserError when the limits of the robot make no sense."""
        self.log = EventLog()
        self.filter = SafetyFilter(robot, task, self.log, limits)
        self.limits = self.filter.limits
        self.watch = Watchdog(self.limits.timing, self.log)
        self._gate = CommandGate(self.limits.timing, self.filter.period)
        self._patience = int(self.limits.timing.stop_periods * self.filter.period * 1e9)  # with bad commands, ns
        self._teleop_age = int(self.limits.timing.teleop_age * 1e9)
        self._stop: tuple[SafetyEvent, str] | None = None
        self._called_off = False  # a stop has ended this episode, released or not
        self._ready = False
        self._blind = False  # in a reset nothing depends on the cameras
        self.disbelieved = ''  # why the newest reading is not believed; empty when it is
        self._operator_lost = False  # a device fell silent in the hands of a person who moves the robot
        self.problem: SafetyEvent | None = None  # why the last command was refused or held
        self._reading: RobotReading | None = None

    def reset(self, reading: RobotReading, hand_target: np.ndarray, stamp: int, called_off: bool = False) -> bool:
        """Begin an episode: targets at the measured pose and the start hand; commands before `stamp` are refused.

        A latched stop stays latched. False when reading or hand target cannot be true: the episode has not begun, and
        `step` must wait for a reset with a later reading.

        Args:
            called_off: a stop was latched in this episode before it could begin, so it stands still to its end.
        """
        self._ready = self.filter.reset(reading, hand_target)
        if not self._ready:
            self.disbelieved = self.log.details[SafetyEvent.READING_INVALID]
            return False
        self._gate.reset(stamp)
        self._operator_lost = self._hand_is_back = False
        self.see_again()
        self.disbelieved = ''
        self._reading, self._called_off = reading, called_off or self.stopped
        self._operator = Source.POLICY
        self._hand_base = self.filter.hand_target
        self._resting, self._held, self._moved_at = False, False, stamp
        return True

    def see_again(self) -> None:
        """An episode begins: cameras that repeat a picture hold it."""
        self._blind = False

    def hear_arm(self, state: ArmState, now: int) -> tuple[SafetyEvent, str] | None:
        """Take note of what the arm says about itself (monotonic `now`, ns): why it may not be moved, or None.

        Nothing begins to move while there is a reason, and none of it may fall silent once it was heard.
        """
        found = arm_state.problem(state)
        self.watch.watch('arm_state', SafetyEvent.ARM_STATE_SILENT, _ARM_STATE_AGE, now)
        self.watch.fault('arm_state', found)
        return found

    def begin_reset(self, reading: RobotReading, stamp: int) -> bool:
        """Begin to follow reset commands: targets where the robot is measured. False while stopped, and as `reset`.

        Cameras that repeat a picture hold nothing then.
        """
        self._blind = self._stop is None and self.reset(reading, reading.hand, stamp)
        return self._blind

    def step(
        self, command: ActionCommand, teleop: TeleopCommand | None, reading: RobotReading, now: int | None = None
    ) -> ExecutedAction | None:
        """Execute one tick.

        Args:
            command: what the policy wants.
            teleop: what the operator's devices say, None without any.
            reading: what arm and hand report.
            now: ns, on the clock of the stamps; the reading's stamp without it.

        Returns:
            What was executed, or None when the command belongs to no new tick (repeated, out of order, from the
            future).
        """
        if not self._ready:
            raise RuntimeError('CommandMux.reset must be called before step')
        now = reading.stamp if now is None else now
        self.problem = self._gate.refuse(command, now)
        if self.problem:
            self.log.add(self.problem)
            return None
        self.problem = problem = self._gate.hold(command, now)
        if problem:
            self.log.add(problem)
        trusted = self._believe(reading)
        source, arm, hand, self._operator_lost = self._arbitrate(command, teleop, now, problem is not None)
        if source != Source.POLICY and problem in VALUE_PROBLEMS:
            # a person drives; what of the command would be used beside that stands still
            self.problem = problem = None
        causes = [event for event, _ in self.causes if event != SafetyEvent.COMMAND_SILENT]
        must_hold = bool(self._called_off or causes)
        if must_hold or problem or not trusted:
            must_hold = must_hold or now - self._moved_at >= self._patience
            step = self._rest(reading if trusted else None, must_hold)
            source = Source.POLICY  # standing still is nothing a person did, and nothing to learn from as if
        else:
            self._resting = self._held = False
            self._moved_at = now
            step = self.filter.move(arm, hand, reading)
        return self._executed(command, step, source)

    def _rest(self, reading: RobotReading | None, must_hold: bool) -> Step:
        """A tick without motion. A hold takes the measured pose as target, once; else the target stays."""
        self._resting = True
        if not must_hold or self._held or reading is None:
            return self.filter.freeze()
        self._held = True
        return self.filter.hold(reading)

    def _arbitrate(
        self, command: ActionCommand, teleop: TeleopCommand | None, now: int, command_invalid: bool
    ) -> tuple[int, np.ndarray, np.ndarray, bool]:
        """Source, arm (6) and hand (6) of this tick, and whether a person was in control and fell silent."""
        hand_now = self.filter.hand_target
        held, self._operator = self._operator, Source.POLICY
        if command_invalid:
            arm, hand = np.zeros(ARM_DIM, np.float32), hand_now
        else:
            arm, hand = command.arm, hand_now if command.hold_hand else command.hand
        if teleop is not None and not _well_formed(teleop):
            self.log.add(SafetyEvent.TELEOP_INVALID)
            teleop = None
        if teleop is None or now - teleop.stamp > self._teleop_age:
            if held:
                self.log.add(SafetyEvent.TELEOP_SILENT)
                self._operator = held
            return Source.POLICY, arm, hand, bool(held)
        source = Source.POLICY
        if teleop.arm_active:
            source, arm = source | Source.ARM, np.asarray(teleop.arm, np.float32)
        if teleop.hand_active:
            delta = np.asarray(teleop.hand_delta, np.float32)
            if not held & Source.HAND:
                self._hand_base = hand_now
            elif self._hand_is_back:
                self._hand_base = hand_now - delta
            source |= Source.HAND
            hand = np.clip(self._hand_base + delta, 0.0, 1.0)
        self._hand_is_back = False
        self._operator = source
        return source, arm, hand, False

    def _executed(self, command: ActionCommand, step: Step, source: int) -> ExecutedAction:
        return ExecutedAction(
            stamp=command.stamp,
            episode=command.episode,
            step=command.step,
            action=join_action(step.arm, step.hand),
            hand_target=step.hand,
            target_pose=self.filter.target_pose.astype(np.float32),
            source=source,
            limited=step.limited,
            stopped=self._called_off,
        )

    def observe(self, reading: RobotReading) -> None:
        """Take note of a reading between two ticks, so that a hold happens where the arm is now."""
        if self._ready:
            self._believe(reading)

    def _believe(self, reading: RobotReading) -> bool:
        problem = self.filter.doubt(reading)
        self.disbelieve(problem)
        if not problem:
            self._reading = reading
        return not problem

    def disbelieve(self, problem: str) -> None:
        """Note why a reading is not believed; empty: it is."""
        self.disbelieved = problem
        if problem:
            self.log.add(SafetyEvent.READING_INVALID, problem)

    def hold(self) -> None:
        """Stop the arm at the last trusted measured pose, or, when it does not report, at its target."""
        arm_silent = any(event == SafetyEvent.ARM_SILENT for event, _ in self.watch.causes())
        self.filter.hold(None if arm_silent else self._reading)
        self._resting, self._held = True, not arm_silent

    def watchdog(self, now: int) -> list[tuple[SafetyEvent, str]]:
        """What has just fallen silent (monotonic `now`, ns); the arm holds when it depends on it. Call at 50 Hz."""
        fallen = self.watch.check(now)
        if self._ready and any(event.reaction >= Reaction.HOLD for event, _ in fallen):
            self.hold()
        return fallen

    def stop(self, event: SafetyEvent, detail: str = '') -> None:
        """Latch a stop: nothing moves until `reset_stop`, and then not before the next episode."""
        if self._stop is None:
            self._stop, self._called_off = (event, detail), True
            self.log.add(event, detail)
            if self._ready:
                self.hold()

    def take_hand(self, reading: RobotReading) -> None:
        """The hand replies again: it goes on from where it is, and not from the target that it had."""
        if self._ready:
            self.filter.take_hand(reading)
            self._hand_is_back = True

    def let_go_of_hand(self) -> None:
        """The hand button was released, if only between two ticks: pressed again, it begins where the hand is then."""
        if self._ready:
            self._operator &= ~Source.HAND

    def reset_stop(self) -> None:
        """Release a latched stop; the targets are where the arm is."""
        if self._stop is not None and self._ready:
            self.hold()
        self._stop = None

    @property
    def resting(self) -> bool:
        """Whether the robot was not moved in the last tick, whatever was asked for."""
        return self._resting

    @property
    def operator_active(self) -> bool:
        """Whether a person was in control in the last tick."""
        return self._operator != Source.POLICY

    @property
    def stopped(self) -> bool:
        """Whether a stop is latched."""
        return self._stop is not None

    @property
    def stop_reason(self) -> str:
        """One sentence about the latched stop; empty without one."""
        return self._stop[0].sentence(self._stop[1]) if self._stop else ''

    @property
    def causes(self) -> list[tuple[SafetyEvent, str]]:
        """Why the robot is held now, but for a stop: event and the name of the thing."""
        lost = [(SafetyEvent.TELEOP_SILENT, 'while a person was moving the robot')] if self._operator_lost else []
        return self.watch.causes(cameras=not self._blind) + lost

    @property
    def explanations(self) -> list[tuple[SafetyEvent, str]]:
        """What a person is told about a robot that does not move: the causes, and a reading that is not believed."""
        doubt = [(SafetyEvent.READING_INVALID, self.disbelieved)] if self.disbelieved else []
        return self.causes + doubt

    @property
    def holding(self) -> list[tuple[SafetyEvent, str]]:
        """Why the robot may not move now: event and the name of the thing."""
        return ([self._stop] if self._stop else []) + self.causes

    @property
    def target_pose(self) -> np.ndarray:
        """Executed TCP target (7,), base frame, m and x, y, z, w."""
        return self.filter.target_pose

    @property
    def hand_target(self) -> np.ndarray:
        """Executed hand target (6,) float32, normalised travel."""
        return self.filter.hand_target


def _well_formed(teleop: TeleopCommand) -> bool:
    arm, delta = np.asarray(teleop.arm), np.asarray(teleop.hand_delta)
    return (
        arm.shape == (ARM_DIM,)
        and delta.shape == (HAND_DIM,)
        and bool(np.isfinite(arm).all() and np.isfinite(delta).all())
    )
