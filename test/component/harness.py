"""One node and a peer that plays the rest of the graph, over DDS, in an isolated context."""

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')

from rclpy.parameter import Parameter

from dex_rl_nodes.descriptions import SERVICES, TOPICS
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.main import make_executor
from dex_rl_nodes.records import EpisodeState, Phase

DEADLINE = 15.0  # s
START_HAND = [0.4, 0.0, 0.1, 0.2, 0.3, 0.0]


@pytest.fixture
def ros(monkeypatch):
    """An isolated ROS context."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init(domain_id=int(os.environ['ROS_DOMAIN_ID']))
    yield
    rclpy.try_shutdown()
    gc.collect()  # a node whose constructor failed, which nobody destroyed, would be seen by the tests that follow


@pytest.fixture
def bench(ros):
    """Call it with a node class and parameters: a Bench, closed at the end."""
    benches = []

    def make(node_class: Callable[..., Any], *cores: Any, lockstep: bool = True, **parameters: Any) -> 'Bench':
        benches.append(Bench(node_class, cores, lockstep, parameters))
        return benches[-1]

    yield make
    for made in benches:
        made.close()


class Bench:
    """The node under test and the peer."""

    def __init__(self, node_class: Callable[..., Any], cores: tuple, lockstep: bool, parameters: dict[str, Any]):
        overrides = [Parameter(name, value=value) for name, value in {**parameters, 'lockstep': lockstep}.items()]
        self.node = node_class(*cores, parameter_overrides=overrides)
        self.peer = rclpy.create_node('peer')
        self.lockstep = lockstep
        self.executor = make_executor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self._publishers: dict[str, Any] = {}
        self._closed = False

    def _profile(self, topic: str) -> Any:
        return qos.profile(TOPICS[topic].qos, self.lockstep)

    def listen(self, topic: str) -> list:
        """List that fills with the records (or messages) of a topic."""
        heard: list = []
        message = conversions.interface(TOPICS[topic].type)
        record = conversions.record_of(message)
        take = heard.append if record is None else lambda m: heard.append(conversions.to_record(m, record))
        self.peer.create_subscription(message, topic, take, self._profile(topic))
        return heard

    def send(self, topic: str, content: Any) -> None:
        """Publish a record or message, once somebody listens."""
        message = conversions.interface(TOPICS[topic].type)
        if topic not in self._publishers:
            self._publishers[topic] = self.peer.create_publisher(message, topic, self._profile(topic))
            self.until(lambda: self._publishers[topic].get_subscription_count() > 0, f'a subscription of {topic}')
        content = content if isinstance(content, message) else conversions.to_message(content, message)
        self._publishers[topic].publish(content)

    def run_episode(self, episode: int = 0, stamp: int = 1000, **fields: Any) -> EpisodeState:
        """Announce a running episode."""
        state = EpisodeState(
            stamp=stamp, episode=episode, phase=Phase.RUNNING, hand_target=START_HAND, **{'purpose': 'online', **fields}
        )
        self.send('episode', state)
        return state

    def call(self, service: str, **fields: Any) -> Any:
        """Answer of a service of the node."""
        kind = conversions.interface(SERVICES[service])
        client = self.peer.create_client(kind, service)
        self.until(client.service_is_ready, f'service {service}')
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f'an answer of {service}')
        return future.result()

    def until(self, condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> None:
        """Run both nodes until a condition holds; raises what the node fails with."""
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f'{what}: not within {deadline} s'
            self.executor.spin_once(timeout_sec=0.02)
            if self.node.failure:
                raise self.node.failure

    def close(self) -> None:
        """End both nodes."""
        if self._closed:
            return
        self._closed = True
        self.node.close()
        self.node.destroy_node()
        self.peer.destroy_node()
        self.executor.shutdown()
