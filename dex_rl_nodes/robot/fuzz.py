"""Hostile commands against the command mux.

The oracle is asked twice per command which limits it violates: about what was executed (must be none) and about what
was asked for (if none, it must have been executed bit by bit).
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Robot, Task, load_robot, load_task
from dex_rl_nodes.records import ActionCommand, ExecutedAction, RobotReading, TeleopCommand
from dex_rl_nodes.robot import kinematics, rotations
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.limits import Limits
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.oracle import Motion, Oracle

_EPISODE = 400  # commands between two resets
_TIGHT = {
    'arm': {
        'translation_velocity': 0.15,
        'translation_acceleration': 0.7,
        'rotation_velocity': 0.6,
        'rotation_acceleration': 3.0,
        'leash_translation': 0.02,
        'leash_rotation': 0.08,
        'table_clearance': 0.45,
        'joint_margin': 0.3,
    },
    'hand': {'low': [0.1] * 6, 'high': [0.9] * 6, 'step': 0.2, 'velocity': 1.5, 'acceleration': 8.0},
}
_START = np.array([0.0, -0.55, 0.0, -2.35, 0.0, 1.85, math.pi / 4])


class _Plant:
    """An arm that follows its target with lag, is pushed now and then, and a reading that sometimes lies."""

    def __init__(self, rng: np.random.Generator, task: Task):
        self._rng = rng
        self.joints = _START + rng.uniform(-0.15, 0.15, 7)
        self.hand = np.array(task.start.hand)
        self.stamp = 0

    def pose(self) -> np.ndarray:
        frame = kinematics.forward(self.joints)
        return np.concatenate([frame[:3, 3], rotations.from_matrix(frame[:3, :3])])

    def follow(self, target: np.ndarray, hand: np.ndarray, limits: Limits) -> None:
        pose = self.pose()
        error = np.concatenate([target[:3] - pose[:3], rotations.difference(target[3:], pose[3:])])
        if self._rng.random() < 0.01:
            error += self._rng.normal(0.0, 0.05, 6)
        motion = kinematics.joint_motion(kinematics.jacobian(self.joints, pose[:3]), 0.7 * error)
        self.joints = np.clip(self.joints + np.clip(motion, -0.3, 0.3), limits.arm.joint_low, limits.arm.joint_high)
        self.hand = self.hand + 0.7 * (hand - self.hand)

    def reading(self, hostile: float) -> tuple[RobotReading, bool]:
        """The reading, which lies with the given probability, and whether it is honest."""
        current = np.where(self._rng.random(6) < 0.02, 1.2, 0.3).astype(np.float32)
        reading = RobotReading(self.stamp, self.pose(), self.hand.astype(np.float32), current, self.joints.copy())
        if self._rng.random() >= hostile:
            return reading, True
        kind = self._rng.integers(6)
        if kind == 0:
            reading.tcp_pose[self._rng.integers(7)] = np.nan
        elif kind == 1:
            reading.tcp_pose[3:] = 0.0
        elif kind == 2:
            reading.tcp_pose[:3] += 5.0
        elif kind == 3:
            reading.hand = np.full(6, np.inf, np.float32)
        elif kind == 4:
            reading.hand_current[self._rng.integers(6)] = np.nan
        else:
            reading.joint_position = np.zeros(3)
        return reading, False


_VALUES = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 11.0, -1e-45, 1.0, -1.0, 0.0, 1.0000001, 3.0], np.float32)


class _Sender:
    """Draws commands: legal ones, ones at the corners of what is legal, and hostile ones."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._operated = False

    def command(self, stamp: int, hand: np.ndarray, lastly: int) -> tuple[ActionCommand, bool]:
        """A command for the tick at `stamp`, and whether stamp and values are in order."""
        rng, kind = self._rng, self._rng.random()
        arm = rng.uniform(-1, 1, 6).astype(np.float32)
        target = np.clip(hand + rng.uniform(-0.25, 0.25, 6), 0, 1).astype(np.float32)
        if kind < 0.35:
            arm *= np.float32(0.15)
            target = np.clip(hand + rng.uniform(-0.07, 0.07, 6), 0, 1).astype(np.float32)
        elif kind < 0.45:
            arm, target = np.sign(arm), np.round(target)
        command = ActionCommand(stamp, 0, 0, arm, target, hold_hand=bool(rng.random() < 0.1))
        if kind < 0.7:
            return command, True
        self._spoil(command, lastly)
        return command, False

    def _spoil(self, command: ActionCommand, lastly: int) -> None:
        rng = self._rng
        kind = rng.integers(9)
        if kind < 2:
            command.arm[rng.integers(6)] = rng.choice(_VALUES)
            command.hand[rng.integers(6)] = rng.choice(_VALUES)
        elif kind == 2:
            command.arm = rng.uniform(-1e9, 1e9, 6).astype(np.float32)
        elif kind == 3:
            command.hand = rng.uniform(-1, 1, rng.integers(0, 13)).astype(np.float32)
        elif kind == 4:
            command.arm = rng.uniform(-1, 1, (rng.integers(0, 3), 6)).astype(np.float32)
        elif kind == 5:
            command.stamp = lastly - int(rng.integers(0, 3_000_000_000))
        elif kind == 6:
            command.stamp = lastly + int(rng.integers(0, 40_000_000))
        elif kind == 7:
            command.stamp -= 250_000_000
        else:
            command.stamp += int(rng.choice([-(10**9), 10**9, 3600 * 10**9, 10**17, -(10**17)]))

    def teleop(self, now: int) -> tuple[TeleopCommand | None, bool]:
        """What the operator does, and whether it is nothing; people come and go, and their devices break."""
        rng = self._rng
        if rng.random() < (0.03 if self._operated else 0.01):
            self._operated = not self._operated
        if not self._operated:
            return (None if rng.random() < 0.5 else TeleopCommand(now)), True
        arm = np.sign(rng.normal(size=6)).astype(np.float32)
        delta = rng.uniform(-1, 1, 6).astype(np.float32)
        teleop = TeleopCommand(now, bool(rng.random() < 0.8), arm, bool(rng.random() < 0.5), delta)
        kind = rng.random()
        if kind < 0.05:
            teleop.arm[rng.integers(6)] = rng.choice(_VALUES)
        elif kind < 0.1:
            teleop.hand_delta = rng.choice(_VALUES, rng.integers(0, 9))
        elif kind < 0.15:
            teleop.stamp -= int(rng.integers(0, 10**9))
        return teleop, False


