"""A scripted person who stands by while a policy acts: pushes it back, and takes over what it does not manage."""

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.records import HAND_JOINTS, Mark, OperatorInput, RobotReading
from dex_rl_nodes.sim.operator import CLOSED, UNDONE_TICKS, ScriptedOperator
from dex_rl_nodes.sim.tasks.base import Scene, Stage

_PATIENCE = (0.33, 0.62)  # of the time limit: so long a person watches who sees nothing achieved
_NEXT_STAGE, _ROUGHLY = 0.6, 2.0  # of that, for what a policy does after each stage; of the tolerances of the plan
_BEYOND_TICKS = 5  # with something that nobody can bring back before the person gives up
_LET_GO_TICKS = 15  # so long a hand that opens may take before the arm moves
_CLOSURES = np.linspace(0.0, 1.0, 21)
_NEAR, _OPEN = 0.03, 0.15  # m beside the grasp; closure beyond that of an open hand
_ABOUT, _ASKEW, _RIGHT = 0.05, 0.15, 0.4  # m, about the place; rad, turned too far; share of both that is right again
_LOW, _BELOW = 0.03, 0.008  # m above a grasp; below where what is held should wait until it is over its place
_PUSH, _RELAX = 15, 4  # ticks of a push, at most, and between two


def hand_target(scene: Scene) -> np.ndarray:
    """Where the motors of the hand are told to go (6,), normalised travel, of SimRobot.scene."""
    return np.array([scene[f'{joint}_target'] for joint in HAND_JOINTS])


