"""The graph around episode_manager, for its tests."""

import numpy as np
import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.srv import ResetScene
from harness import START_HAND, bench  # noqa: F401

from dex_rl_nodes.descriptions import TOPICS
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.episode_manager import EpisodeManager
from dex_rl_nodes.nodes.late_service import LateService
from dex_rl_nodes.records import (
    EpisodeState,
    ExecutedAction,
    Phase,
    PolicyStep,
    Reward,
    TeleopCommand,
)

MS = 1_000_000


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    return tmp_path


class Graph:
    """The rest of the graph: answers resets, and sends ticks when told to."""

    def __init__(self, bench, purpose, late=(), slow=False, **parameters):
        self.table = bench(EpisodeManager, **{'purpose': purpose, 'teleop_required': False, **parameters})
        self.resets = []
        self.refusal = ''
        self.slow = slow  # resets are answered by `answer`
        self.taken = []  # answers that have reached the manager
        ask = self.table.node.ask
        self.table.node.ask = lambda client, request, then: ask(
            client, request, lambda start: (then(start), self.taken.append(start))
        )
        self.serve_reset()
        self.states = self.table.listen('episode')
        self.results = self.table.listen('step_result')
        self.first = 0
        partners = (
            'policy_step',
            'executed_action',
            'transitions',
            'teleop_command',
            'core_action',
            'hand_prior',
            'reward',
        )
        self.join(*(topic for topic in (*partners, 'learner_state') if topic not in late))

    def join(self, *topics):
        """Nodes that publish these topics are there."""
        for topic in topics:
            message = conversions.interface(TOPICS[topic].type)
            publisher = self.table.peer.create_publisher(message, topic, qos.profile(TOPICS[topic].qos, True))
            self.table._publishers[topic] = publisher

    def serve_reset(self):
        """Whoever resets scenes is there."""
        peer = self.table.peer
        if self.slow:
            self.late = LateService(peer, ResetScene, 'reset_scene', self.resets.append, lambda response: None)
        else:
            peer.create_service(ResetScene, 'reset_scene', self._reset)

    def answer(self):
        """Success for the reset that waits for it; returns when the manager has the answer."""
        known = len(self.taken)
        self.late.reply(self._fill)
        self.table.until(lambda: len(self.taken) > known, 'the answer')

    def until_asked(self, number):
        self.table.until(lambda: len(self.resets) == number, f'request {number}')
        self.table.until(lambda: self.late._header is not None, 'whom to answer')

    def _reset(self, request, response):
        self.resets.append(request)
        return self._fill(response)

    def _fill(self, response):
        self.first += 1_000_000 * MS
        response.success = not self.refusal
        response.message = self.refusal
        response.start = conversions.time_message(self.first)
        response.hand_target = np.array(START_HAND, np.float32)
        return response

    def wait_phase(self, phase, episode=None) -> EpisodeState:
        def seen():
            return self.states and self.states[-1].phase == phase and episode in (None, self.states[-1].episode)

        self.table.until(seen, f'phase {phase!r} of episode {episode}')
        return self.states[-1]

    def tick(self, episode, step, **verdict):
        """One tick as the manager sees it: action of the tick before, then the verdict."""
        stamp = self.first + step * 100 * MS
        if step:
            target = np.full(6, 0.1 * (step % 2), np.float32)
            action = ExecutedAction(stamp - 100 * MS, episode, step - 1, hand_target=target)
            self.table.send('executed_action', action)
        if self.table.node.setting('purpose') in ('demos', 'reward'):
            self.table.send('policy_step', PolicyStep(stamp, episode, step))
        else:
            self.table.send('reward', Reward(stamp, episode, step, **verdict))

    def mark(self, mark, step):
        self.table.send('teleop_command', TeleopCommand(self.first + step * 100 * MS - 1, mark=mark))
        self.table.until(lambda: mark in [known for _, known in self.table.node._verdicts.marks], 'the mark')

    def done(self):
        self.wait_phase(Phase.DONE)
        self.table.until(lambda: self.table.node.finished, 'the end of the node')