@dataclass
class _Tally:
    violations: Counter
    wrongly_held: int = 0
    legal: int = 0
    executed: int = 0
    handovers: int = 0  # takeovers and hand-backs
    largest_handover: float = 0.0  # step in such a tick, as a share of the largest one allowed


class _Trial:
    """One robot configuration under fire."""

    def __init__(self, robot: Robot, task: Task, rng: np.random.Generator, tally: '_Tally'):
        self._task, self._rng, self._tally = task, rng, tally
        self.mux = CommandMux(robot, task)
        self._oracle, self._sender = Oracle(robot, task, self.mux.limits), _Sender(rng)
        self._period = round(1e9 / robot.control_rate)
        self._plant, self._last = _Plant(rng, task), 0
        self._over = False  # a stop has ended the episode, released or not

    def reset(self, stamp: int) -> None:
        """Begin an episode; robot and episode_manager may lie until the mux believes them."""
        self._plant = _Plant(self._rng, self._task)
        self._plant.stamp = self._last = stamp
        self._over = self.mux.stopped
        for hostile in (*(0.5,) * 4, 0.0):
            reading, honest = self._plant.reading(hostile)
            hand = self._plant.hand.copy()
            if self._rng.random() < hostile:
                hand[self._rng.integers(6)] = self._rng.choice(_VALUES)
            begun, credible = self.mux.reset(reading, hand, stamp), honest and bool(np.isfinite(hand).all())
            self._tally.violations['began with what cannot be'] += begun and not credible
            self._tally.wrongly_held += credible and not begun
            if begun:
                break
        self._judge_targets()
        self._oracle.rest()

    def advance(self) -> None:
        """Time passes: one tick, sometimes several; somebody presses stop, releases it, and begins a new episode."""
        self._plant.stamp += self._period * (1 if self._rng.random() < 0.98 else 5)
        kind = self._rng.random()
        if kind < 0.005:
            self.mux.stop(SafetyEvent.OPERATOR_STOP)
            self._over = True
            self._oracle.rest()
        elif kind < 0.1 and self.mux.stopped:
            self.mux.reset_stop()
        elif kind < 0.2 and self._over and not self.mux.stopped:
            self.reset(self._plant.stamp)

    def exchange(self) -> tuple[float, float]:
        """One command: send, judge, let the plant follow. Returns the mux's time by clock and processor (s)."""
        mux, oracle, plant = self.mux, self._oracle, self._plant
        reading, honest = plant.reading(0.02)
        command, orderly = self._sender.command(plant.stamp, mux.hand_target, self._last)
        teleop, alone = self._sender.teleop(plant.stamp)
        before, hand_before = mux.target_pose, mux.hand_target.astype(np.float64)
        must_pass = orderly and honest and alone and not (self._over or mux.holding or mux.operator_active)
        operated = mux.operator_active
        begun, begun_cpu = time.perf_counter(), time.thread_time()
        executed = mux.step(command, teleop, reading)
        elapsed = time.perf_counter() - begun, time.thread_time() - begun_cpu
        if executed is None:
            moved = not np.array_equal(before, mux.target_pose) or not np.array_equal(hand_before, mux.hand_target)
            self._tally.violations['moved by a refused command'] += int(moved)
            self._tally.wrongly_held += orderly
            self._judge_targets()
            return elapsed
        self._last = command.stamp
        self._tally.executed += 1
        if must_pass and not oracle.violations(
            _asked(command, before, hand_before, oracle), before, reading, True, strict=True
        ):
            self._tally.legal += 1
            self._tally.wrongly_held += not _verbatim(command, executed)
        self._judge(executed, before, hand_before, reading, honest, mux.operator_active != operated)
        self._judge_targets()
        plant.follow(mux.target_pose, executed.hand_target, mux.limits)
        return elapsed

    def _judge_targets(self) -> None:
        """What goes to the robot are numbers; NaN would pass every comparison with a limit."""
        targets = np.concatenate([self.mux.target_pose, self.mux.hand_target])
        self._tally.violations['target is not finite'] += not bool(np.isfinite(targets).all())

    def _judge(
        self,
        executed: ExecutedAction,
        before: np.ndarray,
        hand_before: np.ndarray,
        reading: RobotReading,
        honest: bool,
        handover: bool,
    ) -> None:
        mux, oracle, violations = self.mux, self._oracle, self._tally.violations
        motion = oracle.motion(before, hand_before, mux.target_pose, executed.hand_target.astype(np.float64))
        if not np.isfinite(executed.action).all() or np.abs(executed.action).max() > 1.0:
            violations['action'] += 1
        if mux.resting:
            violations.update(_bad_rest(motion, reading, honest))
            oracle.rest()
            return
        if self._over or executed.stopped or not honest:
            violations['moved while it must hold'] += 1
        if handover:
            self._tally.handovers += 1
            self._tally.largest_handover = max(self._tally.largest_handover, oracle.share(motion))
        violations.update(oracle.violations(motion, before, reading, joints=self._tally.executed % 10 == 0))
        oracle.arm_step, oracle.hand_step = motion.arm_step, motion.hand_step


