"""Visual encoders: networks, pretrained files, features, and the encoder trained on demonstrations."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import UNCERTAIN_TICKS, Episode
from dex_rl_nodes.learning.demo_encoder import (
    DemoEncoderSettings,
    Targets,
    grasp_tick,
    release_tick,
    train_demo_encoder,
)
from dex_rl_nodes.learning.encoder import DemoEncoder, ResNetEncoder, encode_batches, load_encoder, save_encoder
from dex_rl_nodes.learning.encoder_choice import EncoderSettings, build_encoder
from dex_rl_nodes.learning.pretrained import find_pretrained, load_pretrained
from dex_rl_nodes.learning.resnet import resnet10, resnet18
from dex_rl_nodes.learning.vision import VIEWS, Augmentation, augment, crop_view, to_tensor
from dex_rl_nodes.records import Outcome


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return {view: random.integers(0, 255, (3, 128, 128, 3), dtype=np.uint8) for view in VIEWS}


def _weights(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_have_the_published_sizes():
    image = torch.zeros(1, 3, 128, 128)
    assert _weights(resnet18()) == 11_689_512 - 513_000  # torchvision's, without its classifier
    assert _weights(resnet10()) == 4_905_792
    for network in (resnet18(), resnet10()):
        assert network.eval()(image).shape == (1, 512, 4, 4)
    assert {'conv1.weight', 'bn1.running_mean', 'layer2.0.downsample.1.weight'} <= set(resnet18().state_dict())


def test_resnet10_pads_like_jax():
    network = resnet10().eval()
    x = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    pooled = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    assert torch.equal(network.maxpool(x), pooled)
    assert not torch.equal(network.maxpool(x), F.max_pool2d(x, 3, 2, 1))
    block = network.layer2[0]
    inside = block.conv1(block.pad(x))
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), block.conv1.weight, stride=2)
    assert torch.allclose(inside, expected, atol=1e-5)
    assert inside.shape == (2, 128, 16, 16)


def _flax_tree(network) -> dict:
    """The parameters of a ResNet-10 as SERL's file holds them."""

    def kernel(conv):
        return {'kernel': conv.weight.detach().numpy().transpose(2, 3, 1, 0).copy()}

    def norm(layer):
        return {
            'scale': layer.weight.detach().numpy()[None, None, None],
            'bias': layer.bias.detach().numpy()[None, None, None],
        }

    tree = {'conv_init': kernel(network.conv1), 'norm_init': norm(network.bn1)}
    for stage in range(4):
        block = getattr(network, f'layer{stage + 1}')[0]
        tree[f'ResNetBlock_{stage}'] = {
            'Conv_0': kernel(block.conv1), 'MyGroupNorm_0': norm(block.bn1),
            'Conv_1': kernel(block.conv2), 'MyGroupNorm_1': norm(block.bn2),
        }  # fmt: skip
        if block.downsample is not None:
            tree[f'ResNetBlock_{stage}'] |= {
                'conv_proj': kernel(block.downsample[0]),
                'norm_proj': norm(block.downsample[1]),
            }
    return tree


def test_serl_parameters_load_without_running_the_pickle(tmp_path):
    network = resnet10().eval()
    torch.nn.init.normal_(network.layer3[0].bn2.weight)
    path = tmp_path / 'resnet10.pkl'
    path.write_bytes(pickle.dumps(_flax_tree(network)))
    loaded = load_pretrained('resnet10', path).eval()
    image = torch.randn(1, 3, 128, 128)
    assert torch.equal(loaded(image), network(image))


class _Evil:
    def __reduce__(self):
        return print, ('executed',)


@pytest.mark.parametrize('content', [_Evil(), {'conv_init': _Evil()}, {'conv_init': np.zeros(3)}, 7])
def test_a_pickle_of_anything_else_is_refused(tmp_path, capsys, content):
    path = tmp_path / 'resnet10.pkl'
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=str(path)):
        load_pretrained('resnet10', path)
    path.write_bytes(pickle.dumps(_flax_tree(resnet10()))[:-100])
    with pytest.raises(UserError, match='cannot read weights'):
        load_pretrained('resnet10', path)
    assert 'executed' not in capsys.readouterr().out


