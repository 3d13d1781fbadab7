"""Action interfaces: what the hand part of an action is (LAMP Table B.3 and the ablations of section 4.3)."""

from pathlib import Path

from dex_rl_nodes.config import INTERFACES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.learning.checkpoint import load_checkpoint, module_shapes, save_checkpoint
from dex_rl_nodes.learning.interfaces.base import ActionInterface, HandWindows, hand_windows
from dex_rl_nodes.learning.interfaces.latent_prior import LatentPrior
from dex_rl_nodes.learning.interfaces.pca import Pca
from dex_rl_nodes.learning.interfaces.raw import Raw
from dex_rl_nodes.learning.interfaces.settings import PriorSettings
from dex_rl_nodes.learning.interfaces.vq import ResidualVq
from dex_rl_nodes.records import HAND_DIM

__all__ = [
    'ActionInterface', 'HandWindows', 'LatentPrior', 'Pca', 'PriorSettings', 'Raw', 'ResidualVq',
    'create_interface', 'hand_windows', 'load_interface', 'save_interface',
]  # fmt: skip

_MAKERS = {
    'latent_prior': LatentPrior,
    'raw': Raw,
    'pca': Pca,
    'vq': ResidualVq,
    'latent_prior_no_bottleneck': lambda hand_dim, settings: LatentPrior(hand_dim, settings, bottleneck=False),
    'latent_prior_no_history': lambda hand_dim, settings: LatentPrior(hand_dim, settings, history=False),
}


def create_interface(name: str, hand_dim: int = HAND_DIM, settings: PriorSettings | None = None) -> ActionInterface:
    """An interface that is not fitted yet; UserError names the valid ones."""
    if name not in _MAKERS:
        raise UserError(f'unknown interface "{name}"; choose one of: {", ".join(INTERFACES)}')
    return _MAKERS[name](hand_dim, settings or PriorSettings())


def save_interface(path: Path, interface: ActionInterface, settings: PriorSettings, meta: dict) -> None:
    """Write a fitted interface.

    Args:
        path: ends in .safetensors; the JSON goes beside it.
        settings: what it was made with.
        meta: what was measured and what it was made from; `hand` and `task`, when given, are checked on loading.
    """
    about = {'interface': interface.name, 'joints': interface.hand_dim, 'identity': interface.identity}
    save_checkpoint(path, interface.state_dict(), {**about, 'settings': settings.model_dump(), **meta})


def load_interface(
    path: Path, name: str | None = None, hand: str | None = None, task: str | None = None, joints: int | None = HAND_DIM
) -> ActionInterface:
    """Read a fitted interface, frozen.

    Args:
        path: ends in .safetensors.
        name, hand, task, joints: what it must have been fitted for; None: not checked.

    Raises:
        UserError: missing, damaged, or fitted for something else, which is named.
    """
    checkpoint = load_checkpoint(path)
    for key, wanted in (('interface', name), ('hand', hand), ('task', task), ('joints', joints)):
        found = checkpoint.meta.get(key)
        if wanted is not None and found is not None and found != wanted:
            raise UserError(f'{path} was fitted for {key} {found}, not {wanted}; train the prior again in another run')
    try:
        settings = PriorSettings.model_validate(checkpoint.meta['settings'])
        interface = create_interface(checkpoint.meta['interface'], int(checkpoint.meta['joints']), settings)
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path.with_suffix(".json")} does not describe an interface; train the prior again') from None
    expected = module_shapes(interface)
    found = {key: tuple(tensor.shape) for key, tensor in checkpoint.tensors.items()}
    if expected != found:
        raise UserError(f'{path} holds another network than its JSON describes; train the prior again')
    interface.load_state_dict(checkpoint.tensors)
    return interface.freeze()
