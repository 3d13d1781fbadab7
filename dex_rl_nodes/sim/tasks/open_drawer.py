"""Open drawer: find a small handle, pinch it and pull."""

import numpy as np

from dex_rl_nodes.sim.tasks.base import Grip, Scene, SimTask, Stage
from dex_rl_nodes.sim.world import Fragment, panel

# The cabinet (m): half sizes, z of the drawer's middle, half sizes of the drawer front.
_CABINET = (0.10, 0.13, 0.15)
_MIDDLE = 0.20
_FRONT = (0.006, 0.11, 0.055)
# The handle (m): half length and radius of the bar, how far it stands out.
_BAR, _RADIUS, _OUT = 0.032, 0.006, 0.055
_TRAVEL = 0.16  # of the drawer (m)


class OpenDrawer(SimTask):
    """The drawer has to be pulled out by its handle."""

    defaults = {
        'x': 0.74,  # nominal place of the drawer front (m)
        'y': 0.0,
        'place_range': 0.025,  # plus or minus, along x and y (m)
        'height_range': 0.020,  # plus or minus, of the drawer (m)
        'yaw_range': 0.15,  # plus or minus (rad)
        'handle_range': 0.030,  # plus or minus, of the handle along the front (m)
        'friction_low': 0.5,  # of the slide (N)
        'friction_high': 2.0,
        'opening': 0.10,  # for success (m)
    }
    # Ring and pinky fold away first: beside the index and middle finger there is no room on the handle.
    grip = Grip(
        closed=(0.667, 0.48, 0.36, 0.35, 0.62, 0.62),
        onset=(0.00, 0.34, 0.36, 0.38, 0.08, 0.05),
        end=(0.46, 0.98, 0.94, 0.95, 0.55, 0.50),
    )

    def fragment(self) -> Fragment:
        cx, cy, cz = _CABINET
        fx, fy, fz = _FRONT
        wood, dark, metal = '0.58 0.42 0.28 1', '0.36 0.25 0.17 1', '0.92 0.92 0.95 1'
        drawer = panel('front', (fx, 0, 0), _FRONT, wood) + panel(
            'tray', (0.09, 0, -0.8 * fz), (0.08, 0.9 * fy, 0.004), wood
        )
        handle = (
            f'<body name="handle" pos="{-_OUT} 0 0"><geom name="bar" class="scene" type="capsule" '
            f'fromto="0 {-_BAR} 0 0 {_BAR} 0" size="{_RADIUS}" mass="0.02" rgba="{metal}"/>'
            + panel('post_left', (_OUT / 2, _BAR, 0), (_OUT / 2, 0.003, 0.003), metal)
            + panel('post_right', (_OUT / 2, -_BAR, 0), (_OUT / 2, 0.003, 0.003), metal)
            + '</body>'
        )
        body = (
            panel('side_left', (cx, cy, 0), (cx, 0.008, cz), dark)
            + panel('side_right', (cx, -cy, 0), (cx, 0.008, cz), dark)
            + panel('board_top', (cx, 0, 0.065 + 0.5 * (cz - 0.065)), (cx, cy, 0.5 * (cz - 0.065)), dark)
            + panel('board_low', (cx, 0, -0.065 - 0.5 * (cz - 0.065)), (cx, cy, 0.5 * (cz - 0.065)), dark)
            + panel('back', (2 * cx, 0, 0), (0.006, cy, cz), dark)
        )
        return Fragment(
            bodies=f"""
            <body name="cabinet">{body}
              <body name="drawer"><joint name="drawer" type="slide" axis="-1 0 0" range="0 {_TRAVEL}" damping="2"
                frictionloss="1"/>{drawer}{handle}</body>
            </body>""",
            contact='<exclude body1="cabinet" body2="drawer"/><exclude body1="cabinet" body2="handle"/>',
            front_camera=((0.26, -0.48, 0.43), (0.62, 0.0, 0.22)),
        )

    def bind(self, model, data) -> None:
        super().bind(model, data)
        self._cabinet, self._handle, self._bar = self.body('cabinet'), self.body('handle'), self.geom('bar')
        slide = self.joint('drawer')
        self._slide, self._dof = int(model.jnt_qposadr[slide]), int(model.jnt_dofadr[slide])

    def randomise(self, rng: np.random.Generator) -> None:
        p = self.parameters
        x, y = rng.uniform(-p['place_range'], p['place_range'], 2)
        z = rng.uniform(-p['height_range'], p['height_range'])
        yaw = rng.uniform(-p['yaw_range'], p['yaw_range'])
        self.fix(self._cabinet, (p['x'] + x, p['y'] + y, _MIDDLE + z), yaw)
        self.model.body_pos[self._handle][1] = rng.uniform(-p['handle_range'], p['handle_range'])
        self.model.dof_frictionloss[self._dof] = rng.uniform(p['friction_low'], p['friction_high'])

    def scene(self) -> Scene:
        bar = self.data.xpos[self._handle]
        thumb, finger = self.touching({self._bar})
        opening = float(self.data.qpos[self._slide])
        return {
            'handle_x': float(bar[0]),
            'handle_y': float(bar[1]),
            'handle_z': float(bar[2]),
            'cabinet_yaw': self.yaw(self._cabinet),
            'opening': opening,
            'near': float(np.linalg.norm(self.tcp() - bar) < 0.025),
            'held': float(thumb and finger),
            'success': float(opening > self.parameters['opening']),
        }

    def plan(self) -> list[Stage]:
        def handle(seen: Scene, before: float = 0.0, above: float = 0.0):
            """The TCP at the handle, above it, or before it along the way of the drawer."""
            yaw = seen['cabinet_yaw']
            x, y = seen['handle_x'] - before * np.cos(yaw), seen['handle_y'] - before * np.sin(yaw)
            return x, y, seen['handle_z'] + above, yaw

        def held(seen: Scene) -> bool:
            return seen['held'] > 0

        def is_open(seen: Scene) -> bool:
            return seen['opening'] > self.parameters['opening'] + 0.015

        return [
            Stage('approach', lambda seen: handle(seen, 0.01, 0.06), closure=0.45, tolerance=0.012),
            Stage('reach', handle, closure=0.45, speed=0.7, tolerance=0.007),
            Stage('pinch', handle, closure=1.0, speed=0.4, tolerance=0.02, ticks=3, until=held, retry=2),
            # The handle moves with the hand: a person keeps pulling until it is far enough.
            Stage('pull', lambda seen: handle(seen, 0.05), closure=1.0, tolerance=1.0, until=is_open, needs=held),
            Stage('hold', handle, closure=1.0, speed=0.3, tolerance=1.0),
        ]
