"""What a simulated task is: objects, randomisation, verdicts, and how a person would do it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.sim import hand
from dex_rl_nodes.sim.world import Fragment

Scene = dict[str, float]
FailureClass = Literal['arm', 'hand', 'stall']


@dataclass(frozen=True)
class Stage:
    """One thing the scripted person does before the next one.

    Targets and conditions are functions of what the person sees (`SimTask.scene`).
    """

    name: str
    target: Callable[[Scene], tuple[float, float, float, float]]  # TCP x, y, z (m) and turn about z (rad), base frame
    closure: float  # how far the hand closes: 0 as at the start, 1 as in Grip.closed
    speed: float = 1.0  # relative to the person's usual speed
    tolerance: float = 0.008  # the stage is done within this distance (m)
    ticks: int = 0  # and after at least this many ticks
    until: Callable[[Scene], bool] | None = None  # and when this holds
    needs: Callable[[Scene], bool] | None = None  # when this stops holding, the person starts again
    retry: int = 1  # stages to go back when this one does not get done
    slack: float | None = None  # who watches a policy pushes it where it comes down further beside (m); None: never


@dataclass(frozen=True)
class Grip:
    """How the hand closes in a task: one smooth, curved path from the start to `closed`.

    Each motor moves while the closure is between its onset and its end.
    """

    closed: tuple[float, ...]  # normalised travel, motor order
    onset: tuple[float, ...] = (0.00, 0.30, 0.30, 0.33, 0.38, 0.42)
    end: tuple[float, ...] = (0.50, 0.98, 0.90, 0.93, 0.98, 1.00)


class SimTask(ABC):
    """One task. A new one is a file in this folder with a subclass; its name is that of the file.

    Args:
        parameters: `scene:` of the task's configuration; what it may contain is `defaults`.
    """

    defaults: dict[str, float] = {}
    grip: Grip

    def __init__(self, parameters: dict[str, float]):
        self.parameters = {**self.defaults, **parameters}

    @abstractmethod
    def fragment(self) -> Fragment:
        """MJCF of the objects."""

    def bind(self, model, data) -> None:
        """Look up what the task needs in the compiled model; called once, before anything below."""
        self.model, self.data = model, data
        self._tcp = self.site('tcp')
        self._thumb_geoms = self._geoms_of('thumb_bend', 'thumb_bend_distal')
        self._finger_geoms = self._geoms_of(*(f'{name}{part}' for name in hand.MOTORS[2:] for part in ('', '_distal')))

    @abstractmethod
    def randomise(self, rng: np.random.Generator) -> None:
        """Draw the start of an episode: called after mj_resetData, before the scene settles."""

    def arrange(self, rng: np.random.Generator) -> None:
        """Put things by hand as after a success, or so that one might take it for one; called after `randomise`.

        Only for tasks whose end can be arranged (`arrangements` in the configuration). Poses of bodies are up to date;
        the hand starts about the target of the last stage of `plan`, which must not depend on where the hand is.
        """
        raise UserError(f'{type(self).__name__} cannot be arranged by hand; set arrangements: 0 in its configuration')

    @abstractmethod
    def scene(self) -> Scene:
        """What a person sees, SI units, base frame.

        Always among it, each 0 or 1: `success` (the condition of the task holds now), `near` (the TCP is where the
        interaction can start), `held` (thumb and a finger hold the object). Optional: `lost` (nobody can save it).
        """

    @abstractmethod
    def plan(self) -> list[Stage]:
        """How a person does the task.

        The first stage leads beside or above the grasp and the second to it, with an open hand; stages that carry need
        what is held. The last one goes on until the person is sure of the success.
        """

    # What tasks have in common.

    def body(self, name: str) -> int:
        return self._id(mujoco.mjtObj.mjOBJ_BODY, name)

    def geom(self, name: str) -> int:
        return self._id(mujoco.mjtObj.mjOBJ_GEOM, name)

    def site(self, name: str) -> int:
        return self._id(mujoco.mjtObj.mjOBJ_SITE, name)

    def joint(self, name: str) -> int:
        return self._id(mujoco.mjtObj.mjOBJ_JOINT, name)

    def _id(self, kind, name: str) -> int:
        number = mujoco.mj_name2id(self.model, kind, name)
        if number < 0:
            raise KeyError(name)
        return number

    def _geoms_of(self, *bodies: str) -> set[int]:
        wanted = {self.body(name) for name in bodies}
        return {geom for geom in range(self.model.ngeom) if int(self.model.geom_bodyid[geom]) in wanted}

    def tcp(self) -> np.ndarray:
        """Position of the TCP (3,), m."""
        return self.data.site_xpos[self._tcp]

    def hand_yaw(self) -> float:
        """Turn of the hand about z (rad); 0 when the palm faces along x, for a hand that points down."""
        axes = self.data.site_xmat[self._tcp]
        return float(np.arctan2(axes[3], axes[0]))

    def place(self, joint: int, position: tuple[float, float, float], yaw: float) -> None:
        """Put an object with a free joint somewhere (m, rad)."""
        address = self.model.jnt_qposadr[joint]
        self.data.qpos[address : address + 7] = (*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))

    def fix(self, body: int, position: tuple[float, float, float], yaw: float) -> None:
        """Put an object without a joint somewhere (m, rad)."""
        self.model.body_pos[body] = position
        self.model.body_quat[body] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))

    def tilt(self, body: int) -> float:
        """Angle between the z axis of a body and the vertical (rad)."""
        return float(np.arccos(np.clip(self.data.xmat[body][8], -1.0, 1.0)))

    def yaw(self, body: int) -> float:
        """Turn of a body about z (rad)."""
        axes = self.data.xmat[body]
        return float(np.arctan2(axes[3], axes[0]))

    def touching(self, geoms: set[int], flex: int = -1) -> tuple[bool, bool]:
        """Whether the thumb, and whether any finger, touches one of `geoms` or the flex `flex`."""
        thumb = finger = False
        contact = self.data.contact
        for pair, flexes in zip(contact.geom.tolist(), contact.flex.tolist()):
            for mine, other in ((0, 1), (1, 0)):
                if (pair[other] in geoms) or (pair[other] < 0 and flexes[other] == flex >= 0):
                    thumb = thumb or pair[mine] in self._thumb_geoms
                    finger = finger or pair[mine] in self._finger_geoms
        return thumb, finger
