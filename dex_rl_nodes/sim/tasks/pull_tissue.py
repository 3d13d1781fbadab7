"""Pull a tissue out of its box: compliant, of changing shape, and only a pinch at the right height holds it."""

import numpy as np

from dex_rl_nodes.sim.tasks.base import Grip, Scene, SimTask, Stage
from dex_rl_nodes.sim.world import Fragment, panel

# The box (m): half sizes, half thickness of its walls, half sizes of the slot in its lid.
_HALF = (0.055, 0.075, 0.040)
_WALL = 0.003
_SLOT = (0.0045, 0.052)
_TOP = 2 * _HALF[2]
_STACK = 0.022  # height of the tissues below
# The tissue: vertices along the slot and upwards, and their spacing (m). Its physics takes most of a tick. With five
# rows upwards it is coarser than a fingertip, and a person misses it now and then.
_COUNT = (5, 6)
_SPACING = (0.020, 0.020)
_LENGTH = _SPACING[1] * (_COUNT[1] - 1)
_PINCH_DEPTH = 0.012  # a person brings the TCP this far below the upper edge (m)
_LOWEST = 0.023  # the TCP above the lid when the fingertips touch it (m)


class PullTissue(SimTask):
    """The tissue stands out of a slot; it has to leave the box whole, held by the fingers."""

    defaults = {
        'x': 0.50,  # nominal place of the box (m)
        'y': 0.0,
        'place_range': 0.025,  # plus or minus, along x and y (m)
        'yaw_range': 0.35,  # plus or minus (rad)
        'height_low': 0.040,  # how far the tissue stands out (m)
        'height_high': 0.055,
        'width_range': 0.15,  # relative, plus or minus
        'taper_range': 0.20,  # upper edge against lower edge, relative, plus or minus
        'skew_range': 0.12,  # turn in its own plane, plus or minus (rad)
        'lean_range': 0.15,  # lean out of the vertical, plus or minus (rad)
        'stiffness_low': 2.0,  # of the bending stiffness, relative
        'stiffness_high': 4.0,
        'clearance': 0.015,  # between lid and lower edge, for success (m)
    }
    grip = Grip(closed=(0.667, 0.45, 0.41, 0.40, 0.40, 0.36))

    def fragment(self) -> Fragment:
        hx, hy, hz = _HALF
        sx, sy = _SLOT
        side, lid, stack = '0.10 0.32 0.62 1', '0.16 0.45 0.80 1', '0.90 0.90 0.88 1'
        z, wall = _TOP - _WALL, hz - _WALL  # middle of the lid, and half the height of the sides below it
        box = (
            panel('box_left', (-hx + _WALL, 0, wall), (_WALL, hy, wall), side)
            + panel('box_right', (hx - _WALL, 0, wall), (_WALL, hy, wall), side)
            + panel('box_near', (0, -hy + _WALL, wall), (hx, _WALL, wall), side)
            + panel('box_far', (0, hy - _WALL, wall), (hx, _WALL, wall), side)
            + panel('stack', (0, 0, _STACK / 2), (hx - 2 * _WALL, hy - 2 * _WALL, _STACK / 2), stack)
            + panel('lid_left', (-(hx + sx) / 2, 0, z), ((hx - sx) / 2, hy, _WALL), lid)
            + panel('lid_right', ((hx + sx) / 2, 0, z), ((hx - sx) / 2, hy, _WALL), lid)
            + panel('lid_near', (0, -(hy + sy) / 2, z), (sx, (hy - sy) / 2, _WALL), lid)
            + panel('lid_far', (0, (hy + sy) / 2, z), (sx, (hy - sy) / 2, _WALL), lid)
        )
        # The grid lies in its own x-y plane; the frame is turned so that x runs along the slot and y stands up.
        tissue = f"""
        <body name="tissue" quat="0.5 0.5 0.5 0.5">
          <flexcomp name="tissue" type="grid" dim="2" count="{_COUNT[0]} {_COUNT[1]} 1"
                    spacing="{_SPACING[0]} {_SPACING[1]} 0.01" radius="0.002" mass="0.004" rgba="0.97 0.95 0.90 1">
            <edge equality="true" solref="0.01 1"/>
            <elasticity young="1e6" poisson="0.2" thickness="2e-3" damping="1e-3" elastic2d="bend"/>
            <contact contype="2" conaffinity="7" selfcollide="none" condim="4" friction="1.2 0.02 0.001"/>
          </flexcomp>
        </body>"""
        return Fragment(bodies=f'<body name="box">{box}{tissue}</body>')

    def bind(self, model, data) -> None:
        super().bind(model, data)
        self._box = self.body('box')
        bodies = model.flex_vertbodyid
        self._rest = model.body_pos[bodies].copy()  # of the vertices, tissue frame
        self._address = int(model.jnt_qposadr[model.body_jntadr[bodies[0]]])
        self._edges = model.flex_edge.copy()
        self._bending = model.flex_bending.copy()
        self._top_row = np.flatnonzero(self._rest[:, 1] > self._rest[:, 1].max() - 1e-6)

    def randomise(self, rng: np.random.Generator) -> None:
        p = self.parameters
        x, y = rng.uniform(-p['place_range'], p['place_range'], 2)
        yaw = rng.uniform(-p['yaw_range'], p['yaw_range'])
        self.fix(self._box, (p['x'] + x, p['y'] + y, 0.0), yaw)
        self.model.flex_bending[:] = self._bending * rng.uniform(p['stiffness_low'], p['stiffness_high'])
        self._set_shape(
            height=rng.uniform(p['height_low'], p['height_high']),
            width=1.0 + rng.uniform(-p['width_range'], p['width_range']),
            taper=rng.uniform(-p['taper_range'], p['taper_range']),
            skew=rng.uniform(-p['skew_range'], p['skew_range']),
            lean=rng.uniform(-p['lean_range'], p['lean_range']),
            shift=rng.uniform(-0.006, 0.006),
        )

    def _set_shape(self, height: float, width: float, taper: float, skew: float, lean: float, shift: float) -> None:
        """Cut the tissue to a shape (it keeps its edge lengths) and put it through the slot."""
        up = (self._rest[:, 1] - self._rest[:, 1].min()) / _LENGTH  # 0 at the lower edge, 1 at the upper
        length = _TOP - _STACK + height
        flat = np.zeros((len(up), 2))
        flat[:, 0] = self._rest[:, 0] * width * (1.0 + taper * (up - 0.5))
        flat[:, 1] = up * length
        ends = flat[self._edges]
        self.model.flexedge_length0[:] = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        c, s = np.cos(skew), np.sin(skew)
        along = c * flat[:, 0] - s * (flat[:, 1] - length / 2) + shift
        stand = s * flat[:, 0] + c * (flat[:, 1] - length / 2) + length / 2
        stand += 0.004 - stand.min()
        # It leans about the slot; tissue frame: x along the slot, y up, z across the slot.
        across = np.tan(lean) * (stand - (_TOP - _STACK))
        placed = np.stack([along, _STACK + stand, across], axis=1)
        self.data.qpos[self._address : self._address + placed.size] = (placed - self._rest).ravel()

    def scene(self) -> Scene:
        points = self.data.flexvert_xpos.reshape(-1, 3)
        upper = points[self._top_row]
        top = float(points[:, 2].max())
        height = max(float(upper[:, 2].mean()) - _PINCH_DEPTH, _TOP + _LOWEST)
        # The person aims at the middle of what is left and right of the fingertips, a little below the TCP.
        pinch = points[np.argsort(np.abs(points[:, 2] - (height - 0.005)))[: _COUNT[0]]].mean(0)
        thumb, finger = self.touching(set(), flex=0)
        lowest = float(points[:, 2].min())
        box = self.data.xpos[self._box]
        distance = np.linalg.norm(self.tcp() - [pinch[0], pinch[1], height])
        return {
            'pinch_x': float(pinch[0]),
            'pinch_y': float(pinch[1]),
            'pinch_z': height,
            'tissue_top': top,
            'tissue_low': lowest,
            'box_x': float(box[0]),
            'box_y': float(box[1]),
            'box_yaw': self.yaw(self._box),
            'near': float(distance < 0.025),
            'held': float(thumb and finger),
            'success': float(thumb and finger and lowest > _TOP + self.parameters['clearance']),
        }

    def plan(self) -> list[Stage]:
        def pinch(seen: Scene, above: float = 0.0):
            return seen['pinch_x'], seen['pinch_y'], seen['pinch_z'] + above, seen['box_yaw']

        def lifted(seen: Scene):
            return seen['box_x'], seen['box_y'], _TOP + 0.17, seen['box_yaw']

        def held(seen: Scene) -> bool:
            return seen['held'] > 0

        return [
            Stage('approach', lambda seen: pinch(seen, 0.06), closure=0.45, tolerance=0.015),
            Stage('descend', pinch, closure=0.45, speed=0.7, tolerance=0.007),
            Stage('pinch', pinch, closure=1.0, speed=0.5, tolerance=0.02, ticks=3, until=held, retry=2),
            Stage('lift', lifted, closure=1.0, until=lambda seen: seen['success'] > 0, tolerance=1.0, needs=held),
            Stage('hold', lifted, closure=1.0, speed=0.4, tolerance=1.0, needs=held),
        ]
