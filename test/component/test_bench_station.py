"""Figures of the drivers must not be those of somebody else's drivers."""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip('rclpy')

from harness import DEADLINE, ros  # noqa: F401

from dex_rl_nodes.descriptions import HAND_JOINTS, TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import bench_graph, conversions, qos
from dex_rl_nodes.nodes.bench_devices import _station
from dex_rl_nodes.records import HAND_JOINTS as JOINTS
from dex_rl_nodes.run_directory import RunDirectory, RunSettings


def test_a_second_driver_in_the_same_domain_ends_the_bench(ros, monkeypatch):
    monkeypatch.setattr(bench_graph.rclpy, 'init', lambda: None)  # the fixture has chosen the domain
    with _station() as station:
        message = conversions.joint_state(JOINTS, np.zeros(6), 0)
        publishers = [
            station.listener.node.create_publisher(type(message), HAND_JOINTS, qos.profile(TOPICS[HAND_JOINTS].qos))
        ]
        station.listen(HAND_JOINTS)

        def heard():
            publishers[0].publish(message)
            return station.heard[HAND_JOINTS] > 3

        station.wait(heard, DEADLINE, 'messages of the only driver')
        publishers.append(
            station.listener.node.create_publisher(type(message), HAND_JOINTS, qos.profile(TOPICS[HAND_JOINTS].qos))
        )
        with pytest.raises(
            UserError, match=f'somebody else publishes {HAND_JOINTS} in this domain; run the bench again'
        ):
            station.wait(lambda: False, DEADLINE)


def test_the_ticks_of_a_run_are_those_of_its_own_settings(monkeypatch, tmp_path):
    """Another interface or seed would be refused by the recorder; a real robot is not moved for a measurement."""
    monkeypatch.setenv('DEXRL_RUNS', str(tmp_path))
    RunDirectory('mine').create(RunSettings('open_drawer', 'sim', 'raw', 'lamp', 3))
    RunDirectory('real').create(RunSettings('open_drawer', 'fr3_ruiyan', 'raw', 'lamp', 3))
    started = []

    @contextmanager
    def process_of(*words):
        started.append(words)
        yield SimpleNamespace(poll=lambda: 1, returncode=1)

    monkeypatch.setattr(bench_graph, 'process_of', process_of)
    monkeypatch.setattr(bench_graph, 'Listener', lambda name: Mock())
    monkeypatch.setattr(bench_graph, 'prefer', lambda priority: '')
    with pytest.raises(UserError, match='ended too early'):
        bench_graph.control_ticks('mine', 1.0)
    assert started == [(
        'launch_command', 'online_rl.launch.py', 'task:=open_drawer', 'interface:=raw', 'seed:=3', 'run:=mine',
        'prepare:=false',
    )]  # fmt: skip
    with pytest.raises(UserError, match='"real" is one of robot fr3_ruiyan'):
        bench_graph.control_ticks('real', 1.0)
    with pytest.raises(UserError, match='there is no run "none"'):
        bench_graph.control_ticks('none', 1.0)
