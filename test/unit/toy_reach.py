"""A task small enough to learn in seconds: reach a point in the plane from a biased base policy.

Features hold the target position (as a vision encoder would), the state the position of the hand.
The reward is 1 within 4 cm of the target, which ends the episode. The base policy aims beside the target.
"""

import numpy as np
import torch
from torch import Tensor

from dex_rl_nodes.learning.interfaces import ActionInterface
from dex_rl_nodes.records import CoreAction, PolicyStep, Transition

FEATURES = 16
STEPS = 25
RADIUS = 0.04  # m
STRIDE = 0.05  # m per unit action


class ToyInterface(ActionInterface):
    """Hand of one coordinate: all fingers close together."""

    name = 'toy'

    def __init__(self):
        super().__init__(6, 1, 0)
        self.freeze()

    def decode_hand(self, hand_core: Tensor, context: Tensor) -> Tensor:
        return (0.5 + hand_core).expand(-1, 6)


class ToyReach:
    """One episode after another; everything follows from the seed."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.code = np.random.default_rng(7).normal(size=(2, FEATURES))
        self.sequence = 0
        self.episode = -1

    def reset(self) -> PolicyStep:
        self.episode += 1
        self.step = 0
        self.position = self.random.uniform(-0.1, 0.1, 2)
        self.target = self.random.uniform(-0.3, 0.3, 2)
        self.bias = np.array([0.05, -0.04]) * self.random.uniform(0.3, 1.3)  # m, what the base policy gets wrong
        return self.observe()

    def observe(self) -> PolicyStep:
        base = np.zeros(7, np.float32)
        base[:2] = np.clip((self.target + self.bias - self.position) / STRIDE, -1, 1)
        state = np.zeros(12, np.float32)
        state[:2] = self.position
        features = np.tanh(self.target @ self.code).astype(np.float32)
        return PolicyStep(episode=self.episode, step=self.step, features=features, state=state, base_core=base)

    def act(self, before: PolicyStep, core: CoreAction | np.ndarray) -> tuple[Transition, PolicyStep]:
        """Execute a core action."""
        core_array = core.core if isinstance(core, CoreAction) else core
        action = np.clip(np.concatenate((core_array[:6], np.full(6, 2 * core_array[6]))), -1, 1).astype(np.float32)
        self.position = self.position + STRIDE * action[:2]
        self.step += 1
        self.sequence += 1
        success = bool(np.linalg.norm(self.position - self.target) < RADIUS)
        after = self.observe()
        transition = Transition(
            sequence=self.sequence, episode=before.episode, step=before.step, action=action,
            features=before.features, state=before.state, base_core=before.base_core,
            next_features=after.features, next_state=after.state, next_base_core=after.base_core,
            reward=float(success), mask=float(not success), success=success,
            truncated=self.step == STEPS and not success,
        )  # fmt: skip
        return transition, after


def demonstrations(episodes: int, seed: int) -> list[Transition]:
    """Episodes of a teacher who knows where the target is."""
    task, transitions = ToyReach(seed), []
    for _ in range(episodes):
        before = task.reset()
        while True:
            core = np.zeros(7, np.float32)
            core[:2] = np.clip(0.5 * (task.target - task.position) / STRIDE, -0.7, 0.7)
            transition, before = task.act(before, core)
            transitions.append(transition)
            if not transition.mask:
                break
    return transitions


def success_rate(runner, episodes: int, seed: int) -> float:
    """Share of successes with the mode of the actor."""
    task, successes = ToyReach(seed), 0
    for _ in range(episodes):
        before, ended = task.reset(), False
        while not ended:
            transition, before = task.act(before, runner.step(before, seed, deterministic=True))
            ended = transition.truncated or transition.success
            successes += transition.success
    return successes / episodes


def toy_interface(arm: float = 0.5, hand: float = 0.2) -> ToyInterface:
    interface = ToyInterface()
    interface.arm_residual.fill_(arm)
    interface.hand_residual.fill_(hand)
    return interface


torch.set_num_threads(1)
