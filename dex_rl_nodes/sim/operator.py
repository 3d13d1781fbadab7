"""A scripted person at SpaceMouse and glove: sees the scene, reacts late, never moves twice the same way."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import Mark, OperatorInput, RobotReading
from dex_rl_nodes.robot import rotations
from dex_rl_nodes.sim import tasks
from dex_rl_nodes.sim.tasks.base import Grip, Scene, Stage

SKILLS = ('demonstrate', 'survey', 'negative', 'present')
_DOES_IT = ('demonstrate', 'survey')
_YAW_TOLERANCE = 0.12  # rad
_CLOSURE_TOLERANCE = 0.02
_LOST_TICKS = 4  # what a stage needs may be missing for so long before the person starts again
UNDONE_TICKS = 15  # in the last stage without success
CLOSED = 0.85  # closure of a hand that holds something
_STAGE_TICKS = 35  # longer in one stage is being stuck
_SHOWN_TICKS = 10  # so long the end of an attempt is shown
_LOOK_TICKS = 5  # so long is each look at what was arranged: many scenes teach more than many looks at one
_ATTEMPTS = 3
_LOOKS = (3, 6)  # places from which a survey looks, at least and fewer than
_LOOK_REACH, _LOOK_SHIFT = np.array([0.05, 0.05, 0.04, 0.3]), np.array([0, 0, 0.03, 0])  # m, m, m, rad
_MISPLACED = 0.6  # share of near misses, of tasks in which something is put down
_NEARLY_SUCCESS = ('offset', 'high', 'half_closed', 'open_hand', 'stop_short')


@dataclass
class _Style:
    """How this person moves in this episode."""

    speed: float  # of full SpaceMouse deflection
    gain: float  # deflection per unit command still to go
    smooth: float  # share of the last deflection that remains after a tick
    noise: float  # of the deflection
    reaction: int  # ticks between seeing and acting
    closing: float  # of the closure per tick
    aim: np.ndarray  # (3,) m, where the person believes the target to be
    closed: np.ndarray  # (6,) of the hand, as this person closes it
    onset: np.ndarray
    end: np.ndarray
    sure: int  # ticks of success before it is marked


def _draw_style(rng: np.random.Generator, grip: Grip) -> _Style:
    shift = rng.normal(0.0, 0.02)  # this person closes earlier or later than the next
    return _Style(
        speed=rng.uniform(0.45, 0.75),
        gain=rng.uniform(0.35, 0.50),
        smooth=rng.uniform(0.25, 0.45),
        noise=rng.uniform(0.04, 0.09),
        reaction=int(rng.integers(1, 4)),
        closing=rng.uniform(0.07, 0.11),
        aim=rng.normal(0.0, (0.002, 0.002, 0.0015)),
        closed=np.clip(np.asarray(grip.closed) + rng.normal(0.0, 0.012, 6), 0.0, 1.0),
        onset=np.clip(np.asarray(grip.onset) + shift + rng.normal(0.0, 0.012, 6), 0.0, 0.6),
        end=np.clip(np.asarray(grip.end) + shift + rng.normal(0.0, 0.012, 6), 0.3, 1.0),
        sure=int(rng.integers(6, 10)),
    )


class ScriptedOperator:
    """Does a task as a person does, from what is seen and felt; call `act` once per control tick.

    Args:
        skill: demonstrate does the task; survey moves the open hand about the place first, and then does it; negative
            comes close and fails on purpose, in one of several ways; present moves about what was arranged by hand and
            says whether it is a success.
    """

    def __init__(self, task: Task, robot: Robot, skill: str = 'demonstrate'):
        if skill not in SKILLS:
            raise UserError(f'unknown skill "{skill}" of the scripted operator; choose one of: {", ".join(SKILLS)}')
        self.task, self.robot, self.skill = task, robot, skill
        self._task = tasks.make(task.name, task.scene)
        self._start_hand = np.asarray(task.start.hand, float)
        self._start_rotation = rotations.from_rotvec(np.asarray(task.start.rotation))
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new episode, and a slightly different person."""
        self._rng = np.random.default_rng([seed, 0x0F])
        self._style = _draw_style(self._rng, self._task.grip)
        self._plan, self._first = self._task.plan(), 0
        if self.skill == 'negative':
            self._plan = _spoil(self._plan, self._rng)
        elif self.skill == 'present':
            self._plan = [*_look_around(self._plan[-1:], self._rng), self._plan[-1]]
        elif self.skill == 'survey':
            looks = _look_around(self._plan, self._rng)
            self._plan = looks + self._plan
            self._first = len(looks)
        self._seen: deque[Scene] = deque(maxlen=self._style.reaction)
        self._twist, self._drift = np.zeros(6), np.zeros(6)
        self._closure, self._tremor = 0.0, np.zeros(6)
        self._offset: np.ndarray | None = None  # of the hand from the usual path, when it starts elsewhere
        self._stage, self._in_stage, self._attempt = 0, 0, 1
        self._pause = int(self._rng.integers(2, 6))
        self._lost = self._still = self._sure = 0
        self._marked = False

    @property
    def stage(self) -> str:
        """Name of what the person is doing."""
        return self._plan[self._stage].name

    def act(self, scene: Scene, reading: RobotReading) -> OperatorInput:
        """What the person does in this tick.

        Args:
            scene: SimRobot.scene of this tick.
            reading: TCP pose and hand of this tick.
        """
        self._seen.append(scene)
        seen = self._seen[0]
        if self._offset is None:
            self._offset = reading.hand - self._hand(0.0)
        return self._work(scene, seen, reading)

    def _work(self, scene: Scene, seen: Scene, reading: RobotReading) -> OperatorInput:
        """A tick at the devices; `seen` is the scene that the person reacts to."""
        error, turn = self._to_go(seen, reading)
        # who arranged the scene looks at nothing but whether it is still a success
        mark = self._follow_plan(scene if self.skill == 'present' else seen, error, turn)
        stage = self._plan[self._stage]
        if self._pause > 0:
            self._pause -= 1
            error, turn = np.zeros(3), np.zeros(3)
        else:
            self._close_hand(stage.closure)
        if self._arm_waits(seen):
            error, turn = np.zeros(3), np.zeros(3)
        glove = np.clip(self._hand(self._closure) + self._offset + self._tremor, 0.0, 1.0)
        return OperatorInput(
            twist=self._deflect(error, turn, stage.speed),
            right_button=self._holds_button(),
            glove=glove.astype(np.float32),
            mark=mark,
        )

    def _to_go(self, seen: Scene, reading: RobotReading) -> tuple[np.ndarray, np.ndarray]:
        """To where the stage ends; see _errors."""
        return self._errors(self._plan[self._stage], seen, reading)

    def _arm_waits(self, seen: Scene) -> bool:
        """Whether something else has to be done first."""
        return False

    def _holds_button(self) -> bool:
        """Whether the glove moves the hand: a little longer than its fingers move."""
        return self._still < 4

    def _errors(self, stage: Stage, seen: Scene, reading: RobotReading) -> tuple[np.ndarray, np.ndarray]:
        """What is still to go: (3,) m and rotation vector (3,) rad, base frame."""
        x, y, z, yaw = stage.target(seen)
        error = np.array([x, y, z]) + self._style.aim - reading.tcp_pose[:3]
        goal = rotations.turned(self._start_rotation, np.array([0.0, 0.0, yaw]))
        return error, rotations.difference(goal, np.asarray(reading.tcp_pose[3:]))

    def _follow_plan(self, seen: Scene, error: np.ndarray, turn: np.ndarray) -> int:
        """Go on to the next stage, or try again; returns a mark when the episode is decided."""
        stage = self._plan[self._stage]
        self._in_stage += 1
        self._sure = self._sure + 1 if seen['success'] > 0 else 0
        self._lost = self._lost + 1 if stage.needs and not stage.needs(seen) else 0
        last = self._stage == len(self._plan) - 1
        arrived = np.linalg.norm(error) < stage.tolerance and abs(turn[2]) < _YAW_TOLERANCE
        if self.skill == 'present':
            return self._present(last, bool(arrived))
        if self.skill == 'negative':
            if self._sure or (last and self._in_stage > _SHOWN_TICKS):
                return self._decide(Mark.DISCARD if self._sure else Mark.FAILURE)
        elif last and self._sure >= self._style.sure:
            return self._decide(Mark.SUCCESS) if self.skill in _DOES_IT else Mark.NONE
        if seen.get('lost', 0) > 0 and self.skill in SKILLS:
            return self._decide(Mark.DISCARD if self.skill in _DOES_IT else Mark.FAILURE)
        if self._sure > 2 and not last:  # done, sooner than planned
            self._enter(len(self._plan) - 1)
            return Mark.NONE
        if self._lost > _LOST_TICKS or (last and not self._sure and self._in_stage > UNDONE_TICKS):
            return self._try_again(self._first)
        if self._in_stage > _STAGE_TICKS and not last:
            return self._try_again(max(self._first, self._stage - stage.retry))
        closed = abs(self._closure - stage.closure) < _CLOSURE_TOLERANCE
        done = arrived and closed and self._in_stage >= stage.ticks and (stage.until is None or stage.until(seen))
        if done and not last:
            self._enter(self._stage + 1)
        return Mark.NONE

    def _present(self, last: bool, arrived: bool) -> int:
        """On to the next look; who arranged it knows at once whether it is a success, as long as nothing hits it."""
        if self._marked and not self._sure:
            mark = Mark.DISCARD
        elif self._sure:
            mark = self._decide(Mark.SUCCESS)
        elif last and self._in_stage > _LOOK_TICKS:
            mark = self._decide(Mark.FAILURE)
        else:
            mark = Mark.NONE
        if not last and (arrived or self._in_stage > _LOOK_TICKS):
            self._enter(self._stage + 1)
        return mark

    def _enter(self, stage: int) -> None:
        self._stage, self._in_stage, self._lost = stage, 0, 0
        self._pause = int(self._rng.integers(0, 3))

    def _try_again(self, stage: int) -> int:
        if self.skill == 'negative':
            return self._decide(Mark.FAILURE)
        if self._attempt >= _ATTEMPTS and self.skill in _DOES_IT:
            return self._decide(Mark.DISCARD)
        self._attempt += 1
        self._style.aim = 0.5 * self._style.aim
        self._enter(stage)
        return Mark.NONE

    def _decide(self, mark: Mark) -> int:
        """A mark is given once."""
        if self._marked:
            return Mark.NONE
        self._marked = True
        return mark

    def _deflect(self, error: np.ndarray, turn: np.ndarray, speed: float) -> np.ndarray:
        """SpaceMouse deflection (6,): towards the target, limited, smooth and a little shaky."""
        style = self._style
        scale = np.repeat([self.robot.translation_scale, self.robot.rotation_scale], 3)
        wanted = style.gain * np.concatenate([error, turn]) / scale
        for part in (slice(0, 3), slice(3, 6)):
            length = np.linalg.norm(wanted[part])
            wanted[part] *= min(1.0, style.speed * speed / max(length, 1e-9))
        self._drift = 0.7 * self._drift + self._rng.normal(0.0, style.noise, 6)
        # The hand shakes with what it does, and hardly at all at rest.
        size = np.repeat([np.linalg.norm(wanted[:3]), 0.5 * np.linalg.norm(wanted[3:])], 3)
        self._twist = style.smooth * self._twist + (1.0 - style.smooth) * (wanted + self._drift * (0.15 + size))
        return np.clip(self._twist, -1.0, 1.0).astype(np.float32)

    def _close_hand(self, closure: float) -> None:
        """Move the fingers one tick towards a closure."""
        left = closure - self._closure
        step = self._style.closing * self._rng.uniform(0.8, 1.2)
        self._still = 0 if abs(left) > 1e-6 else self._still + 1
        self._closure += float(np.clip(left, -2 * step, step))
        self._offset = 0.8 * self._offset
        self._tremor = 0.8 * self._tremor + self._rng.normal(0.0, 0.002, 6) * (self._still == 0)

    def _hand(self, closure: float) -> np.ndarray:
        """Fingers (6,) on this person's way from the open to the closed hand."""
        style = self._style
        part = np.clip((closure - style.onset) / np.maximum(style.end - style.onset, 0.1), 0.0, 1.0)
        part = part * part * (3.0 - 2.0 * part)
        return self._start_hand + (style.closed - self._start_hand) * part


