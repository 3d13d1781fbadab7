"""The offline stages: encoder, action interface, base policy, reward classifier. Each reads what the one before wrote.

A stage whose result was made from what there is now does nothing; `again` makes it run all the same.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.device import training_device
from dex_rl_nodes.learning.encoder import VisualEncoder, encode_batches, save_encoder
from dex_rl_nodes.learning.encoder_choice import build_encoder
from dex_rl_nodes.learning.interfaces import PriorSettings, save_interface
from dex_rl_nodes.learning.policy import save_policy, train_policy
from dex_rl_nodes.learning.prior import train_prior, train_prior_from_npz
from dex_rl_nodes.learning.reward import RewardExamples, RewardSettings, choose_held_out, save_reward, train_reward
from dex_rl_nodes.learning.vision import augment
from dex_rl_nodes.run_directory import RunDirectory, file_hash, read_json
from dex_rl_nodes.stages.inputs import ROLLOUTS, identity, is_current, stage_inputs
from dex_rl_nodes.stages.job import Job
from dex_rl_nodes.stages.workers import Tell


def _about(job: Job, stage: str) -> dict:
    """What is stored with every result."""
    return {'task': job.task.name, 'hand': job.robot.name, 'inputs': stage_inputs(job.run, job.settings, stage)}


def _kept(job: Job, stage: str, again: bool) -> dict | None:
    """What a stage measured when its result is still good, else None."""
    if again or not is_current(job.run, job.settings, stage):
        return None
    return read_json(job.run.file(f'{stage}.json'))


def prior_stage(job: Job, tell: Tell, again: bool = False) -> dict:
    """Fit the action interface to the hand motion of the demonstrations; prior.safetensors, prior.json."""
    if kept := _kept(job, 'prior', again):
        return kept
    sequences = [episode.hand_targets for episode in job.demonstrations()]
    settings, seed = job.prior_settings, job.settings.seed
    interface, metrics = train_prior(sequences, job.settings.interface, settings, seed, tell)
    save_interface(job.run.file('prior.safetensors'), interface, settings, {**_about(job, 'prior'), **metrics})
    return metrics


def prior_from_file(
    data: Path, run: RunDirectory, interface: str, settings: PriorSettings, seed: int, tell: Tell
) -> dict:
    """Fit an action interface to a lab's own hand targets, any hand (see `read_targets`)."""
    model, metrics = train_prior_from_npz(data, interface, settings, seed, tell)
    source = f'of {data.name}'  # not that of any robot or task, whose policy would send its numbers to the hand
    about = {'data': data.name, 'hand': source, 'task': source, 'inputs': {'data': file_hash(data), 'seed': str(seed)}}
    save_interface(run.file('prior.safetensors'), model, settings, {**about, **metrics})
    return metrics


def encoder_stage(job: Job, tell: Tell, again: bool = False) -> dict:
    """The frozen visual encoder: pretrained ResNet-18 where its file is found, else trained on the recordings."""
    if kept := _kept(job, 'encoder', again):
        return kept
    others = _others(job)
    settings, device = job.encoder_settings, training_device()
    encoder, metrics = build_encoder(job.demonstrations(), others, settings, job.settings.seed, tell, device)
    save_encoder(job.run.file('encoder.safetensors'), encoder, {**_about(job, 'encoder'), **metrics})
    return metrics


def _others(job: Job) -> list[Episode]:
    """Recordings that need not show the task, but those on which the classifier will be measured."""
    # rollouts come later than the first encoder, and made again it shall be the same
    sessions = [episode for episode in job.finished('reward') if episode.episode < ROLLOUTS]
    held = choose_held_out(sessions, job.reward_settings.held_out, job.settings.seed)
    return [episode for episode, measured_on in zip(sessions, held, strict=True) if not measured_on]


