"""The learner and the residual actor: learns, repeats itself, comes back from a checkpoint, refuses what is foreign."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_reach import ToyReach, demonstrations, success_rate, toy_interface

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import load_checkpoint, numbered, save_checkpoint
from dex_rl_nodes.learning.learner import Learner
from dex_rl_nodes.learning.residual import ResidualRunner, WanderingResidual
from dex_rl_nodes.learning.sac import ResidualSac, ResidualSettings
from dex_rl_nodes.learning.speed import random_transitions, sac_speed
from dex_rl_nodes.recording.transitions import retraction
from dex_rl_nodes.records import Origin, PolicyStep

SMALL = ResidualSettings(width=32, projection=8, batch=32, start=20, publish_every=5, critic_warmup=0)
INTERFACE = toy_interface()
DEMONSTRATIONS = demonstrations(5, seed=1)


def online(count: int, seed: int = 2) -> list:
    return random_transitions(count, DEMONSTRATIONS[0].features.size, 0, 7, seed)


def make(seed: int = 0, settings: ResidualSettings = SMALL) -> Learner:
    return Learner(settings, INTERFACE, DEMONSTRATIONS, seed)


def test_learns_to_reach_with_a_biased_base():
    """From 39 % with the base alone to 90 % and more within 900 steps of a sparse reward."""
    interface = toy_interface(arm=0.8)
    runner = ResidualRunner(interface)
    assert success_rate(runner, 100, seed=99) < 0.5
    settings = ResidualSettings(width=64, projection=16, batch=64, critic_warmup=100)
    learner = Learner(settings, interface, demonstrations(20, seed=1), seed=0)
    task, best = ToyReach(seed=5), 0.0
    while learner.env_steps < 900 and best < 0.9:
        before, ended = task.reset(), False
        while not ended:
            transition, before = task.act(before, runner.step(before, seed=3))
            learner.add(transition)
            ended = transition.truncated or transition.success
            while learner.ready:
                learner.update()
            if new := learner.new_weights():
                runner.load_weights(new[1], new[0], new[2])
        if learner.env_steps > 300 and learner.success_rate >= 0.9:
            best = max(best, success_rate(runner, 50, seed=99))
    print('steps', learner.env_steps, 'success', best)
    assert best >= 0.9


def test_same_seed_same_bits_and_resume_continues_them(tmp_path):
    transitions = online(60)
    first, second = make(), make()
    for learner in (first, second):
        learner.extend(transitions)
        for _ in range(12):
            learner.update()
    assert first.weights() == second.weights()
    assert make(seed=1).weights() != make(seed=0).weights()

    path = first.save(tmp_path)
    resumed = make(seed=7)
    resumed.load(path)
    resumed.extend(transitions)  # from the bags
    assert (resumed.updates, resumed.env_steps, resumed.sequence) == (12, 60, 60)
    for _ in range(5):
        assert resumed.update() == first.update()
    assert resumed.weights() == first.weights()


def test_newest_whole_checkpoint_is_found(tmp_path):
    learner = make()
    assert learner.load_newest(tmp_path) is None
    learner.extend(online(60))
    for _ in range(5):
        learner.update()
        learner.save(tmp_path)
    assert [path.stem for path in numbered(tmp_path)] == ['step_3', 'step_4', 'step_5']
    numbered(tmp_path)[-1].with_suffix('.json').unlink()  # killed while writing
    other = make()
    assert other.load_newest(tmp_path).stem == 'step_4' and other.updates == 4


def test_a_damaged_checkpoint_says_which_files_to_delete_and_what_is_left(tmp_path):
    learner = make()
    learner.extend(online(60))
    for _ in range(2):
        learner.update()
        learner.save(tmp_path)
    damaged = numbered(tmp_path)[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b'?')
    sentence = (
        r'the checksum does not match.*; delete step_2.safetensors and step_2.json in .* the checkpoint before it'
    )
    for load in (make().load_newest, lambda folder: ResidualRunner(INTERFACE).load_checkpoint(numbered(folder)[-1])):
        with pytest.raises(UserError, match=sentence):
            load(tmp_path)
    for path in (damaged, damaged.with_suffix('.json')):
        path.unlink()
    assert make().load_newest(tmp_path).stem == 'step_1'


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = make().save(tmp_path)
    with pytest.raises(UserError, match=f'shape .*; delete {tmp_path} to learn anew from the recorded transitions'):
        make(settings=SMALL.model_copy(update={'width': 16})).load(path)


def test_a_learner_of_before_the_critic_read_motion_is_refused_and_its_residual_still_acts(tmp_path):
    path = make().save(tmp_path)
    checkpoint = load_checkpoint(path)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith('motion.')}
    save_checkpoint(path, tensors, {k: v for k, v in checkpoint.meta.items() if k not in ('sha256', 'shapes')})
    with pytest.raises(UserError, match=r'"motion.mean" is missing.*; delete .* to learn anew'):
        make().load(path)
    runner = ResidualRunner(INTERFACE)
    runner.load_checkpoint(path)
    assert runner.has_weights


def test_update_budget_start_and_publication():
    learner = make()
    transitions = online(60)
    learner.extend(transitions[:19])
    assert not learner.ready
    learner.extend(transitions[19:30])
    published = []
    while learner.ready:
        learner.update()
        if new := learner.new_weights():
            published.append(new[0])
    assert learner.updates == 30
    assert published == [1, 2, 3, 4, 5, 6]
    assert learner.new_weights() is None


def test_counts_and_duplicates():
    learner = make()
    transitions = online(160)
    transitions[79] = replace(transitions[79], truncated=False, mask=0.0, success=True, reward=1.0)
    transitions[10] = replace(transitions[10], source=1)
    before = len(learner.demonstrations)
    learner.extend(transitions)
    assert not learner.add(transitions[3])
    assert (learner.env_steps, learner.episodes, learner.successes) == (160, 2, 1)
    assert learner.success_rate == 0.5
    assert learner.interventions == 1 and len(learner.demonstrations) == before + 1
    assert len(learner.online) == 160


@pytest.mark.parametrize('succeeded', [False, True])  # a success that was none can be taken back after its end
def test_a_discarded_episode_is_not_learned_from_any_more(succeeded):
    """Replay, counters and success rate are as if it had not been; a rebuilt learner agrees, bit for bit."""
    kept, later = online(80), online(240)[160:]
    thrown_away = [replace(transition, action=np.full(12, 0.625, np.float32)) for transition in online(160)[80:]]
    thrown_away[3] = replace(thrown_away[3], source=Origin.INTERVENTION)
    end = {'success': succeeded, 'reward': float(succeeded), 'mask': 1.0 - succeeded, 'truncated': not succeeded}
    thrown_away[-1] = replace(thrown_away[-1], **end)
    stream = [*kept, *thrown_away, retraction(1, 0, 161), *(replace(t, sequence=t.sequence + 1) for t in later)]
    learner, without = make(), make()
    learner.extend(stream[:160])
    assert (learner.interventions, learner.episodes) == (1, 2)
    learner.extend(stream[160:])
    without.extend([*kept, *later])
    assert (learner.env_steps, learner.sequence, learner.retracted) == (240, 241, 80)
    for name in ('episodes', 'successes', 'interventions', 'success_rate'):
        assert getattr(learner, name) == getattr(without, name), name
    assert len(learner.online) == 160 and len(learner.demonstrations) == len(without.demonstrations)
    batch = learner._sampler.sample(4000, np.random.default_rng(0))
    assert not (batch.action == 0.625).any()
    again = make()
    again.extend(stream)
    assert again.update() == learner.update()


def test_a_success_makes_its_episode_worth_imitating_also_in_a_rebuilt_learner():
    stream = online(160)
    stream[70] = replace(stream[70], source=Origin.INTERVENTION_ARM)
    stream[79] = replace(stream[79], truncated=False, mask=0.0, success=True, reward=1.0)
    stream[85] = replace(stream[85], source=Origin.INTERVENTION)  # in an episode that fails
    learner = make()
    learner.extend(stream)
    own, shown = SMALL.own_worth, len(DEMONSTRATIONS)
    worth = learner.online._worth[learner.online._valid]
    assert worth[:70].max() == 0 and worth[80:].max() == 0
    assert np.allclose(worth[70], (1, own)) and np.allclose(worth[71:80], own)
    worth = learner.demonstrations._worth[learner.demonstrations._valid]
    assert np.allclose(worth[:shown], SMALL.shown_worth) and np.allclose(worth[shown:], [(1, own), (0, 0)])
    rebuilt = make()
    rebuilt.extend(stream)
    assert rebuilt.update() == learner.update()


def test_bad_transitions_are_counted_or_refused():
    learner = make()
    good, bad, foreign = online(3)
    bad.action[3] = np.nan
    assert learner.add(good) and not learner.add(bad)
    assert learner.rejected == 1 and len(learner.online) == 1
    with pytest.raises(UserError, match='encoder'):
        learner.add(replace(foreign, encoder='other:1'))
    with pytest.raises(UserError, match='demonstrations'):
        Learner(SMALL, INTERFACE, [], seed=0)


def observation(episode: int = 3, step: int = 4) -> PolicyStep:
    random = np.random.default_rng(0)
    return PolicyStep(
        episode=episode, step=step, features=random.normal(size=16).astype(np.float32),
        base_core=random.normal(size=7).astype(np.float32) / 10,
    )  # fmt: skip


def test_without_weights_the_base_acts_alone():
    core = ResidualRunner(INTERFACE).step(observation(), seed=1)
    assert np.array_equal(core.core, observation().base_core) and not core.residual.any()
    assert core.weights_version == 0


def test_scale_zero_executes_the_base_action_bit_for_bit():
    runner = ResidualRunner(toy_interface(arm=0, hand=0))
    runner.load_weights(*_weights(make()))
    core = runner.step(observation(), seed=1)
    assert core.residual.any() and np.array_equal(core.core, observation().base_core)


def _weights(learner: Learner) -> tuple[bytes, int, str]:
    data, sha256 = learner.weights()
    return data, 1, sha256


def test_noise_depends_on_seed_episode_and_step_only():
    runners = [ResidualRunner(INTERFACE) for _ in range(2)]
    for runner in runners:
        runner.load_weights(*_weights(make()))
    first, second = runners
    for _ in range(3):
        first.step(observation(), seed=9)  # what came before does not matter
    same = first.step(observation(), seed=1), second.step(observation(), seed=1)
    assert np.array_equal(same[0].core, same[1].core) and same[0].core.dtype == np.float32
    others = [first.step(observation(4), 1), first.step(observation(3, 5), 1), first.step(observation(), 2)]
    assert all(not np.array_equal(same[0].residual, other.residual) for other in others)
    modes = [first.step(observation(), seed, deterministic=True) for seed in (1, 2)]
    assert np.array_equal(modes[0].core, modes[1].core) and modes[0].deterministic


def test_a_wandering_residual_needs_no_weights_and_wanders():
    runner = WanderingResidual(INTERFACE)
    residuals = np.array([runner.step(observation(3, step), seed=1).residual for step in range(400)])
    assert np.abs(residuals).max() < 1 and 0.2 < residuals.std() < 0.9
    assert np.array_equal(runner.step(observation(3, 9), seed=1).residual, residuals[9]), 'whatever came before'
    following = np.corrcoef(residuals[1:].ravel(), residuals[:-1].ravel())[0, 1]
    later = np.corrcoef(residuals[20:].ravel(), residuals[:-20].ravel())[0, 1]
    assert following > 0.7 and abs(later) < 0.15


def test_the_robot_acts_as_the_learner_updates():
    """Runner and learner compute the same mean from the same observation."""
    learner = make()
    learner.extend(online(60))
    for _ in range(10):
        learner.update()
    runner = ResidualRunner(INTERFACE)
    runner.load_weights(*_weights(learner))
    step = observation()
    row = np.concatenate((step.state, step.hand_history, step.context, step.base_core))
    with torch.no_grad():
        mean, _ = learner.sac.policy(torch.from_numpy(step.features[None]), torch.from_numpy(row[None]))
    found = runner.step(step, seed=0, deterministic=True).residual
    assert np.allclose(found, mean[0].tanh().numpy(), atol=0.01)  # the learner may round to bfloat16


def test_an_axis_that_demonstrations_hardly_command_is_hardly_moved_by_the_residual_on_either_side():
    shown = [replace(t, action=t.action.copy()) for t in DEMONSTRATIONS]
    for number, transition in enumerate(shown):
        transition.action[:6] = np.array([0.4, 0.1, 0.05, 0.0, 0.004, 0.025]) * (-1) ** number
    learner, runner = Learner(SMALL, INTERFACE, shown, seed=0), ResidualRunner(INTERFACE)
    data, sha256 = learner.weights()
    runner.load_weights(data, 1, sha256)
    reach = runner.scale[:6] / INTERFACE.residual_scale()[:6].numpy()
    assert reach == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.5], abs=1e-3)
    assert np.array_equal(runner.scale, learner.sac.scale.numpy())
    assert np.array_equal(runner.scale[6:], INTERFACE.residual_scale()[6:].numpy()), 'the hand has a scale of its own'


def test_weights_also_come_from_a_checkpoint(tmp_path):
    learner = make()
    runner, other = ResidualRunner(INTERFACE), ResidualRunner(INTERFACE)
    runner.load_weights(*_weights(learner))
    other.load_checkpoint(learner.save(tmp_path))
    assert np.array_equal(runner.step(observation(), 1).core, other.step(observation(), 1).core)


def test_bad_weights_are_refused_and_the_old_ones_stay():
    runner = ResidualRunner(INTERFACE)
    data, version, sha256 = _weights(make())
    runner.load_weights(data, version, sha256)
    before = runner.step(observation(), seed=1).core
    foreign = Learner(SMALL, toy_interface(), DEMONSTRATIONS, 0)
    foreign.sac.policy.actor.head.weight.data[0, 0] = float('nan')
    for bad, checksum in ((data[:-9], sha256), (data, '0' * 64), (b'', None), (foreign.weights()[0], None)):
        with pytest.raises(UserError):
            runner.load_weights(bad, 2, checksum)
    assert runner.version == 1
    assert np.array_equal(runner.step(observation(), seed=1).core, before)
    with pytest.raises(UserError, match='visual features'):
        runner.step(replace(observation(), features=np.zeros(3, np.float32)), seed=1)


def test_speed_is_measured_against_its_own_products():
    settings = ResidualSettings(width=32, projection=8, batch=32)
    measured = sac_speed(INTERFACE, context=0, features=16, settings=settings, repeats=5)
    assert 0 < measured['share_of_bound'] < 1
    assert measured['iterations_per_second'] < measured['bound_iterations_per_second']


def test_measured_iteration_trains_the_actor_too(monkeypatch):
    trained = []
    update = ResidualSac.update

    def noted(self, batches, train_actor=True):
        trained.append(train_actor)
        return update(self, batches, train_actor)

    monkeypatch.setattr(ResidualSac, 'update', noted)
    settings = ResidualSettings(width=32, projection=8, batch=32, critic_warmup=1000)
    sac_speed(INTERFACE, context=0, features=16, settings=settings, repeats=5)
    assert trained and all(trained)
