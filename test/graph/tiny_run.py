"""A run whose networks were never trained, and the graphs of launch files on it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import torch

from dex_rl_nodes.learning.encoder import DemoEncoder, save_encoder
from dex_rl_nodes.learning.interfaces import PriorSettings, create_interface, save_interface
from dex_rl_nodes.learning.policy import BCPolicy, PolicySettings, save_policy
from dex_rl_nodes.learning.reward import RewardModel, RewardSettings, save_reward
from dex_rl_nodes.run_directory import RunDirectory, RunSettings

SETTINGS = RunSettings(task='pull_tissue', robot='sim', interface='latent_prior', method='lamp', seed=3)
DOMAIN = int(os.environ['ROS_DOMAIN_ID'])
_LAUNCH = 'import sys; from dex_rl_nodes.launch_command import run; sys.exit(run(sys.argv[1:]))'


def make_run(name: str, settings: RunSettings = SETTINGS) -> RunDirectory:
    """A run with every model, made from fixed seeds; its policy moves the arm slowly and the fingers a little."""
    run = RunDirectory(name).create(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder, interface = DemoEncoder().freeze(), create_interface(settings.interface).freeze()
        policy = BCPolicy(encoder.feature_dim, interface.context_dim, interface.core_dim, PolicySettings()).freeze()
        reward = RewardModel(encoder.spatial_shape, RewardSettings())
    save_encoder(run.file('encoder.safetensors'), encoder, {})
    save_interface(run.file('prior.safetensors'), interface, PriorSettings(), {'task': settings.task})
    identities = {'encoder': encoder.identity, 'interface': interface.identity}
    save_policy(run.file('policy.safetensors'), policy, PolicySettings(), identities)
    save_reward(run.file('reward.safetensors'), reward, encoder, RewardSettings(), {})
    return run


def start(runs: Path, file: str, *arguments: str, stdout: int | IO, lockstep: bool = True) -> subprocess.Popen:
    """Start a launch file in an isolated domain."""
    environment = {
        **os.environ,
        'DEXRL_RUNS': str(runs),
        'ROS_DOMAIN_ID': str(DOMAIN),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    command = [
        sys.executable,
        '-c',
        _LAUNCH,
        f'{file}.launch.py',
        f'lockstep:={str(lockstep).lower()}',
        f'seed:={SETTINGS.seed}',
        *arguments,
    ]
    return subprocess.Popen(command, env=environment, text=True, stdout=stdout, stderr=subprocess.STDOUT)


def launch(runs: Path, file: str, *arguments: str, timeout: float = 150) -> tuple[int, str]:
    """Run a launch file to its end: exit code, and what it said."""
    with start(runs, file, *arguments, stdout=subprocess.PIPE) as graph:
        try:
            said, _ = graph.communicate(timeout=timeout)
        finally:
            graph.terminate()
    return graph.returncode, said
