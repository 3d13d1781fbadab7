"""Online residual RL in one process and lockstep; and the learner as the learner node starts it."""

import copy
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.device import training_device
from dex_rl_nodes.learning.encoder import VisualEncoder
from dex_rl_nodes.learning.interfaces import ActionInterface
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.metrics import MetricsWriter
from dex_rl_nodes.learning.policy import BCPolicy
from dex_rl_nodes.learning.reward import RewardRunner
from dex_rl_nodes.recording.history import owed_retraction, read_history
from dex_rl_nodes.recording.reader import next_folder, repair_all
from dex_rl_nodes.recording.spool import SUFFIX, TransitionSpool, count_transitions, read_transitions
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import Origin, PolicyStep, Transition
from dex_rl_nodes.seeds import start_seed
from dex_rl_nodes.sim.assistant import Assistant
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.loop import Brain, Loop
from dex_rl_nodes.stages.progress import ProgressBoard

_SAVE_EVERY = 2000  # updates
_SLICE = 100  # updates between two looks at whether to stop
_SWITCH = 5e-4  # s; neither thread shall wait longer for the interpreter


def demonstration_transitions(
    episode: Episode, encoder: VisualEncoder, interface: ActionInterface, policy: BCPolicy, reward: RewardRunner | None
) -> list[Transition]:
    """A demonstration as transitions, with the base action of the frozen policy at every observation.

    The episode ends where the classifier sees success, as it would online, at the latest with its last action; that
    transition has reward 1 and no bootstrap.
    """
    features = encoder.encode_batch(episode.images)
    with torch.inference_mode():
        history = torch.from_numpy(np.ascontiguousarray(episode.hand_history))
        context = interface.context(history)
        state = torch.from_numpy(np.ascontiguousarray(episode.state))
        core = policy(torch.from_numpy(features), state, history, context).numpy()
    last = _end_by_classifier(episode, encoder.identity, features, reward) if reward else len(episode)
    rows = [
        {
            'features': features[n], 'state': episode.state[n], 'hand_history': episode.hand_history[n],
            'context': context[n].numpy(), 'base_core': core[n],
        }
        for n in range(last + 1)
    ]  # fmt: skip
    return [
        Transition(
            episode=episode.episode,
            step=n,
            encoder=encoder.identity,
            residual=np.zeros_like(core[n]),
            action=episode.action[n],
            reward=float(n + 1 == last),
            mask=float(n + 1 != last),
            success=n + 1 == last,
            source=Origin.DEMONSTRATION,
            **rows[n],
            **{f'next_{name}': value for name, value in rows[n + 1].items()},
        )
        for n in range(last)
    ]


def _end_by_classifier(episode: Episode, encoder: str, features: np.ndarray, reward: RewardRunner) -> int:
    """Number of actions of an episode until the classifier calls it a success, or all of them."""
    reward.reset()
    for n in range(1, len(episode)):
        step = PolicyStep(episode=-1 - episode.episode, step=n, encoder=encoder, features=features[n])
        if reward.step(step).success:
            return n
    return len(episode)


def make_learner(job: Job, device: torch.device | None = None) -> Learner:
    """The run's learner with its demonstrations, gone on from the newest checkpoint; without online transitions.

    Args:
        job: the run.
        device: where it computes; None: on a card where there is one. The demonstrations are encoded on the processor
            like what the robot sees.
    """
    device = device or training_device()
    encoder, interface = job.encoder(), job.interface()
    policy, reward = job.policy(encoder, interface), job.reward(encoder)
    demonstrations = [
        transition
        for episode in job.demonstrations()
        for transition in demonstration_transitions(episode, encoder, interface, policy, reward)
    ]
    learner = Learner(
        job.residual_settings, copy.deepcopy(interface).to(device), demonstrations, job.settings.seed, device
    )
    checkpoint = learner.load_newest(job.run.file('learner'))
    recorded, _ = count_transitions(job.run)
    if learner.learned_from > recorded:
        print(
            f'{checkpoint} was learned from {learner.learned_from} online transitions, of which {recorded} are in '
            f'{job.run.bags("online")}; learning goes on with these and counts the budget from there',
            file=sys.stderr,
            flush=True,
        )
    learner.expect(recorded)
    return learner


