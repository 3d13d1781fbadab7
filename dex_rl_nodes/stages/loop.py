"""The control loop in one process, in lockstep: the classes the nodes wrap, called in the order of a tick."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.descriptions import CURRENT_POSE, IMAGES
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.episodes import EpisodeMachine
from dex_rl_nodes.evaluation.report import EpisodeRow
from dex_rl_nodes.evaluation.series import COLLECTING, TICKS_AFTER_SUCCESS
from dex_rl_nodes.learning.policy import PolicyRunner
from dex_rl_nodes.learning.prior_runner import PriorRunner
from dex_rl_nodes.learning.residual import ResidualRunner
from dex_rl_nodes.learning.reward import RewardRunner
from dex_rl_nodes.learning.vision import crop_view
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.transitions import TransitionAssembler
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import (
    HAND_DIM,
    HAND_JOINTS,
    HISTORY_LENGTH,
    ActionCommand,
    CoreAction,
    EpisodeState,
    ExecutedAction,
    HandPrior,
    Mark,
    Observation,
    OperatorInput,
    PolicyStep,
    Reward,
    RobotReading,
    SimState,
    Source,
    TeleopCommand,
    Transition,
)
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.teleop import ScriptedHands, TeleopMapper, read_teleop
from dex_rl_nodes.robot.units import state_vector
from dex_rl_nodes.sim.robot import SimRobot


class Operator(Protocol):
    """Somebody at SpaceMouse and glove."""

    def reset(self, seed: int) -> None:
        """A new episode."""

    def act(self, scene: dict[str, float], reading: RobotReading) -> OperatorInput:
        """What this person does in a tick."""


@dataclass
class Brain:
    """The trained parts: what decides when nobody holds the devices. Without `reward` only marks count."""

    policy: PolicyRunner
    prior: PriorRunner
    residual: ResidualRunner
    reward: RewardRunner | None = None


@dataclass
class Tick:
    """Everything about one tick, for whoever listens."""

    step: PolicyStep
    images: dict[str, np.ndarray]  # task crops
    reward: Reward | None = None
    core: CoreAction | None = None
    command: ActionCommand | None = None
    executed: ExecutedAction | None = None


@dataclass
class Loop:
    """Runs episodes in simulation.

    Args:
        task, robot: configuration.
        brain: None: the operator does everything (collecting).
        operator: None: nobody holds the devices.
        presence: share of the episodes in which the operator stands by, drawn from their seeds.
        newest: number of the newest transition of the run so far.
        transitions: called with every transition, before the next action is chosen.
        ticks: called with every tick after it was acted on.
    """

    task: Task
    robot: Robot
    brain: Brain | None = None
    operator: Operator | None = None
    presence: float = 1.0
    newest: int = 0
    transitions: Callable[[Transition], None] | None = None
    ticks: Callable[[Tick], None] | None = None
    sim: SimRobot | None = None

    def __post_init__(self) -> None:
        self.sim = self.sim or SimRobot(self.task, self.robot)
        settings = read_teleop(self.robot)
        self._teleop, self._hands = TeleopMapper(settings), ScriptedHands(settings) if self.operator else None
        self._assembler = TransitionAssembler(self.newest + 1)

    def episode(
        self, number: int, seed: int, purpose: str, bag: BagWriter | None = None, time_limit: int = 0
    ) -> EpisodeRow:
        """Run one episode; what is recorded goes to `bag`. A time limit of 0 is that of the task."""
        reading = self.sim.reset(seed)
        after_success = TICKS_AFTER_SUCCESS if purpose == 'reward' else 0
        machine = EpisodeMachine(time_limit or self.task.episode_steps, after_success)
        state = machine.begin(number, seed, reading.stamp, self.sim.start_hand, purpose)
        record = _Recorder(bag, self.robot)
        record.write('episode', state)
        self._begin(state, reading)
        executed: list[np.ndarray] = []
        interventions = 0
        while True:
            stamp, step = reading.stamp, len(executed)
            images = {view: self.sim.render(view) for view in self.robot.cameras}
            record.observation(images, reading)
            record.scene(stamp, number, self.sim)
            tick = self._perceive(images, reading, number, step)
            teleop = self._operate(reading)
            verdict = tick.reward or Reward(probability=math.nan)
            mark = _decisive(teleop, purpose)
            result = machine.judge(step, stamp, verdict.probability, verdict.success, mark)
            self._pass_on(tick.step, result)
            if not machine.ended:
                self._act(tick, teleop, reading)
                executed.append(tick.executed.hand_target)
                interventions += tick.executed.source != Source.POLICY
                self._pass_on(tick.core, tick.executed)
            record.tick(tick, teleop, result)
            if self.ticks:
                self.ticks(tick)
            if machine.ended:
                break
            self.sim.step(tick.executed.target_pose, tick.executed.hand_target)
            reading = self.sim.read()
        record.write('episode', machine.state)
        self._pass_on(machine.state)
        return EpisodeRow.of(
            number,
            seed,
            machine.state.outcome,
            len(executed),
            np.array(executed).reshape(-1, HAND_DIM),
            failure=self.sim.failure(),
            sim_success=self.sim.success(),
            interventions=interventions,
        )

    def close(self) -> None:
        """Free what the simulation holds."""
        self.sim.close()

    def _begin(self, state: EpisodeState, reading: RobotReading) -> None:
        self._mux = CommandMux(self.robot, self.task)
        if not self._mux.reset(reading, state.hand_target, state.stamp):
            what = self._mux.log.details[SafetyEvent.READING_INVALID]
            raise UserError(f'episode {state.episode} cannot begin: {SafetyEvent.READING_INVALID.sentence(what)}')
        self._teleop.reset()
        self._start_pose = reading.tcp_pose
        self._seed, self._deterministic = state.seed, state.purpose == 'evaluation'
        history = np.tile(state.hand_target, HISTORY_LENGTH)
        self._prior = self.brain.prior.reset(state) if self.brain else HandPrior(state.stamp, state.episode, 0, history)
        if self.brain and self.brain.reward:
            self.brain.reward.reset()
        if self.operator:
            self.operator.reset(state.seed)
        self._present = np.random.default_rng([state.seed, 0x1A]).random() < self.presence

    def _perceive(self, images: dict[str, np.ndarray], reading: RobotReading, episode: int, step: int) -> Tick:
        state = state_vector(reading, self._start_pose)
        views = {view: crop_view(image, self.task.crops[view]) for view, image in images.items()}
        if self.brain is None:
            history = self._prior.hand_history
            return Tick(PolicyStep(reading.stamp, episode, step, state=state, hand_history=history), views)
        observation = Observation(reading.stamp, episode, step, views, state)
        tick = Tick(self.brain.policy.step(observation, self._prior), views)
        if self.brain.reward:
            tick.reward = self.brain.reward.step(tick.step)
        return tick

    def _operate(self, reading: RobotReading) -> TeleopCommand | None:
        if self.operator is None or not self._present:
            return None
        does = self.operator.act(self.sim.scene(), reading)
        return self._teleop.update(self._hands.axes(does), self._hands.buttons(does), does.glove, reading.stamp)

    def _act(self, tick: Tick, teleop: TeleopCommand | None, reading: RobotReading) -> None:
        step = tick.step
        if self.brain is None:
            tick.command = ActionCommand(step.stamp, step.episode, step.step, hold_hand=True)
        else:
            tick.core = self.brain.residual.step(step, self._seed, self._deterministic)
            tick.command = self.brain.prior.decode(tick.core)
        tick.executed = self._mux.step(tick.command, teleop, reading)
        if self.brain is None:
            history = np.concatenate((self._prior.hand_history[HAND_DIM:], tick.executed.hand_target))
            self._prior = HandPrior(step.stamp, step.episode, step.step + 1, history)
        else:
            self._prior = self.brain.prior.executed(tick.executed)

    def _pass_on(self, *parts: object) -> None:
        """Hand parts of transitions on, and the transitions that they complete."""
        if self.transitions is None:
            return
        for part in parts:
            for transition in self._assembler.add(part) if part is not None else ():
                self.transitions(transition)


def _decisive(teleop: TeleopCommand | None, purpose: str) -> int:
    """The operator's mark, where it decides: success is the operator's to see only while collecting."""
    if teleop is None or (teleop.mark == Mark.SUCCESS and purpose not in COLLECTING):
        return Mark.NONE
    return teleop.mark


class _Recorder:
    """Writes what the graph's recorder writes; nothing without a bag."""

    def __init__(self, bag: BagWriter | None, robot: Robot):
        self._bag = bag
        self._robot = robot

    def write(self, topic: str, record) -> None:
        if self._bag and record is not None:
            self._bag.write(f'/{topic}', record)

    def observation(self, images: dict[str, np.ndarray], reading: RobotReading) -> None:
        if self._bag is None:
            return
        stamp = reading.stamp
        for view, image in images.items():
            self._bag.write_image(f'/{IMAGES[view]}', image, stamp, f'{view}_color_optical_frame')
        pose = messages.serialise_pose(reading.tcp_pose, stamp, self._robot.base_frame)
        self._bag.write_raw(f'/{CURRENT_POSE}', messages.POSE, pose, stamp)
        hand = messages.serialise_joints(HAND_JOINTS, reading.hand, stamp)
        self._bag.write_raw(f'/{HAND_TOPIC}', messages.JOINT_STATE, hand, stamp)

    def scene(self, stamp: int, episode: int, sim: SimRobot) -> None:
        if self._bag:
            scene = sim.scene()
            values = np.array(list(scene.values()), float)
            self.write('sim_state', SimState(stamp, episode, list(scene), values, sim.success(), sim.failure()))

    def tick(self, tick: Tick, teleop: TeleopCommand | None, result) -> None:
        self.write('policy_step', tick.step)
        self.write('reward', tick.reward)
        self.write('teleop_command', teleop)
        self.write('core_action', tick.core)
        self.write('action_command', tick.command)
        self.write('executed_action', tick.executed)
        self.write('step_result', result)
