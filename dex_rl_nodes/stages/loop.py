"""The control loop in one process, in lockstep: the classes the nodes wrap, called in the order of a tick."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import Robot, Task
from dex_rl_nodes.evaluation.episodes import EpisodeMachine
from dex_rl_nodes.evaluation.report import EpisodeRow
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
    PolicyStep,
    Reward,
    RobotReading,
    SimState,
    TeleopCommand,
    Transition,
)
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.teleop import TeleopMapper, joy_buttons, read_teleop
from dex_rl_nodes.robot.units import state_vector
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.robot import SimRobot

_POSE = 'franka_robot_state_broadcaster/current_pose'
_HAND = 'hand/joint_states'


@dataclass
class Brain:
    """The trained parts: what decides when nobody holds the devices.

    `evaluation` takes the mode of the residual actor instead of a sample.
    """

    policy: PolicyRunner
    prior: PriorRunner
    residual: ResidualRunner
    reward: RewardRunner | None = None
    evaluation: bool = False


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
        presence: probability that the operator stands by in an episode, drawn from its seed.
        after_success: ticks recorded after the operator's success mark.
        transitions: called with every transition.
        ticks: called with every tick.
    """

    task: Task
    robot: Robot
    brain: Brain | None = None
    operator: ScriptedOperator | None = None
    presence: float = 1.0
    after_success: int = 0
    next_sequence: int = 1
    transitions: Callable[[Transition], None] | None = None
    ticks: Callable[[Tick], None] | None = None
    sim: SimRobot | None = None

    def __post_init__(self) -> None:
        self.sim = self.sim or SimRobot(self.task, self.robot)
        self._teleop = TeleopMapper(read_teleop(self.robot))
        self.assembler = TransitionAssembler(self.next_sequence)

    def episode(self, number: int, seed: int, purpose: str, bag: BagWriter | None = None) -> EpisodeRow:
        """Run one episode; what is recorded goes to `bag`."""
        reading = self.sim.reset(seed)
        machine = EpisodeMachine(self.task.episode_steps, self.after_success)
        state = machine.begin(number, seed, reading.stamp, self.sim.start_hand, purpose)
        record = _Recorder(bag, self.robot)
        record.write('episode', state)
        self._begin(state, reading)
        mark, step, executed = Mark.NONE, 0, []
        interventions = 0
        while True:
            stamp, reading = self.sim.time, self.sim.read()
            images = {view: self.sim.render(view) for view in self.robot.cameras}
            tick = self._perceive(images, reading, number, step)
            scene = self.sim.scene()
            record.observation(images, reading, stamp)
            record.scene(stamp, number, scene, self.sim)
            teleop = self._operate(reading, scene)
            mark = teleop.mark if teleop else Mark.NONE
            verdict = tick.reward or Reward(probability=float('nan'))
            result = machine.judge(step, stamp, verdict.probability, verdict.success, mark)
            if not machine.ended:
                self._act(tick, teleop, reading)
                executed.append(tick.executed.hand_target)
                interventions += tick.executed.source != 0
            record.tick(tick, teleop, result)
            self._emit(tick, result)
            if machine.ended:
                break
            self.sim.step(tick.executed.target_pose, tick.executed.hand_target)
            step += 1
        record.write('episode', machine.state)
        return EpisodeRow.of(
            number,
            seed,
            machine.state.outcome,
            step,
            np.array(executed).reshape(-1, HAND_DIM),
            failure=self.sim.failure(),
            sim_success=self.sim.success(),
            interventions=interventions,
        )

    def _begin(self, state: EpisodeState, reading: RobotReading) -> None:
        self._mux = CommandMux(self.robot, self.task)
        self._mux.reset(reading, state.hand_target, state.stamp)
        self._teleop.reset()
        self._start_pose = reading.tcp_pose
        self._seed = state.seed
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
            tick.reward = self.brain.reward.step(tick.step, views)
        return tick

    def _operate(self, reading: RobotReading, scene: dict[str, float]) -> TeleopCommand | None:
        if self.operator is None or not self._present:
            return None
        hands = self.operator.act(scene, reading)
        return self._teleop.update(hands.twist, joy_buttons(hands), hands.glove, reading.stamp)

    def _act(self, tick: Tick, teleop: TeleopCommand | None, reading: RobotReading) -> None:
        step = tick.step
        if self.brain is None:
            tick.command = ActionCommand(step.stamp, step.episode, step.step, hold_hand=True)
        else:
            tick.core = self.brain.residual.step(step, self._seed, self.brain.evaluation)
            tick.command = self.brain.prior.decode(tick.core)
        tick.executed = self._mux.step(tick.command, teleop, reading)
        if self.brain is None:
            history = np.concatenate((self._prior.hand_history[HAND_DIM:], tick.executed.hand_target))
            self._prior = HandPrior(step.stamp, step.episode, step.step + 1, history)
        else:
            self._prior = self.brain.prior.executed(tick.executed)

    def _emit(self, tick: Tick, result) -> None:
        if self.ticks:
            self.ticks(tick)
        if self.transitions is None:
            return
        for record in (tick.step, tick.core, tick.executed, result):
            if record is not None:
                for transition in self.assembler.add(record):
                    self.transitions(transition)


class _Recorder:
    """Writes what the graph's recorder writes; nothing without a bag."""

    def __init__(self, bag: BagWriter | None, robot: Robot):
        self._bag = bag
        self._robot = robot

    def write(self, topic: str, record) -> None:
        if self._bag and record is not None:
            self._bag.write(f'/{topic}', record)

    def observation(self, images: dict[str, np.ndarray], reading: RobotReading, stamp: int) -> None:
        if self._bag is None:
            return
        for view, image in images.items():
            topic = f'/{self._robot.cameras[view].topic}'
            self._bag.write_image(topic, image, stamp, f'{view}_color_optical_frame')
        pose = messages.serialise_pose(reading.tcp_pose, stamp, self._robot.base_frame)
        self._bag.write_raw(f'/{_POSE}', messages.POSE, pose, stamp)
        hand = messages.serialise_joints(HAND_JOINTS, reading.hand, stamp)
        self._bag.write_raw(f'/{_HAND}', messages.JOINT_STATE, hand, stamp)

    def scene(self, stamp: int, episode: int, scene: dict[str, float], sim: SimRobot) -> None:
        if self._bag:
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