def _look_around(plan: list[Stage], rng: np.random.Generator) -> list[Stage]:
    """Some places about the first one of a plan: from there the cameras see what is to be grasped from everywhere."""
    first = plan[0]

    def beside(off: np.ndarray) -> Stage:
        return replace(first, name='look', target=lambda seen: tuple(np.add(first.target(seen), off)), tolerance=0.02)

    count = int(rng.integers(*_LOOKS))
    return [beside(rng.uniform(-_LOOK_REACH, _LOOK_REACH) + _LOOK_SHIFT) for _ in range(count)]


def _spoil(plan: list[Stage], rng: np.random.Generator) -> list[Stage]:
    """A plan that nearly does the task: one thing goes wrong, and the person does not notice."""
    if plan[-1].closure < CLOSED and rng.random() < _MISPLACED:
        return _misplace(plan, rng)
    kind = rng.choice(_NEARLY_SUCCESS)
    shift = np.zeros(4)
    if kind == 'offset':
        angle = rng.uniform(0, 2 * np.pi)
        shift[:2] = rng.uniform(0.025, 0.07) * np.array([np.cos(angle), np.sin(angle)])
    elif kind == 'high':
        shift[2] = rng.uniform(0.030, 0.070)
    most = {'half_closed': rng.uniform(0.50, 0.60), 'open_hand': 0.0}.get(kind, 1.0)
    stages, missed = [], False
    for stage in plan:
        off = shift + (_stray(rng) if missed and kind != 'stop_short' else 0.0)
        missed = missed or stage.closure > 0.9
        stages.append(
            replace(
                stage,
                target=lambda seen, target=stage.target, off=off: tuple(np.add(target(seen), off)),
                closure=min(stage.closure, most),
                until=None,
                needs=None,
                tolerance=min(stage.tolerance, 0.015),
            )
        )
    return _cut_short(stages, rng) if kind == 'stop_short' else stages