def policy_stage(job: Job, tell: Tell, again: bool = False) -> dict:
    """Behaviour cloning in the action interface; policy.safetensors, policy.json.

    Where another policy comes out, simulated rollouts of the one before are deleted: the classifier shall know the
    policy that it judges.
    """
    if kept := _kept(job, 'policy', again):
        return kept
    before = identity(job.run, 'policy')
    interface, settings, device = job.interface(), job.policy_settings, training_device()
    encoder, seed = job.encoder().to(device), job.settings.seed
    policy, metrics = train_policy(job.demonstrations(), encoder, interface, settings, seed, tell, device)
    save_policy(job.run.file('policy.safetensors'), policy, settings, {**_about(job, 'policy'), **metrics})
    if before not in ('', identity(job.run, 'policy')):
        _forget_rollouts(job.run)
    return metrics


def _forget_rollouts(run: RunDirectory) -> None:
    if run.bags('reward').is_symlink():
        return  # of the run that shares its recordings, and of its policy
    for folder in run.bags('reward').glob('e*'):  # those of a graph have numbers alone
        if int(folder.name[1:]) >= ROLLOUTS:
            shutil.rmtree(folder)


def reward_examples(
    encoder: VisualEncoder, sessions: list[Episode], demos: list[Episode], settings: RewardSettings, seed: int
) -> RewardExamples:
    """Labelled frames: positives from the operator's mark on, negatives the others, see Episode.labelled.

    Sessions that are held out get no changed copies, for nothing is measured on those; demonstrations, which the
    encoder knows, are not held out.
    """
    generator = torch.Generator().manual_seed(seed)
    sessions = [episode for episode in sessions if episode.labelled.any()]
    episodes = sessions + [episode for episode in demos if episode.labelled.any()]
    held = np.append(choose_held_out(sessions, settings.held_out, seed), np.zeros(len(episodes) - len(sessions), bool))
    about = []  # columns of what is encoded, in its order

    def views() -> Iterator[dict[str, np.ndarray]]:
        for number, episode in enumerate(episodes):
            known = episode.labelled
            count, success = int(known.sum()), episode.success[known]
            images = {view: frames[known] for view, frames in episode.images.items()}
            final = np.arange(len(known))[known] >= len(known) - settings.final_ticks
            final &= not success.any()
            for copy in range(1 if held[number] else 1 + settings.copies):
                flags = (np.full(count, flag) for flag in (number, copy > 0, held[number]))
                about.append((success, *flags, final))
                if not copy:
                    yield images
                    continue
                yield {view: augment(frames, settings.augmentation, generator) for view, frames in images.items()}

    features = np.concatenate(list(encode_batches(encoder, views())))
    success, episode, changed, held_frames, final = (np.concatenate(column) for column in zip(*about, strict=True))
    return RewardExamples(features, success, episode, changed, final, held_frames)


def reward_stage(job: Job, tell: Tell, again: bool = False) -> dict:
    """Fit the reward classifier; reward.safetensors, reward.json."""
    if kept := _kept(job, 'reward', again):
        return kept
    sessions, settings = job.episodes('reward'), job.reward_settings
    device, started = training_device(), time.monotonic()
    encoder = job.encoder().to(device)
    examples = reward_examples(encoder, sessions, job.demonstrations(), settings, job.settings.seed)
    model, metrics = train_reward(examples, encoder.spatial_shape, settings, job.settings.seed, tell, device)
    metrics['seconds'] = round(time.monotonic() - started, 2)
    save_reward(job.run.file('reward.safetensors'), model, encoder, settings, {**_about(job, 'reward'), **metrics})
    return metrics


STAGES = {'prior': prior_stage, 'encoder': encoder_stage, 'policy': policy_stage, 'reward': reward_stage}


def stages_for(word: str, job: Job) -> list[str]:
    """What `train <word>` runs: the stage itself, and for the policy the encoder when there is none that fits.

    Raises:
        UserError: there is no such stage.
    """
    if word == 'all':
        return list(STAGES)
    if word not in STAGES:
        raise UserError(f'train knows no "{word}"; choose one of: {", ".join((*STAGES, "all"))}')
    needs_encoder = word in ('policy', 'reward') and not is_current(job.run, job.settings, 'encoder')
    return ['encoder', word] if needs_encoder else [word]