def test_torchvision_file_is_checked_by_the_hash_in_its_name(tmp_path):
    network = resnet18()
    state = {**network.state_dict(), 'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    plain = tmp_path / 'plain.pth'
    torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    good, bad = tmp_path / f'resnet18-{digest[:8]}.pth', tmp_path / 'resnet18-00000000.pth'
    for path in (good, bad):
        path.write_bytes(plain.read_bytes())
    assert torch.equal(load_pretrained('resnet18', good).conv1.weight, network.conv1.weight)
    with pytest.raises(UserError, match='is damaged'):
        load_pretrained('resnet18', bad)
    with pytest.raises(UserError, match='is not a resnet10'):
        load_pretrained('resnet10', plain)
    with pytest.raises(UserError, match='there is no'):
        load_pretrained('resnet18', tmp_path / 'none.pth')


def test_auto_takes_the_pretrained_network_where_its_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'none'))
    monkeypatch.setenv('HOME', str(tmp_path / 'none'))
    assert find_pretrained('resnet18') is None
    with pytest.raises(UserError, match='no pretrained resnet18 in'):
        build_encoder([], settings=EncoderSettings(name='resnet18'))
    torch.save(resnet18().state_dict(), tmp_path / 'named.pth')
    encoder, about = build_encoder([], settings=EncoderSettings(weights=str(tmp_path / 'named.pth')))
    assert encoder.name == 'resnet18' and about['source'].endswith('named.pth')
    assert encoder.feature_dim == 1024


@pytest.mark.parametrize('make', [DemoEncoder, lambda: ResNetEncoder('resnet18'), lambda: ResNetEncoder('resnet10')])
def test_features_are_half_precision_numbers_and_one_at_a_time_equals_a_batch(make, images):
    encoder = make().freeze()
    batch = encoder.encode_batch(images)
    assert batch.shape == (3, encoder.feature_dim) and batch.dtype == np.float32
    assert np.array_equal(batch, batch.astype(np.float16).astype(np.float32))
    one = encoder.encode({view: frames[1] for view, frames in images.items()})
    assert np.allclose(one, batch[1], atol=2e-3, rtol=2e-3)
    channels, height, width = encoder.spatial_shape
    assert encoder.feature_dim == 2 * encoder.view_feature_dim == 2 * channels * height * width


def test_batches_encoded_in_threads_keep_their_order(images):
    encoder = DemoEncoder().freeze()
    batches = [{view: np.tile(frames, (1 + 30 * turn, 1, 1, 1)) + turn for view, frames in images.items()}
               for turn in range(5)]  # fmt: skip
    found = list(encode_batches(encoder, iter(batches)))
    assert [len(features) for features in found] == [3, 93, 183, 273, 363]
    for batch, features in zip(batches, found, strict=True):
        assert np.array_equal(features, encoder.encode_batch(batch))


def test_batches_are_made_only_shortly_before_they_are_encoded(images):
    made = []

    def endless():
        while True:
            made.append(len(made))
            yield images

    features = encode_batches(DemoEncoder().freeze(), endless())
    next(features)
    assert len(made) == 3
    features.close()


def test_errors_of_batches_encoded_in_threads_arrive(images):
    def damaged():
        yield images
        raise UserError('no more images')

    encoder = DemoEncoder().freeze()
    with pytest.raises(UserError, match='no more images'):
        list(encode_batches(encoder, damaged()))
    with pytest.raises(KeyError, match='wrist'):
        list(encode_batches(encoder, [images, {'front': images['front']}]))


def test_views_are_kept_apart(images):
    encoder = DemoEncoder().freeze()
    before = encoder.encode_batch(images)
    after = encoder.encode_batch({**images, 'wrist': 255 - images['wrist']})
    half = encoder.view_feature_dim
    assert np.array_equal(before[:, :half], after[:, :half])
    assert not np.array_equal(before[:, half:], after[:, half:])


def test_encoders_survive_saving(tmp_path, images):
    narrow = DemoEncoder((16, 32, 32, 8)).freeze()
    assert narrow.feature_dim == 256
    for number, encoder in enumerate((DemoEncoder().freeze(), narrow, ResNetEncoder('resnet18', 96).freeze())):
        path = tmp_path / f'{number}.safetensors'
        save_encoder(path, encoder, {'source': 'test'})
        loaded = load_encoder(path)
        assert loaded.identity == encoder.identity and loaded.identity.startswith(encoder.name + ':')
        assert np.array_equal(loaded.encode_batch(images), encoder.encode_batch(images))
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(UserError, match='there is no'):
        load_encoder(tmp_path / 'other.safetensors')


@pytest.mark.parametrize('channels', [[32, 64], [32, 64, 64, 16], 'many', None])
def test_a_description_of_another_network_is_refused(tmp_path, channels):
    path = tmp_path / 'encoder.safetensors'
    save_encoder(path, DemoEncoder().freeze(), {'channels': channels})
    with pytest.raises(UserError, match='another network than its JSON describes; run "train encoder" again'):
        load_encoder(path)


