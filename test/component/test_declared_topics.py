"""What every node really publishes, subscribes, serves and calls is what descriptions.py declares."""

from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('torch')

from harness import ros  # noqa: F401
from rclpy.parameter import Parameter

from dex_rl_nodes.descriptions import NODES, SERVICES, TOPICS
from dex_rl_nodes.drivers.emulators.hands import RuiyanEmulator
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.run_directory import RunDirectory, RunSettings

ALL = {'/rosout', '/parameter_events', '/diagnostics'}  # of every node
# how a node is made: its class, what stands in for its core, and the parameters it can be made with
CORE = MagicMock(updates=0, episodes=0, version=0, **{'intrinsics.return_value': (1.0,) * 4})
ROBOT = {'robot': 'fr3_ruiyan'}
HAND = 'hand'  # in the folder of the test: a hand must answer when its driver is made
WAYS = {
    'sim_robot': ('SimRobotNode', (CORE,), [{}]),
    'scripted_operator': ('ScriptedOperatorNode', (CORE,), [{}]),
    'teleop': ('Teleop', (), [{}, {'lockstep': False}]),
    'policy': ('Policy', (CORE,), [{'recorded': True}, {'recorded': True, 'source': 'zero'}]),
    'residual_actor': ('ResidualActor', (CORE,), [{}]),
    'lmpm_decoder': ('LmpmDecoder', (CORE,), [{}]),
    'command_mux': ('CommandMuxNode', (), [{}, {'lockstep': False}]),
    'reward_classifier': ('RewardClassifier', (CORE,), [{}]),
    'episode_manager': (
        'EpisodeManager', (), [{'recorded': True, 'purpose': purpose} for purpose in ('demos', 'online', 'evaluation')]
    ),
    'replay_recorder': ('ReplayRecorder', (), [{'purpose': 'online'}, {'purpose': 'demos', 'lockstep': False}]),
    'learner': ('LearnerNode', (CORE, MagicMock()), [{'niceness': 0}]),
    'arm_adapter': ('ArmAdapter', (), [{'lockstep': False, **ROBOT}]),
    'glove_driver': ('GloveDriver', (), [{'lockstep': False, **ROBOT}]),
    'spacemouse_driver': ('SpaceMouseDriver', (), [{'lockstep': False, **ROBOT}]),
    'keyboard': ('Keyboard', (), [{'lockstep': False, **ROBOT}]),
    'camera_driver': ('CameraDriver', (), [{'lockstep': False, **ROBOT}]),
    'hand_driver': ('HandDriver', (), [{'lockstep': False, 'port': HAND, **ROBOT}]),
}  # fmt: skip


def of(names):
    """Resolved names."""
    return {f'/{name.lstrip("/")}' for name in names}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    RunDirectory('default').create(RunSettings('pull_tissue', 'sim', 'latent_prior', 'lamp', 0))
    # whatever is installed and plugged in here
    monkeypatch.setattr('dex_rl_nodes.nodes.franka_arm._importable', lambda *packages: packages[0])
    monkeypatch.setattr('dex_rl_nodes.nodes.keyboard.Terminal', MagicMock())
    monkeypatch.setattr('dex_rl_nodes.nodes.camera_driver.check_library', lambda _camera: None)
    monkeypatch.setattr('dex_rl_nodes.nodes.camera_driver.open_camera', MagicMock(side_effect=UserError('absent')))


@pytest.fixture
def devices():
    with ExitStack() as stack:
        yield stack


def test_every_node_is_made_somewhere():
    assert set(WAYS) == set(NODES)


@pytest.mark.parametrize('name', WAYS)
def test_topics_and_services_are_the_declared_ones(ros, devices, name):
    class_name, cores, ways = WAYS[name]
    node_class = getattr(import_module(f'dex_rl_nodes.nodes.{name}'), class_name)
    found = {'publishes': set(), 'subscribes': set(), 'serves': set(), 'calls': set()}
    profiles = {f'/{topic.lstrip("/")}': topic for topic in TOPICS}
    for way in ways:
        settings = {'lockstep': True, **way}
        if settings.get('port') == HAND:
            devices.enter_context(RuiyanEmulator(Path(HAND).absolute()))
        node = node_class(*cores, parameter_overrides=[Parameter(key, value=value) for key, value in settings.items()])
        try:
            found['publishes'] |= {publisher.topic_name for publisher in node.publishers} - ALL
            found['subscribes'] |= {subscription.topic_name for subscription in node.subscriptions} - {
                '/parameter_events'
            }
            found['serves'] |= of(service.srv_name for service in node.services if 'parameter' not in service.srv_name)
            found['calls'] |= of(client.srv_name for client in node.clients)
            for end in (*node.publishers, *node.subscriptions):
                if end.topic_name in ALL - {'/diagnostics'}:
                    continue
                topic = TOPICS[profiles[end.topic_name]]
                wanted = qos.profile(topic.qos, settings['lockstep'])
                assert end.msg_type is conversions.interface(topic.type), end.topic_name
                ours = end.qos_profile
                assert (ours.reliability, ours.durability) == (wanted.reliability, wanted.durability), end.topic_name
        finally:
            node.close()
            node.destroy_node()
    description = NODES[name]
    found['serves'] = {service for service in found['serves'] if not service.endswith('/get_type_description')}
    assert found == {kind: of(getattr(description, kind)) for kind in found}
    assert set(description.serves) | set(description.calls) <= set(SERVICES)