class Assistant(ScriptedOperator):
    """Watches a policy, as somebody with a SpaceMouse and a glove at hand would.

    When nothing is achieved for a while, or what was held is lost, the person does the rest of the task. In stages with
    a `slack`, where the policy comes down beside the place, open or with what it holds, a short push of the
    SpaceMouse helps before that.
    """

    def __init__(self, task: Task, robot: Robot):
        super().__init__(task, robot)
        self.skill = 'assist'

    def reset(self, seed: int) -> None:
        """A new episode, and a slightly different person."""
        super().reset(seed)
        self._patience = round(self.task.episode_steps * self._rng.uniform(*_PATIENCE))
        self._grasp = next(number for number, stage in enumerate(self._plan) if stage.closure > CLOSED)
        self._pushed = [number for number, stage in enumerate(self._plan) if stage.slack]  # stages
        self._watching, self._policy_stage, self._let_go = self._patience, 0, 0
        self._pushes = 0  # ticks of a push; negative: until the next may begin
        self._beyond = 0
        self._in_control = False

    def _work(self, scene: Scene, seen: Scene, reading: RobotReading) -> OperatorInput:
        self._beyond = self._beyond + 1 if seen.get('lost', 0) > 0 else 0
        if self._beyond > _BEYOND_TICKS:
            return OperatorInput(glove=reading.hand.copy(), mark=self._decide(Mark.FAILURE))
        if self._in_control:
            return super()._work(scene, seen, reading)
        target = hand_target(scene)
        self._watch_policy(seen, reading)
        if self._watching > 0 or scene['success'] > 0:
            self._watching -= 1
            return OperatorInput(twist=self._push(seen, reading, target), glove=reading.hand.copy())
        self._take_over(seen, reading, target)
        return super()._work(scene, seen, reading)

    # Watching

    def _watch_policy(self, seen: Scene, reading: RobotReading) -> None:
        """Wait anew when the policy gets a stage further, and no more when it let go and that was no success."""
        if self._watching <= 0:
            return
        got_to = max((i for i, stage in enumerate(self._plan) if self._has_reached(stage, seen, reading)), default=0)
        if got_to > self._policy_stage:
            self._policy_stage = got_to
            self._watching = max(self._watching, round(_NEXT_STAGE * self._patience))
        self._let_go = 0 if seen['held'] > 0 else self._let_go + (self._policy_stage > 0)
        if self._let_go > UNDONE_TICKS:
            self._watching = 0

    def _has_reached(self, stage: Stage, seen: Scene, reading: RobotReading) -> bool:
        """Whether what a stage carries is about where it carries it."""
        if not (stage.needs and stage.needs(seen)):
            return False
        return bool(np.linalg.norm(self._errors(stage, seen, reading)[0]) < _ROUGHLY * stage.tolerance)

    def _closure_of(self, hand: np.ndarray) -> float:
        """How far a hand (6,) is closed, on this person's way of closing it."""
        return float(min(_CLOSURES, key=lambda closure: np.abs(hand - self._hand(closure)).sum()))

    # A push

    def _push(self, seen: Scene, reading: RobotReading, target: np.ndarray) -> np.ndarray:
        """Deflection of the SpaceMouse (6,), towards the place that the policy comes down beside; else zero."""
        number = self._comes_down(seen, target) if seen['success'] == 0 and self._pushed else None
        if self._pushes < 0:
            self._pushes += 1
        elif number is not None and self._pushes < _PUSH and self._is_beside(number, seen, reading):
            if not self._pushes:
                self._twist = np.zeros(6)
            self._pushes += 1
            return self._deflect(*self._errors(self._plan[number], seen, reading), self._plan[number].speed)
        elif self._pushes:
            self._pushes = -_RELAX
        return np.zeros(6, np.float32)

    def _comes_down(self, seen: Scene, target: np.ndarray) -> int | None:
        """The stage with a slack that the policy is in, with an open hand or with what it holds; None: in no such."""
        closure = self._closure_of(target)
        if seen['held'] > 0 and closure > CLOSED:
            return next((number for number in self._pushed if self._plan[number].needs), None)
        to_grasp = self._grasp - 1
        is_open = closure < self._plan[to_grasp].closure + _OPEN and seen['held'] == 0
        return to_grasp if is_open and to_grasp in self._pushed else None

    def _is_beside(self, number: int, seen: Scene, reading: RobotReading) -> bool:
        """Whether it is too low for how far it is beside the place, or turned; once pushed, until it is right again."""
        stage = self._plan[number]
        error, turn = self._errors(stage, seen, reading)
        beside, share = np.linalg.norm(error[:2]), _RIGHT if self._pushes else 1.0
        low = error[2] > (-_LOW if number < self._grasp else _BELOW)
        wrong = beside > share * stage.slack or abs(turn[2]) > share * _ASKEW
        return bool(low and wrong and beside < _ABOUT)

    # In control

    def _take_over(self, seen: Scene, reading: RobotReading, target: np.ndarray) -> None:
        """The hand as it is told to be, and the stage that the policy got to.

        Fingers that hold something stay behind their targets, and it is the targets that the glove changes. The stage
        is the one after what was carried to its place, or the one with what is held, or the second, to the grasp, with
        an open hand that is nearly there, or else the first.
        """
        self._in_control = True
        self._closure = self._closure_of(target)
        self._offset = target - self._hand(self._closure)
        carried = [number for number, stage in enumerate(self._plan[:-1]) if self._is_done(stage, seen, reading)]
        if carried:
            self._enter(carried[-1] + 1)
            return
        holding = [index for index, stage in enumerate(self._plan) if stage.needs and stage.needs(seen)]
        if holding and self._closure > CLOSED:
            self._enter(holding[0])
            return
        if holding:  # touched by thumb and finger, and held once the hand has closed where it is
            self._enter(holding[0] - 1)
            self._closes_at = reading.tcp_pose[:3].copy()
            return
        to_grasp = self._plan[1]
        error, _ = self._errors(to_grasp, seen, reading)
        near = np.linalg.norm(error[:2]) < _NEAR and self._closure < to_grasp.closure + _OPEN
        self._enter(int(near))

    def _is_done(self, stage: Stage, seen: Scene, reading: RobotReading) -> bool:
        """Whether what a stage carries somewhere is there."""
        if not (stage.needs and stage.until and stage.until(seen)):
            return False
        return bool(np.linalg.norm(self._errors(stage, seen, reading)[0][:2]) < stage.tolerance)

    def _enter(self, stage: int) -> None:
        super()._enter(stage)
        self._closes_at: np.ndarray | None = None  # where the hand stays while it closes on what it already touches

    def _to_go(self, seen: Scene, reading: RobotReading) -> tuple[np.ndarray, np.ndarray]:
        if self._closes_at is not None:
            return self._closes_at - reading.tcp_pose[:3], np.zeros(3)
        return super()._to_go(seen, reading)

    def _arm_waits(self, seen: Scene) -> bool:
        """Before it reaches for something, the hand lets go of what it has."""
        return self._stage < self._grasp and seen['held'] > 0 and self._in_stage < _LET_GO_TICKS

    def _holds_button(self) -> bool:
        """The policy must not close the hand on the way."""
        return self._stage < self._grasp or super()._holds_button()