def _misplace(plan: list[Stage], rng: np.random.Generator) -> list[Stage]:
    """What is held is put down beside its place, turned, or let go above it; the hand goes away as after a success."""
    angle = rng.uniform(0, 2 * np.pi)
    beside = rng.uniform(0.010, 0.045) * np.array([np.cos(angle), np.sin(angle)])
    off = np.array([*beside, 0.0, rng.uniform(-0.7, 0.7)])
    lower = np.array([0.0, 0.0, rng.uniform(-0.03, 0.0), 0.0])
    carried = [number for number, stage in enumerate(plan) if stage.needs]
    stages = list(plan)
    for number in range(carried[1], len(plan)):  # from where it was lifted on
        stage = plan[number]
        shift = off + (lower if number == carried[-1] else 0.0)
        stages[number] = replace(
            stage,
            target=lambda seen, target=stage.target, shift=shift: tuple(np.add(target(seen), shift)),
            until=None,
            needs=None,
            # what lies askew keeps the hand from where it would go
            tolerance=0.015 if number == carried[1] else max(stage.tolerance, 0.06),
        )
    return stages


def _stray(rng: np.random.Generator) -> np.ndarray:
    """How far from the usual way (4,) a hand goes that holds nothing: it may end up anywhere."""
    return rng.uniform([-0.05, -0.05, -0.02, -0.2], [0.05, 0.05, 0.06, 0.2])


def _cut_short(stages: list[Stage], rng: np.random.Generator) -> list[Stage]:
    """The plan up to some stage, of which only a part of the way is done."""
    count = int(rng.integers(2, len(stages)))
    before, last, share = stages[count - 2].target, stages[count - 1], rng.uniform(0.2, 0.6)
    # Where the part of the way ends is decided when the person sets out: the scene moves with the hand.
    held: list[np.ndarray] = []

    def target(seen: Scene) -> tuple[float, ...]:
        if not held:
            held.append((1.0 - share) * np.asarray(before(seen)) + share * np.asarray(last.target(seen)))
        return tuple(held[0])

    return [*stages[: count - 1], replace(last, target=target)]
