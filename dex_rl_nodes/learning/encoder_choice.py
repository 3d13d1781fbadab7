"""Which frozen visual encoder a run uses: a pretrained one where its file is found, else one of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from dex_rl_nodes.config import Model
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.dataset import Episode
from dex_rl_nodes.learning.demo_encoder import DemoEncoderSettings, train_demo_encoder
from dex_rl_nodes.learning.device import CPU
from dex_rl_nodes.learning.encoder import ResNetEncoder, VisualEncoder
from dex_rl_nodes.learning.pretrained import find_pretrained, weight_folders
from dex_rl_nodes.learning.schedule import Progress, no_progress
from dex_rl_nodes.learning.vision import IMAGE_SIZE


class EncoderSettings(Model):
    """The visual encoder (block `encoder` of a method)."""

    name: Literal['auto', 'resnet18', 'resnet10', 'demo'] = Field(
        'auto',
        description='resnet18 (Table B.1), resnet10 (SERL), demo (trained here); auto: resnet18 if found, else demo',
    )
    weights: str = Field('', description='file with the pretrained weights; empty: look in the usual folders')
    input_size: int = Field(IMAGE_SIZE, ge=32, multiple_of=32, description='side of the images a ResNet sees (px)')
    demo: DemoEncoderSettings = Field(DemoEncoderSettings(), description='training of the demo encoder')


def build_encoder(
    demos: Sequence[Episode],
    others: Sequence[Episode] = (),
    settings: EncoderSettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    device: torch.device = CPU,
) -> tuple[VisualEncoder, dict]:
    """Load or train the encoder of a run.

    Args:
        demos: successful demonstrations.
        others: further recordings of the same scene, for example of the reward sessions.
        device: where one is trained.

    Returns:
        The frozen encoder; what is known about it, for its JSON (`source`: the file, or what it was trained on).

    Raises:
        UserError: the wanted weights are missing or damaged.
    """
    settings = settings or EncoderSettings()
    path = Path(settings.weights).expanduser() if settings.weights else None
    name = settings.name
    if name == 'auto':
        path = path or find_pretrained('resnet18')
        name = 'resnet18' if path else 'demo'
    if name == 'demo':
        encoder, metrics = train_demo_encoder(demos, others, settings.demo, seed, progress, device)
        return encoder, {
            'source': f'trained on {len(demos)} demonstrations and {len(others)} other recordings',
            **metrics,
        }
    path = path or find_pretrained(name)
    if path is None:
        places = ', '.join(str(folder) for folder in weight_folders())
        raise UserError(f'no pretrained {name} in {places}; put its file there, or set encoder.name to demo')
    progress(1, 1)
    return ResNetEncoder.pretrained(name, path, settings.input_size), {'source': str(path)}
