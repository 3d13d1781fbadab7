"""lmpm_decoder, residual_actor and reward_classifier with their real cores."""

import numpy as np
import pytest

pytest.importorskip('rclpy')
torch = pytest.importorskip('torch')
torch.set_num_threads(1)  # two spin against each other on a busy machine

from dex_rl_nodes.msg import PolicyWeights
from diagnostic_msgs.msg import DiagnosticStatus
from harness import START_HAND, bench, ros  # noqa: F401

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.encoder import DemoEncoder
from dex_rl_nodes.learning.interfaces import create_interface
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.prior_runner import PriorRunner
from dex_rl_nodes.learning.residual import ResidualRunner
from dex_rl_nodes.learning.reward import RewardModel, RewardRunner, RewardSettings
from dex_rl_nodes.learning.sac import ResidualSettings
from dex_rl_nodes.learning.speed import random_transitions
from dex_rl_nodes.nodes.lmpm_decoder import LmpmDecoder
from dex_rl_nodes.nodes.residual_actor import ResidualActor
from dex_rl_nodes.nodes.reward_classifier import RewardClassifier
from dex_rl_nodes.records import CoreAction, EpisodeState, ExecutedAction, Phase, PolicyStep

FEATURES = 8


@pytest.fixture(scope='module')
def interface():
    torch.manual_seed(1)
    return create_interface('latent_prior').freeze()


def _step(interface, episode=0, step=0, stamp=1000):
    random = np.random.default_rng([episode, step])
    return PolicyStep(
        stamp, episode, step, 'e', features=random.random(FEATURES, np.float32),
        context=random.random(interface.context_dim, np.float32),
        base_core=random.random(interface.core_dim, np.float32),
    )  # fmt: skip


def test_decoder_gives_prior_and_command_of_every_tick(bench, interface):
    table = bench(LmpmDecoder, PriorRunner(interface))
    priors, commands = table.listen('hand_prior'), table.listen('action_command')
    reference = PriorRunner(interface)
    episode = table.run_episode()
    table.until(lambda: len(priors) == 1, 'prior of tick 0')
    expected = reference.reset(episode)
    for step in range(10):
        assert (priors[step].episode, priors[step].step) == (0, step)
        assert np.array_equal(priors[step].hand_history, expected.hand_history)
        assert np.array_equal(priors[step].context, expected.context)
        core = CoreAction(
            1000 + step, 0, step, core=np.full(interface.core_dim, 0.1, np.float32), context=expected.context
        )
        table.send('core_action', core)
        table.until(lambda: len(commands) == step + 1, f'command {step}')
        assert np.array_equal(commands[step].hand, reference.decode(core).hand)
        executed = ExecutedAction(1000 + step, 0, step, hand_target=np.full(6, step / 10, np.float32))
        table.send('executed_action', executed)
        table.until(lambda: len(priors) == step + 2, f'prior {step + 1}')
        expected = reference.executed(executed)


def test_decoder_ignores_what_belongs_to_other_episodes(bench, interface):
    table = bench(LmpmDecoder, PriorRunner(interface))
    priors = table.listen('hand_prior')
    early = ExecutedAction(2000, 1, 0, hand_target=np.full(6, 0.5, np.float32))
    table.send('executed_action', early)  # overtakes the message that starts its episode
    table.run_episode(0)
    table.until(lambda: len(priors) == 1, 'prior of episode 0')
    table.send('episode', EpisodeState(1500, 0, Phase.ENDED, final_step=0))
    table.until(lambda: not table.node.running, 'end of episode 0')
    table.send('executed_action', ExecutedAction(1400, 0, 5, hand_target=np.ones(6, np.float32)))  # a leftover
    table.run_episode(1, stamp=2000)
    table.until(lambda: len(priors) >= 3, 'both priors of episode 1')
    assert [(prior.episode, prior.step) for prior in priors] == [(0, 0), (1, 0), (1, 1)]
    assert priors[2].hand_history[-6:].tolist() == [0.5] * 6
    assert np.allclose(priors[2].hand_history[:6], START_HAND)


@pytest.fixture(scope='module')
def learner(interface):
    transitions = random_transitions(80, FEATURES, interface.context_dim, interface.core_dim)
    learner = Learner(ResidualSettings(width=16, projection=8, batch=8, start=10), interface, transitions, seed=0)
    learner.extend(transitions)
    learner.update()
    return learner


