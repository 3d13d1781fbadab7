"""Where the package's data files and the runs live."""

import os
from pathlib import Path

_SOURCE = Path(__file__).resolve().parent.parent


def share_directory() -> Path:
    """Folder that holds config/, launch/, msg/ and srv/: the source tree, or the installed share folder."""
    if (_SOURCE / 'package.xml').is_file():
        return _SOURCE
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        share = Path(prefix) / 'share' / 'dex_rl_nodes'
        if prefix and (share / 'package.xml').is_file():
            return share
    raise FileNotFoundError('dex_rl_nodes is neither a source tree nor on AMENT_PREFIX_PATH')


def config_directory() -> Path:
    """Folder of the YAML files: robots/, tasks/, methods/, view/."""
    return share_directory() / 'config'


def runs_directory() -> Path:
    """Folder of the run directories: $DEXRL_RUNS, else ./runs."""
    return Path(os.path.expanduser(os.environ.get('DEXRL_RUNS') or 'runs')).resolve()
