"""Learns the residual from transitions, beside the robot and never in its way."""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

from dex_rl_nodes.msg import LearnerState, PolicyWeights, TransitionAck
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import WARN, Node
from dex_rl_nodes.nodes.scheduling import step_back
from dex_rl_nodes.records import Transition
from dex_rl_nodes.srv import FetchTransitions

if TYPE_CHECKING:
    from dex_rl_nodes.learning.learner import Learner
    from dex_rl_nodes.learning.metrics import MetricsWriter

_CHUNK = 200  # transitions fetched at once
_FETCH_DEADLINE = 30.0  # s
_FETCH_AGAIN = 5.0  # s; the middleware drops the answer of a service that does not know its client yet
_IDLE = 0.05  # s; how long the training thread waits for transitions


class LearnerNode(Node):
    """Wraps Learner. The executor's thread receives, acknowledges and fetches; a second thread trains and publishes.

    Transitions are numbered. What is missing, at the start or after a gap, is fetched from the recorder, in order.
    """

    def __init__(self, core: Learner | None = None, metrics: MetricsWriter | None = None, **options: Any):
        super().__init__('learner', **options)
        self._core = core or self._load()
        step_back(self.setting('niceness'))  # not before: the robot waits until the learner is there
        self._metrics = metrics or self._open_metrics()
        self._received = 0  # newest transition without a gap below it
        self._heard = 0  # newest transition that came after a gap
        self._inbox: deque[Transition] = deque()
        self._news = threading.Event()
        self._stopping = False
        self._failure: Exception | None = None
        self._failure_told = False
        self._losses: dict[str, float] = {}
        self._saved = self._core.updates
        self._rate_mark = time.monotonic(), self._core.updates
        self._fetching = False
        self._asked = 0.0  # s, monotonic; when the recorder was asked last
        self._caught_up = False  # whether the recorder has said that there is nothing more
        self._fetch_client = self.client('fetch_transitions')
        self.subscribe('transitions', self._on_transition)
        self.advertise('policy_weights', 'learner_state', 'transition_ack')
        self.every(0.2, self._look_after)
        self.every(1.0, self._publish_state)
        self._expect_answer()
        self._thread = threading.Thread(target=self._train, name='training')
        self._thread.start()

    def _load(self) -> Learner:
        import torch

        from dex_rl_nodes.stages.online import make_learner

        torch.set_num_threads(self.setting('threads'))
        return make_learner(self.job)

    def _open_metrics(self) -> MetricsWriter:
        from dex_rl_nodes.learning.metrics import MetricsWriter

        return MetricsWriter(self.run_directory.path)

    # Receiving

    def _on_transition(self, transition: Transition) -> None:
        if transition.sequence == self._received + 1:
            self._take([transition])
        elif transition.sequence > self._received:
            self._heard = transition.sequence  # it may be newer than an answer that is under way
            self._fetch()

    def _take(self, transitions: list[Transition]) -> None:
        self._received = transitions[-1].sequence
        self._inbox.extend(transitions)
        self._news.set()
        self.publish('transition_ack', TransitionAck(sequence=self._received))

    def _fetch(self) -> None:
        """Ask the recorder for what comes after the newest transition received; once more where no answer came.

        An answer that comes twice changes nothing, and the deadline is that of the first question.
        """
        now = time.monotonic()
        if not self._fetch_client.service_is_ready() or (self._fetching and now < self._asked + _FETCH_AGAIN):
            return
        if not self._fetching:
            self._expect_answer()
        self._fetching, self._asked = True, now
        request = FetchTransitions.Request(first=self._received + 1, count=_CHUNK)
        self.ask(self._fetch_client, request, self._on_fetched)

    def _expect_answer(self) -> None:
        self.wait_for('fetch_transitions', _FETCH_DEADLINE, 'is replay_recorder running?')

    def _on_fetched(self, answer: Any) -> None:
        self._fetching = False
        self.arrived('fetch_transitions')
        transitions = [conversions.to_record(message, Transition) for message in answer.transitions]
        if transitions and transitions[0].sequence == self._received + 1:
            self._take(transitions)
        self._caught_up = max(answer.newest, self._heard) <= self._received
        if not self._caught_up and transitions:
            self._fetch()

    # Training, on a thread of its own

    def _train(self) -> None:
        try:
            while not self._stopping:
                if not self._learn_once():
                    self._news.wait(_IDLE)
                    self._news.clear()
        except Exception as error:  # handed to the executor's thread, which ends the node with it
            self._failure = error

    def _learn_once(self) -> bool:
        """Take what has arrived, and do one update if there is one to do."""
        core = self._core
        episodes = core.episodes
        while self._inbox:
            core.add(self._inbox.popleft())
        if not self._caught_up:
            return False
        self._metrics.write(core.progress(), episode_ended=core.episodes != episodes)
        if not core.ready:
            return False
        self._losses |= (losses := core.update())
        self._metrics.add(losses)
        if weights := core.new_weights():
            version, data, sha256 = weights
            self.publish(
                'policy_weights',
                PolicyWeights(version=version, updates=core.updates, sha256=sha256, data=array('B', data)),
            )
        if core.updates - self._saved >= self.setting('checkpoint_every'):
            self._save()
        return True

    def _save(self) -> None:
        self._core.save(self.run_directory.file('learner'))
        self._saved = self._core.updates

    # Looking after both

    def _look_after(self) -> None:
        if self._failure is not None:
            self._failure_told = True
            raise self._failure
        if self._fetching or not self._caught_up:  # a question whose answer was lost is asked once more
            self._fetch()

    def _publish_state(self) -> None:
        core = self._core
        now = time.monotonic()
        then, updates = self._rate_mark
        self._rate_mark = now, core.updates
        progress = {name: type(getattr(LearnerState(), name))(value) for name, value in core.progress().items()}
        state = LearnerState(
            **progress,
            weights_version=core.version,
            updates_per_second=(core.updates - updates) / max(now - then, 1e-6),
            **{name: self._losses.get(name, 0.0) for name in ('critic_loss', 'actor_loss', 'temperature', 'entropy')},
        )
        state.header.stamp = self.get_clock().now().to_msg()
        self.publish('learner_state', state)

    def diagnose(self) -> None:
        values = {'received': self._received, 'waiting': len(self._inbox), 'updates': self._core.updates}
        values |= {'retracted': self._core.retracted, 'skipped_steps': self._core.sac.skipped}
        if self._core.rejected:
            rejected = f'{self._core.rejected} transitions with numbers that are not finite were left out'
            self.report('transitions', WARN, rejected, **values)
        else:
            self.report('transitions', **values)

    def close(self) -> None:
        self._stopping = True
        self._news.set()
        self._thread.join()
        if self._failure is None:
            if left := self._core.behind:
                self.get_logger().warning(
                    f'{left} learner iterations that the transitions allow are not made yet; this command, started '
                    f'again, makes them while it runs, and in simulation ./dexrl online makes them all'
                )
            self._metrics.write(self._core.progress(), episode_ended=True)
            if self._core.updates > self._saved:
                self._save()
        self._metrics.close()
        if self._failure is not None and not self._failure_told:  # it came while this node closes
            self._look_after()


def main() -> None:
    """Entry point."""
    run_node(LearnerNode)


if __name__ == '__main__':
    main()