def test_frozen_networks_stay_frozen():
    encoder = ResNetEncoder('resnet18').freeze()
    identity = encoder.identity
    encoder.view_features([torch.randn(4, 3, 128, 128)] * 2)
    fresh = ResNetEncoder('resnet18')
    fresh.load_state_dict(encoder.state_dict())
    assert fresh.identity == identity  # batch statistics did not move


def test_crop_takes_the_fractions_of_the_image_and_scales():
    image = np.arange(128 * 172 * 3, dtype=np.uint32).astype(np.uint8).reshape(128, 172, 3)
    crop = crop_view(image, [0.0, 0.128, 1.0, 0.872])
    assert np.array_equal(crop, image[:, 22:150])
    large = np.zeros((480, 640, 3), np.uint8)
    large[:, 320:] = 200
    view = crop_view(large, [0.25, 0.25, 0.75, 0.75])
    assert view.shape == (128, 128, 3) and view[:, :60].max() == 0 and view[:, 68:].min() == 200


def test_augmentation_moves_and_recolours_only_as_far_as_told():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[30:34, 30:34] = 200
    frames = np.repeat(frame[None], 50, 0)
    none = Augmentation(shift=0, jitter=0.0)

    def changed(**settings):
        return augment(frames, none.model_copy(update=settings), torch.Generator().manual_seed(0))

    moved = changed(shift=5)
    where = np.argwhere(moved[..., 0] == 200)
    assert moved.sum() == frames.sum()
    assert where[:, 1].min() == 25 and where[:, 1].max() == 38 and where[:, 2].min() == 25
    assert np.array_equal(changed(), frames)
    recoloured = changed(jitter=0.1)
    assert recoloured.dtype == np.uint8 and len(np.unique(recoloured[:, 32, 32, 0])) > 20