class _InPlace(Executor):
    """Does at once, in the thread of the caller, what it is given."""

    def submit(self, function, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future


class OnlineSession:
    """One sitting of online learning: one learner iteration per transition, bit for bit repeatable.

    The iteration for a transition runs in a second thread while the next tick is decided and simulated, and has ended
    before that tick's transition is learned from: two cores are used, and no result depends on how fast they are.
    Where other work keeps the cores busy, one thread does more in the same time.

    Args:
        job: its transitions and checkpoints are continued.
        presence: share of the episodes in which a scripted person watches and takes over when the policy is stuck.
        record: write the episodes to bags, cameras included; the transitions are always written.
        second_thread: False: iterate in the caller's thread.
        device: as for `make_learner`.
    """

    def __init__(
        self,
        job: Job,
        presence: float = 0.0,
        record: bool = False,
        second_thread: bool = True,
        device: torch.device | None = None,
    ):
        self.job, self._record = job, record
        for sentence in repair_all(job.run.bags('online')):
            print(sentence, file=sys.stderr, flush=True)
        self.learner = make_learner(job, device)
        self._episode = read_history(job.run, 'online').next_episode
        self._brain: Brain = job.brain()
        if self.learner.updates:
            self._brain.residual.load_weights(self.learner.weights()[0], self.learner.version)
        self._folder: Path = next_folder(job.run.bags('online'))
        self._spool = TransitionSpool(job.run, self._folder.with_name(self._folder.name + SUFFIX))
        if owed := owed_retraction(job.run, self._spool):
            self._spool.append(owed)
        self.learner.extend(read_transitions(job.run))
        self._metrics, self._saved = MetricsWriter(job.run.path), self.learner.updates
        self._trainer: Executor = _InPlace()
        if second_thread:
            self._trainer = ThreadPoolExecutor(1, 'training', torch.set_num_threads, (torch.get_num_threads(),))
        self._training: Future[list[dict[str, float]]] | None = None
        operator = Assistant(job.task, job.robot) if presence else None
        self._loop = Loop(
            job.task, job.robot, self._brain, operator, presence, transitions=self._take, newest=self._spool.newest
        )

    def learn(self, budget: int, tell: Callable[[int, str], None]) -> None:
        """Run episodes until there are `budget` transitions; what was learned is kept however it ends.

        Args:
            tell: told after every episode how many transitions there are, and how it goes.
        """
        learner = self.learner
        with ExitStack() as ends:  # each is run, whatever the others say
            bag = self._open(ends)
            self._catch_up(tell)
            while learner.env_steps < budget:
                seed = start_seed(self.job.task, 'online', self.job.settings.seed, self._episode)
                left = min(self.job.task.episode_steps, budget - learner.env_steps)
                self._loop.episode(self._episode, seed, 'online', bag, left)
                self._episode += 1
                self._use_what_was_learned()
                self._metrics.write(learner.progress(), episode_ended=True)
                tell(learner.env_steps, f'{learner.episodes} episodes, last 20: {learner.success_rate:.0%} successful')
            self._catch_up(tell)

    def _catch_up(self, tell: Callable[[int, str], None]) -> None:
        """Make the iterations that an earlier session left, slice by slice: each is kept, and Ctrl-C is heard."""
        while self.learner.ready:
            self._training = self._trainer.submit(self._train)
            self._use_what_was_learned()
            tell(self.learner.env_steps, f'catching up: {self.learner.updates} iterations')

    def _open(self, ends: ExitStack) -> BagWriter | None:
        """The bag of this sitting, where one is wanted; everything that must be closed goes to `ends`."""
        ends.callback(self._metrics.close)
        ends.callback(self._spool.close)
        bag = BagWriter(self._folder) if self._record else None
        if bag:
            ends.callback(bag.close)
        ends.callback(self._loop.close)
        ends.callback(self._save)
        ends.callback(self._trainer.shutdown)
        ends.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH)
        return bag

    def _save(self) -> None:
        if self.learner.updates > self._saved:
            self.learner.save(self.job.run.file('learner'))
            self._saved = self.learner.updates

    def _take(self, transition: Transition) -> None:
        """A new transition: act with what was learned from those before it, keep it, and begin to learn from it."""
        self._use_what_was_learned()
        self._spool.append(transition)
        self.learner.add(transition)
        if self.learner.ready:
            self._training = self._trainer.submit(self._train)

    def _train(self) -> list[dict[str, float]]:
        """Iterations that are due, in the second thread; their losses."""
        losses = []
        while self.learner.ready and len(losses) < _SLICE:
            losses.append(self.learner.update())
        return losses

    def _use_what_was_learned(self) -> None:
        """Wait for the second thread; then nobody but the caller touches the learner."""
        if self._training is None:
            return
        training, self._training = self._training, None
        for losses in training.result():
            self._metrics.add(losses)
        learner = self.learner
        self._metrics.write(learner.progress())
        if weights := learner.new_weights():
            version, data, sha256 = weights
            self._brain.residual.load_weights(data, version, sha256)
        if learner.updates - self._saved >= _SAVE_EVERY:
            self._save()


def learn_online(job: Job, steps: int = 0, presence: float = 0.0, record: bool = False) -> Learner:
    """Learn the residual up to `steps` online transitions in all (0: the task's budget); see OnlineSession."""
    board, budget = ProgressBoard(), steps or job.task.online_steps
    session = OnlineSession(job, presence, record)
    try:
        session.learn(budget, lambda done, note: board.update('online', done, budget, note))
    finally:
        board.close()
    return session.learner
