"""learner with its real core and a peer that is the recorder."""

import json
import shutil

import pytest

pytest.importorskip('rclpy')
torch = pytest.importorskip('torch')
torch.set_num_threads(1)  # two spin against each other on a busy machine

from dex_rl_nodes.msg import Transition as TransitionMessage
from dex_rl_nodes.srv import FetchTransitions
from harness import bench, ros  # noqa: F401

from dex_rl_nodes.learning.checkpoint import numbered
from dex_rl_nodes.learning.interfaces import create_interface
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.metrics import MetricsWriter
from dex_rl_nodes.learning.residual import ResidualRunner
from dex_rl_nodes.learning.sac import ResidualSettings
from dex_rl_nodes.learning.speed import random_transitions
from dex_rl_nodes.nodes import conversions, learner
from dex_rl_nodes.nodes.learner import LearnerNode
from dex_rl_nodes.recording.transitions import retraction

FEATURES = 8
SETTINGS = ResidualSettings(width=16, projection=8, batch=8, start=10, publish_every=20, critic_warmup=0)


@pytest.fixture(scope='module')
def interface():
    torch.manual_seed(1)
    return create_interface('latent_prior').freeze()


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    return tmp_path / 'test'


def _transitions(interface, count, seed=1):
    return random_transitions(count, FEATURES, interface.context_dim, interface.core_dim, seed)


class Recorder:
    """What the learner needs of replay_recorder."""

    def __init__(self, table, recorded):
        self.table, self.recorded, self.requests = table, recorded, []
        self.service = table.peer.create_service(FetchTransitions, 'fetch_transitions', self._answer)

    def _answer(self, request, response):
        self.requests.append(request.first)
        wanted = self.recorded[request.first - 1 : request.first - 1 + request.count]
        response.newest = len(self.recorded)
        response.transitions = [conversions.to_message(transition, TransitionMessage) for transition in wanted]
        return response

    def publish(self, transition):
        self.table.send('transitions', transition)


def _table(bench, interface, folder, recorded, core=None):
    core = core or Learner(SETTINGS, interface, _transitions(interface, 40, seed=0), seed=0)
    table = bench(LearnerNode, core, MetricsWriter(folder), lockstep=False, run='test', checkpoint_every=20, niceness=0)
    return table, Recorder(table, recorded), core


def test_fetches_what_was_recorded_before_it_started(bench, interface, run_folder):
    recorded = _transitions(interface, 450)
    table, recorder, core = _table(bench, interface, run_folder, recorded)
    acks = table.listen('transition_ack')
    table.until(lambda: acks and acks[-1].sequence == 450, 'acknowledgement of 450')
    table.until(lambda: core.sequence == 450, 'all in the buffer')
    assert recorder.requests == [1, 201, 401]
    assert core.env_steps == 450


def test_asks_again_where_an_answer_was_dropped(bench, interface, run_folder, monkeypatch):
    monkeypatch.setattr(learner, '_FETCH_AGAIN', 0.2)
    recorded = _transitions(interface, 30)
    table, recorder, core = _table(bench, interface, run_folder, recorded)
    send, dropped = recorder.service.send_response, []
    recorder.service.send_response = lambda *answer: send(*answer) if dropped else dropped.append(answer)
    table.until(lambda: core.sequence == 30, 'all in the buffer')
    assert dropped and recorder.requests[:2] == [1, 1]
    assert core.env_steps == 30 and not table.node._deadlines


def test_fills_a_gap_and_drops_what_it_knows(bench, interface, run_folder):
    recorded = _transitions(interface, 60)
    known = recorded[:50]
    table, recorder, core = _table(bench, interface, run_folder, known)
    table.until(lambda: core.sequence == 50, 'the recorded ones')
    recorder.recorded = recorded
    for number in (50, 51, 54, 55):  # one twice, two lost on the way
        recorder.publish(recorded[number - 1])
    table.until(lambda: core.sequence == 60, 'the lost ones')
    assert core.env_steps == 60


