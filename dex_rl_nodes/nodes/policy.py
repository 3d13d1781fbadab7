"""Keeps the control tick: gathers the observation, encodes the cameras once, computes the frozen base action."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from dex_rl_nodes.descriptions import CURRENT_POSE, IMAGES
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, OK
from dex_rl_nodes.nodes.ticks import FrameCount, TickClock
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.records import (
    HAND_JOINTS,
    HISTORY_LENGTH,
    STATE_DIM,
    ActionCommand,
    EpisodeState,
    ExecutedAction,
    HandPrior,
    Observation,
    PolicyStep,
    RobotReading,
)
from dex_rl_nodes.robot.units import state_vector

if TYPE_CHECKING:
    from dex_rl_nodes.learning.policy import PolicyRunner

_AHEAD = 10  # ticks; a fifth of what the topics of the tick keep for a recorder that cannot follow
_RECORDER = 'recorded'
_AWAITED = f'"{_RECORDER}" of replay_recorder'
_RECORDER_DEADLINE = 25.0  # s; before the simulation gives up waiting for its commands, and blames command_mux
_SILENT = 0.5  # s; what is older does not tell where the robot is


class Policy(EpisodeNode):
    """Wraps PolicyRunner; with `source:=zero` there is none and the robot is left to the operator.

    A tick begins with a front frame. It is complete with a wrist frame and a reading as new (in lockstep: of the same
    stamp) and with the hand prior of its step. In lockstep nothing else holds back a graph that is faster than its
    recorder, so a tick also waits until the recorder has those of some time before.
    """

    def __init__(self, runner: PolicyRunner | None = None, **options: Any):
        super().__init__('policy', **options)
        self._learned = self.setting('source') == 'model'
        self._waits_for_recorder = self.lockstep and self.setting('recorded')
        if self._learned:
            from dex_rl_nodes.learning.vision import crop_view

            self._crop_view = crop_view
            self._runner = runner or self._load()
        cameras = self.robot.cameras
        self._frames = {view: FrameCount() for view in IMAGES}
        self._slack = {view: 0 if self.lockstep else round(0.5e9 / cameras[view].rate) for view in IMAGES}
        self._tick_clock = TickClock(round(1e9 / self.robot.control_rate), round(1e9 / cameras['front'].rate))
        self._pose: tuple[int, np.ndarray] = 0, np.zeros(7)  # stamp and value, also below
        self._hand: tuple[int, np.ndarray] = 0, np.zeros(6, np.float32)
        self._hand_problem = ''
        self._prior: HandPrior | None = None
        self._front: tuple[int, np.ndarray] | None = None  # stamp and image of the tick that is being gathered
        self._start_pose: np.ndarray | None = None
        self._step = 0
        self._stamps: deque[int] = deque(maxlen=_AHEAD)  # of the newest ticks
        self._recorded = 0  # stamp up to which the recorder has everything
        self._held_back = False  # the tick is complete but for the recorder
        self._given_up = 0
        self._latency, self._work = Timing(), Timing()
        self.advertise('policy_step', *(() if self._learned else ('action_command',)))
        for view, topic in IMAGES.items():
            self.subscribe(topic, partial(self._on_image, view))
        self.subscribe(CURRENT_POSE, self._on_pose)
        self.subscribe(HAND_TOPIC, self._on_hand)
        if self._learned:
            self.subscribe_ticks('hand_prior', self._on_prior)
        else:
            self.subscribe_ticks('executed_action', self._on_executed_action)
        if self._waits_for_recorder:
            self.subscribe(_RECORDER, self._on_recorded)
        self.follow_episodes()

    # What comes in

    def begin(self, episode: EpisodeState) -> None:
        self._step, self._front, self._start_pose = 0, None, None
        self._stamps.clear()
        self._tick_clock.start(episode.stamp)
        if not self._learned:
            self._prior = HandPrior(episode.stamp, episode.episode, 0, np.tile(episode.hand_target, HISTORY_LENGTH))
        front = self._frames['front']
        if front.image is not None:
            self._offer(front.stamp, front.image)
        self._try()

    def end(self, episode: EpisodeState) -> None:
        self._front, self._held_back = None, False
        self.arrived(_AWAITED)

    def _on_image(self, view: str, message: Image) -> None:
        frames, stamp = self._frames[view], conversions.stamp_ns(message.header.stamp)
        try:
            image = conversions.image_array(message)
        except ValueError as error:
            frames.problem = str(error)
            return
        frames.add(stamp, image)
        if view == 'front' and self.running:
            self._offer(stamp, image)
        self._try()

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = conversions.stamp_ns(message.header.stamp), conversions.pose_array(message.pose)
        self._try()

    def _on_hand(self, message: JointState) -> None:
        try:
            hand = conversions.joint_positions(message, HAND_JOINTS).astype(np.float32)
        except ValueError as error:
            self._hand_problem = f'{HAND_TOPIC}: {error}'
            return
        self._hand, self._hand_problem = (conversions.stamp_ns(message.header.stamp), hand), ''
        self._try()

    def _on_prior(self, prior: HandPrior) -> None:
        self._prior = prior
        self._try()

    def _on_recorded(self, header: Header) -> None:
        self._recorded = conversions.stamp_ns(header.stamp)
        self._try()

    def _on_executed_action(self, action: ExecutedAction) -> None:
        """Without a model nobody publishes the prior, so the hand history is kept here."""
        history = np.concatenate((self._prior.hand_history[len(action.hand_target) :], action.hand_target))
        self._on_prior(HandPrior(action.stamp, action.episode, action.step + 1, history))

    # The tick

    def _offer(self, stamp: int, image: np.ndarray) -> None:
        """Begin a tick with a front frame, if it is time; a tick that was still incomplete is given up."""
        if stamp < self.episode.stamp or not (self.lockstep or self._tick_clock.take(stamp)):
            return
        self._given_up += self._front is not None
        self._front = stamp, image

    def _missing(self) -> str:
        """What the tick still waits for; empty when it is complete."""
        if self._front is None:
            return IMAGES['front']
        stamp = self._front[0]
        oldest = stamp if self.lockstep else stamp - round(_SILENT * 1e9)
        if self._frames['wrist'].stamp < stamp - self._slack['wrist']:
            return IMAGES['wrist']
        if self._pose[0] < oldest:
            return CURRENT_POSE
        if self._hand[0] < oldest:
            return HAND_TOPIC
        prior = self._prior
        if prior is None or (prior.episode, prior.step) != (self.episode.episode, self._step):
            return 'hand_prior' if self._learned else 'executed_action'
        if self._waits_for_recorder and len(self._stamps) == _AHEAD and self._recorded < self._stamps[0]:
            return _RECORDER
        return ''

    def _try(self) -> None:
        if missing := self._missing():
            if missing == _RECORDER and not self._held_back:
                self._held_back = True
                self.wait_for(_AWAITED, _RECORDER_DEADLINE, 'can its disk keep up?')
            return
        if self._held_back:
            self._held_back = False
            self.arrived(_AWAITED)
        (stamp, front), self._front = self._front, None
        if self._start_pose is None:
            self._start_pose = self._pose[1]
        reading = RobotReading(stamp, self._pose[1], self._hand[1])
        state = state_vector(reading, self._start_pose)
        if self._learned:
            with self._work:
                step = self._decide(stamp, {'front': front, 'wrist': self._frames['wrist'].image}, state)
            self.publish('policy_step', step)
        else:
            episode = self.episode.episode
            history = self._prior.hand_history
            self.publish('policy_step', PolicyStep(stamp, episode, self._step, state=state, hand_history=history))
            self.publish('action_command', ActionCommand(stamp, episode, self._step, hold_hand=True))
        if not self.lockstep:
            self._latency.add((self.get_clock().now().nanoseconds - stamp) * 1e-9)
        self._stamps.append(stamp)
        self._step += 1

    def _decide(self, stamp: int, images: dict[str, np.ndarray], state: np.ndarray) -> PolicyStep:
        views = {view: self._crop_view(images[view], self.task.crops[view]) for view in images}
        return self._runner.step(Observation(stamp, self.episode.episode, self._step, views, state), self._prior)

    def _load(self) -> PolicyRunner:
        import torch

        from dex_rl_nodes.learning.policy import PolicyRunner
        from dex_rl_nodes.learning.vision import IMAGE_SIZE

        torch.set_num_threads(self.setting('threads'))
        encoder = self.job.encoder()
        policy = self.job.policy(encoder, self.job.interface())
        runner = PolicyRunner(encoder, policy)
        blank = {view: np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) for view in IMAGES}
        prior = HandPrior(context=np.zeros(policy.context_dim, np.float32))
        for _ in range(3):  # the first passes are slow
            runner.step(Observation(0, 0, 0, blank, np.zeros(STATE_DIM, np.float32)), prior)
        return runner

    # Diagnostics

    def diagnose(self) -> None:
        self.report('latency', given_up=self._given_up, **self._latency.take())
        self.report('work', **self._work.take())
        now = self.get_clock().now().nanoseconds
        for view, frames in self._frames.items():
            silent = not self.lockstep and self.running and now - frames.stamp > _SILENT * 1e9
            problem = frames.problem or ('silent' if silent else '')
            values = {'frames': frames.received, 'longest_gap_ms': frames.longest_gap * 1e-6}
            message = f'{IMAGES[view]}: {problem}' if problem else 'ok'
            self.report(f'{view} camera', ERROR if problem else OK, message, **values)
        waiting = f'waits for {self._missing()}' if self.running else 'no episode'
        self.report('tick', ERROR if self._hand_problem else OK, self._hand_problem or waiting, step=self._step)


def main() -> None:
    """Entry point."""
    run_node(Policy)


if __name__ == '__main__':
    main()