def hostile_commands(
    n: int,
    seed: int = 0,
    robot: str = 'sim',
    task: str = 'pull_tissue',
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Send hostile commands through mux and filter, half with the limits of the robot, half with tighter ones.

    Args:
        n: how many.
        seed: of everything random.
        robot, task: names of the configuration.
        tell: told now and then how many were sent, and of how many.

    Returns:
        violations (of any limit, in what was executed), also by limit; wrongly_held (legal commands not executed bit by
        bit); legal and executed counts; handovers (takeovers and hand-backs) and the largest step in one, as
        a share of what one tick may do; events by number and name; percentiles of how long
        CommandMux.step took, by the clock (which counts whatever else runs on the machine) and of processor time.
    """
    rng, tally, latency = np.random.default_rng(seed), _Tally(Counter()), np.empty((n, 2))
    usual, task_config = load_robot(robot), load_task(task)
    trials = [
        _Trial(config, task_config, rng, tally) for config in (usual, usual.model_copy(update={'limits': _TIGHT}))
    ]
    for index in range(n):
        trial = trials[index // _EPISODE % 2]
        if index % _EPISODE == 0:
            tell(index, n)
            trial.reset((index + 1) * 10**9)
        trial.advance()
        latency[index] = trial.exchange()
    events = sum((trial.mux.log.counts for trial in trials), Counter())
    wall, processor = (_percentiles(1e6 * column) for column in latency.T)
    return {
        'commands': n,
        'seed': seed,
        'violations': sum(tally.violations.values()),
        'violated': {name: count for name, count in tally.violations.items() if count},
        'legal': tally.legal,
        'wrongly_held': tally.wrongly_held,
        'executed': tally.executed,
        'handovers': tally.handovers,
        'largest_handover_step': tally.largest_handover,
        'events': {f'{event.number} {event.name.lower()}': events[event] for event in SafetyEvent if events[event]},
        'latency_us': wall,
        'processor_us': processor,
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f'p{level:g}': round(float(np.percentile(values, level)), 1) for level in (50, 99, 99.9, 100)}


def _asked(command: ActionCommand, before: np.ndarray, hand_before: np.ndarray, oracle: Oracle) -> Motion:
    step = np.asarray(command.arm, np.float64) * oracle.unit
    pose = np.concatenate([before[:3] + step[:3], rotations.turned(before[3:], step[3:])])
    hand = hand_before if command.hold_hand else np.asarray(command.hand, np.float64)
    return Motion(pose, hand, step, hand - hand_before)


def _verbatim(command: ActionCommand, executed: ExecutedAction) -> bool:
    hand = command.hold_hand or np.array_equal(executed.hand_target, command.hand)
    return bool(hand) and np.array_equal(executed.action[:6], command.arm) and not executed.limited


def _bad_rest(motion: Motion, reading: RobotReading, honest: bool) -> list[str]:
    """A held robot keeps its targets, or takes the measured pose as target."""
    found = []
    if np.abs(motion.hand_step).max() > 0.0:
        found.append('hand moved while held')
    if np.abs(motion.arm_step).max() > 1e-9:
        if not honest or np.abs(motion.pose[:3] - reading.tcp_pose[:3]).max() > 0.2:
            found.append('arm moved while held')
    return found