def test_asks_again_for_a_gap_whose_answer_was_dropped_though_nothing_more_comes(
    bench, interface, run_folder, monkeypatch
):
    monkeypatch.setattr(learner, '_FETCH_AGAIN', 0.2)
    recorded = _transitions(interface, 14)
    table, recorder, core = _table(bench, interface, run_folder, recorded[:10])
    table.until(lambda: core.sequence == 10, 'the recorded ones')
    send, dropped = recorder.service.send_response, []
    recorder.service.send_response = lambda *answer: send(*answer) if dropped else dropped.append(answer)
    recorder.recorded = recorded
    recorder.publish(recorded[13])  # three were lost on the way, and now the robot rests
    table.until(lambda: core.sequence == 14, 'the lost ones')
    assert dropped and core.env_steps == 14 and not table.node._deadlines


def test_learns_publishes_and_checkpoints_within_its_budget(bench, interface, run_folder):
    recorded = _transitions(interface, 45)
    table, _, core = _table(bench, interface, run_folder, recorded)
    weights, states = table.listen('policy_weights'), table.listen('learner_state')
    table.until(lambda: weights and weights[-1].version == 2, 'weights 2')
    table.until(lambda: states and states[-1].updates == 45, 'the state')
    assert (core.updates, states[-1].env_steps, states[-1].weights_version) == (45, 45, 2)
    assert states[-1].critic_loss > 0
    runner = ResidualRunner(interface)
    runner.load_weights(weights[-1].data.tobytes(), weights[-1].version, weights[-1].sha256)
    assert [path.stem for path in numbered(run_folder / 'learner')] == ['step_20', 'step_40']
    table.close()
    assert numbered(run_folder / 'learner')[-1].stem == 'step_45'
    lines = [json.loads(line) for line in (run_folder / 'metrics.jsonl').read_text().splitlines()]
    assert {'time', 'env_steps', 'updates', 'episodes', 'critic_loss'} <= set(lines[-1])


def test_goes_on_after_a_kill_as_if_nothing_had_happened(bench, interface, run_folder):
    """A killed learner has its last checkpoint and the recorder's disk; from both follows what it would have become."""
    recorded = _transitions(interface, 30)
    table, _, core = _table(bench, interface, run_folder, recorded)
    table.until(lambda: core.updates == 30 and numbered(run_folder / 'learner'), 'the first session')
    survived = run_folder.parent / 'survived'
    shutil.copytree(run_folder / 'learner', survived)  # step_20: the rest dies with the process
    later = Learner(SETTINGS, interface, _transitions(interface, 40, seed=0), seed=0)
    later.load_newest(survived)
    assert later.updates == 20
    table.close()
    again, _, _ = _table(bench, interface, run_folder, recorded, core=later)
    again.until(lambda: later.updates == 30, 'the second session')
    assert later.sequence == 30 and later.weights()[1] == core.weights()[1]


def test_a_discarded_episode_leaves_the_buffer(bench, interface, run_folder):
    recorded = _transitions(interface, 80)
    table, recorder, core = _table(bench, interface, run_folder, list(recorded))
    states = table.listen('learner_state')
    table.until(lambda: core.sequence == 80, 'the recorded ones')
    recorder.recorded.append(retraction(0, 0, 81))
    recorder.publish(recorder.recorded[-1])
    table.until(lambda: states and core.sequence == 81, 'the retraction')
    assert (len(core.online), core.retracted, core.env_steps, core.ready) == (0, 80, 80, False)
    table.until(lambda: states[-1].episodes == 0, 'the state')


def test_another_encoder_is_named(bench, interface, run_folder):
    from dex_rl_nodes.errors import UserError

    recorded = _transitions(interface, 1)
    recorded[0].encoder = 'other:1'
    table, _, _ = _table(bench, interface, run_folder, recorded)
    with pytest.raises(UserError, match='encoder "other:1"'):
        table.until(lambda: False, 'the error')
