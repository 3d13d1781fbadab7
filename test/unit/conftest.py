"""What several unit tests need."""

import pytest

from dex_rl_nodes import config
from dex_rl_nodes.config import load_robot


@pytest.fixture
def robots_with_serials(monkeypatch):
    """The files of the robots as a lab has them: with the serial numbers of its cameras."""

    def loaded(name):
        robot = load_robot(name)
        cameras = {view: camera.model_copy(update={'serial': f'5{view}'}) for view, camera in robot.cameras.items()}
        return robot.model_copy(update={'cameras': cameras})

    monkeypatch.setattr(config, 'load_robot', loaded)