def test_actor_without_weights_passes_the_base_on_bit_for_bit(bench, interface):
    table = bench(ResidualActor, ResidualRunner(interface))
    actions = table.listen('core_action')
    table.run_episode()
    table.send('policy_step', _step(interface))
    table.until(lambda: actions, 'core action')
    assert np.array_equal(actions[0].core, _step(interface).base_core)
    assert not actions[0].residual.any() and actions[0].weights_version == 0


def test_actor_without_weights_is_not_scored_as_a_learned_one(bench, interface):
    table = bench(ResidualActor, ResidualRunner(interface))
    table.send('episode', EpisodeState(1000, 0, Phase.RUNNING, purpose='evaluation'))
    with pytest.raises(UserError, match='no residual yet; run ./dexrl launch online_rl.launch.py'):
        table.until(lambda: False, 'never')


def test_actor_uses_new_weights_and_refuses_damaged_ones(bench, interface, learner):
    table = bench(ResidualActor, ResidualRunner(interface))
    actions = table.listen('core_action')
    data, sha256 = learner.weights()
    table.send('policy_weights', PolicyWeights(version=3, updates=1, sha256=sha256, data=data))
    table.until(lambda: table.node._runner.version == 3, 'weights 3')
    table.send('policy_weights', PolicyWeights(version=4, updates=2, sha256=sha256, data=data[:-1] + b'x'))
    table.until(lambda: table.node._refused, 'refusal')
    table.run_episode(seed=5, purpose='evaluation')
    table.send('policy_step', _step(interface))
    table.until(lambda: actions, 'core action')
    reference = ResidualRunner(interface)
    reference.load_weights(data, 3, sha256)
    expected = reference.step(_step(interface), 5, deterministic=True)
    assert np.array_equal(actions[0].core, expected.core) and actions[0].residual.any()
    assert actions[0].weights_version == 3 and actions[0].deterministic


def test_actor_samples_the_same_noise_as_one_process_does(bench, interface, learner):
    runner, reference = ResidualRunner(interface), ResidualRunner(interface)
    for each in (runner, reference):
        each.load_weights(*(lambda data, sha256: (data, 1, sha256))(*learner.weights()))
    table = bench(ResidualActor, runner)
    actions = table.listen('core_action')
    table.run_episode(seed=77)
    for step in range(3):
        table.send('policy_step', _step(interface, step=step))
    table.until(lambda: len(actions) == 3, 'three core actions')
    for step, action in enumerate(actions):
        assert np.array_equal(action.residual, reference.step(_step(interface, step=step), 77).residual)


def test_residual_none_does_not_listen_to_the_learner(bench, interface):
    table = bench(ResidualActor, ResidualRunner(interface), residual='none')
    table.until(lambda: table.peer.count_subscribers('policy_step') == 1, 'discovery')
    assert table.peer.count_subscribers('policy_weights') == 0


def _classifier():
    torch.manual_seed(2)
    encoder = DemoEncoder().freeze()
    model = RewardModel(encoder.spatial_shape, RewardSettings()).eval().requires_grad_(False)
    return encoder, model, RewardRunner(model, encoder, threshold=0.0, hold=2)


def test_classifier_judges_every_tick_of_the_running_episode(bench):
    encoder, model, runner = _classifier()
    table = bench(RewardClassifier, runner)
    rewards = table.listen('reward')
    table.run_episode()
    features = np.random.default_rng(3).random(encoder.feature_dim, np.float32)
    for step in range(3):
        table.send('policy_step', PolicyStep(1000 + step, 0, step, encoder.identity, features))
    table.until(lambda: len(rewards) == 3, 'three rewards')
    with torch.inference_mode():
        probability = float(model(torch.from_numpy(features[None])).sigmoid())
    assert [reward.step for reward in rewards] == [0, 1, 2]
    assert [reward.success for reward in rewards] == [False, True, True]
    assert rewards[0].probability == pytest.approx(probability)


def test_a_classifier_that_is_late_says_so(bench):
    encoder, _, runner = _classifier()
    table = bench(RewardClassifier, runner, lockstep=False)
    heard, rewards = table.listen('/diagnostics'), table.listen('reward')
    table.run_episode()
    seen = table.peer.get_clock().now().nanoseconds - 2 * 10**9
    table.send('policy_step', PolicyStep(seen, 0, 0, encoder.identity, np.zeros(encoder.feature_dim, np.float32)))
    table.until(lambda: rewards, 'the verdict')

    def told():
        found = [status for array in heard for status in array.status if status.name == 'reward_classifier: classifier']
        return any(status.level == DiagnosticStatus.WARN and 'verdicts come 2.' in status.message for status in found)

    table.until(told, 'a warning')