def test_normalised_images_have_the_statistics_of_imagenet():
    white = to_tensor(np.full((1, 8, 8, 3), 255, np.uint8))
    assert white.shape == (1, 3, 8, 8)
    assert torch.allclose(
        white[0, :, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )


def blob_episodes(count: int, seed: int = 0, ticks: int = 12) -> list[Episode]:
    """Reaching for a bright spot: both views show the hand and the goal; the command is the way to the goal."""
    random = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        goal, hand = random.uniform(-1, 1, 2), random.uniform(-1, 1, 2)
        start, frames, states, actions = hand.copy(), [], [], []
        for _ in range(ticks + 1):
            frame = np.full((128, 128, 3), 60, np.uint8)
            for place, channel in ((goal, 0), (hand, 2)):
                x, y = (64 + 40 * place).astype(int)
                frame[y - 7 : y + 7, x - 7 : x + 7, channel] = 255
            step = np.clip(goal - hand, -0.2, 0.2)
            frames.append(frame)
            states.append(np.concatenate([0.1 * (hand - start), np.zeros(10)]))
            actions.append(np.concatenate([5 * step, np.zeros(10)]))
            hand = hand + step
        episodes.append(Episode(
            number, number, Outcome.SUCCESS, {view: np.stack(frames) for view in VIEWS}, np.float32(states),
            np.full((ticks + 1, 48), 0.5, np.float32), np.zeros(ticks + 1, bool), np.float32(actions[:-1]),
            np.zeros(ticks, np.uint8),
        ))  # fmt: skip
    return episodes


def hand_path(*knots: tuple[int, float]) -> np.ndarray:
    """Hand targets (T + 1, 6) on straight lines between ticks and closures."""
    ticks, closures = zip(*knots, strict=True)
    return np.interp(np.arange(ticks[-1] + 1), ticks, closures)[:, None] * np.linspace(0.5, 1.0, 6)


def test_hindsight_knows_when_the_hand_took_hold_and_when_it_let_go():
    placed = hand_path((0, 0.0), (10, 0.0), (20, 1.0), (50, 1.0), (60, 0.3), (70, 0.3))
    assert 10 < grasp_tick(placed) <= 20 and 50 < release_tick(placed) < 60
    regrasped = hand_path((0, 0.0), (10, 1.0), (20, 0.0), (30, 1.0), (50, 1.0), (60, 0.0))
    assert 50 < release_tick(regrasped) < 60  # for good, not for the second try


@pytest.mark.parametrize('knots', [((0, 0.0), (10, 0.0), (20, 1.0), (40, 0.9)), ((0, 0.4), (40, 0.4))])
def test_a_hand_that_ends_closed_or_never_moved_let_nothing_go(knots):
    assert release_tick(hand_path(*knots)) is None


@pytest.mark.parametrize('outcome', [Outcome.SUCCESS, Outcome.FAILURE])
def test_ways_are_asked_until_the_hand_is_there_and_to_the_right_release_alone(outcome):
    hand = hand_path((0, 0.0), (10, 0.0), (20, 1.0), (50, 1.0), (60, 0.3), (70, 0.3))
    ticks, state = len(hand) - 1, np.zeros((len(hand), 12), np.float32)
    state[:, 0] = np.linspace(0, 0.7, len(hand))
    action = np.concatenate([np.zeros((ticks, 6)), 2 * hand[1:] - 1], 1).astype(np.float32)
    episode = Episode(
        0, 0, outcome, {}, state, np.zeros((len(hand), 48), np.float32), np.zeros(len(hand), bool), action,
        np.zeros(ticks, np.uint8),
    )  # fmt: skip
    known, value = Targets.of_episode(episode, shows_task=True)
    seen = episode.hand_targets
    grasp, release = grasp_tick(seen), release_tick(seen) if outcome == Outcome.SUCCESS else 0
    for first, event in ((0, grasp), (6, release)):
        assert (known[:event, first] > 1).all() and not known[event:, first : first + 6].any()
        assert value[:event, first] == pytest.approx(0.01 * (event - np.arange(event)), abs=1e-6)


def test_success_is_asked_where_a_person_said_so_and_no_way_to_a_grasp_that_never_was():
    hand = hand_path((0, 0.3), (40, 0.35))
    ticks, success = len(hand) - 1, np.arange(len(hand)) >= 25
    action = np.concatenate([np.zeros((ticks, 6)), 2 * hand[1:] - 1], 1).astype(np.float32)
    state, history = np.zeros((len(hand), 12), np.float32), np.tile(hand[:1], (len(hand), 8)).astype(np.float32)
    episode = Episode(0, 0, Outcome.SUCCESS, {}, state, history, success, action, np.zeros(ticks, np.uint8))
    known, value = Targets.of_episode(episode, shows_task=False)
    asked = known[:, 18] > 0  # after two ways and the hand
    assert asked.tolist() == [True] * 13 + [False] * UNCERTAIN_TICKS + [True] * 15
    assert value[asked, 18].tolist() == [0.0] * 13 + [1.0] * 15
    assert not known[:, :12].any()


def test_a_turn_that_people_hardly_make_is_not_blown_up_to_a_target():
    """What a hand that always points down is tilted by is noise; how it is turned is not."""
    random = np.random.default_rng(0)
    hand = hand_path((0, 0.0), (10, 0.0), (20, 1.0), (40, 1.0))
    episodes = []
    for number in range(20):
        state = np.zeros((len(hand), 12), np.float32)
        state[: grasp_tick(hand), 3] = random.normal(0, 0.005)
        state[: grasp_tick(hand), 5] = random.normal(0, 0.2)
        action = np.concatenate([np.zeros((len(hand) - 1, 6)), 2 * hand[1:] - 1], 1).astype(np.float32)
        history = np.zeros((len(hand), 48), np.float32)
        flags = np.zeros(len(hand), bool)
        episodes.append(Episode(number, number, Outcome.SUCCESS, {}, state, history, flags, action, flags[1:]))
    targets = Targets(episodes, [])
    asked = targets.value[(targets.known[:, 5] > 0).numpy()]
    assert asked[:, 3].std() < 0.2 and asked[:, 5].std() == pytest.approx(1, abs=0.1)
    assert targets.scale[3] == pytest.approx(0.05) and targets.scale[5] > 0.1


@pytest.mark.parametrize(('shown', 'steps'), [(12, 4), (120, 15)])
def test_more_demonstrations_are_seen_as_often(shown, steps):
    settings = DemoEncoderSettings(steps=4, passes=2, batch_size=16, unlabelled_share=0, warmup_steps=1)
    _, metrics = train_demo_encoder(blob_episodes(shown // 12 + 1), settings=settings)  # one is held out
    assert (metrics['frames'], metrics['steps']) == (shown, steps)


def test_demo_encoder_learns_where_the_hand_is_relative_to_its_goal():
    settings = DemoEncoderSettings(steps=60, passes=0, batch_size=32, warmup_steps=10)
    encoder, metrics = train_demo_encoder(blob_episodes(20), blob_episodes(5, seed=9), settings, seed=0)
    # Held-out goals; 1.0 would be what guessing the mean gives.
    assert metrics['test']['arm_command'] < 0.7 and metrics['test']['tcp_in_6'] < 0.9
    assert metrics['other_frames'] == 5 * 12
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
