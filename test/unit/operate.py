"""The scripted operator at the simulated robot, through teleop and command mux, in one process."""

from dataclasses import dataclass

import numpy as np

from dex_rl_nodes.config import load_robot, load_task
from dex_rl_nodes.records import ActionCommand, Mark, OperatorInput
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.teleop import ScriptedHands, TeleopMapper, read_teleop
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.robot import SimRobot


@dataclass
class Episode:
    """How an episode went."""

    mark: Mark
    inputs: list[OperatorInput]
    actions: np.ndarray  # executed (ticks, 12)
    successes: list[bool]  # before each tick


def make(name: str, arranged: bool = False) -> SimRobot:
    """The simulated robot of a task."""
    return SimRobot(load_task(name), load_robot('sim'), arranged)


def operate(sim: SimRobot, skill: str | ScriptedOperator, seed: int) -> Episode:
    """One episode until the operator, or one with this skill, marks it or time is up."""
    operator = ScriptedOperator(sim.task, sim.robot, skill) if isinstance(skill, str) else skill
    mux = CommandMux(sim.robot, sim.task)
    teleop = TeleopMapper(read_teleop(sim.robot))
    reading = sim.reset(seed)
    operator.reset(seed)
    mux.reset(reading, sim.start_hand, reading.stamp)
    inputs, actions, successes = [], [], []
    for step in range(sim.task.episode_steps):
        successes.append(sim.success())
        inputs.append(operator.act(sim.scene(), reading))
        if inputs[-1].mark != Mark.NONE:
            break
        last = inputs[-1]
        command = teleop.update(last.twist, ScriptedHands().buttons(last), last.glove, reading.stamp)
        policy = ActionCommand(stamp=reading.stamp, step=step, hold_hand=True)
        executed = mux.step(policy, command, reading)
        actions.append(executed.action)
        sim.step(executed.target_pose, executed.hand_target)
        reading = sim.read()
    return Episode(Mark(inputs[-1].mark), inputs, np.array(actions), successes)
