"""Grasp & place: carry a bottle upright into a narrow, tall box."""

import numpy as np

from dex_rl_nodes.sim.tasks.base import Grip, Scene, SimTask, Stage
from dex_rl_nodes.sim.world import Fragment, panel

# The bottle (m): radius and height of body and cap, shoulder between them.
_BODY, _SHOULDER, _CAP = (0.026, 0.100), 0.014, (0.014, 0.036)
_GRASP = _BODY[1] + _SHOULDER + 0.024  # height of the TCP above the bottom of the bottle
# The box (m): half width inside, half thickness of the walls, height.
_INSIDE, _WALL, _HEIGHT = 0.036, 0.003, 0.100
_FLOOR = 2 * _WALL
_CLEAR = _HEIGHT + 0.035  # the bottom of the bottle passes the rim at this height


class GraspPlace(SimTask):
    """The bottle has to stand in the box, upright and let go of."""

    defaults = {
        'bottle_x': 0.48,  # nominal place of the bottle (m)
        'bottle_y': -0.09,
        'bottle_range': 0.030,  # plus or minus, along x and y (m)
        'box_x': 0.48,  # nominal place of the box (m)
        'box_y': 0.09,
        'box_range': 0.020,
        'box_yaw_range': 0.15,  # plus or minus (rad)
        'mass_low': 0.10,  # of the bottle (kg)
        'mass_high': 0.20,
        'upright': 0.25,  # largest tilt that counts as upright (rad)
    }
    grip = Grip(
        closed=(0.667, 0.50, 0.28, 0.27, 0.30, 0.26),
        onset=(0.00, 0.36, 0.36, 0.38, 0.42, 0.46),
        end=(0.40, 0.98, 0.92, 0.94, 0.98, 1.00),
    )

    def fragment(self) -> Fragment:
        body, shoulder, cap = _BODY, _SHOULDER, _CAP
        top = body[1] + shoulder
        bottle = f"""
        <body name="bottle"><freejoint name="bottle"/>
          <geom name="bottle_body" class="scene" type="cylinder" pos="0 0 {body[1] / 2}" size="{body[0]} {body[1] / 2}"
                mass="0.12" rgba="0.10 0.55 0.30 1"/>
          <geom name="bottle_shoulder" class="scene" type="cylinder" pos="0 0 {body[1] + shoulder / 2}"
                size="{0.75 * body[0]} {shoulder / 2}" mass="0.01" rgba="0.10 0.55 0.30 1"/>
          <geom name="bottle_cap" class="scene" type="cylinder" pos="0 0 {top + cap[1] / 2}"
                size="{cap[0]} {cap[1] / 2}" mass="0.01" rgba="0.85 0.12 0.15 1"/>
        </body>"""
        outer, z, half = _INSIDE + 2 * _WALL, _HEIGHT / 2, _HEIGHT / 2
        light, dark = '0.93 0.85 0.35 1', '0.80 0.70 0.22 1'
        box = (
            panel('floor_panel', (0, 0, _WALL), (_INSIDE, _INSIDE, _WALL), dark)
            + panel('wall_back', (-_INSIDE - _WALL, 0, z), (_WALL, outer, half), light)
            + panel('wall_front', (_INSIDE + _WALL, 0, z), (_WALL, outer, half), light)
            + panel('wall_right', (0, -_INSIDE - _WALL, z), (_INSIDE, _WALL, half), dark)
            + panel('wall_left', (0, _INSIDE + _WALL, z), (_INSIDE, _WALL, half), dark)
        )
        return Fragment(
            bodies=f'<body name="box">{box}</body>{bottle}', front_camera=((0.92, -0.42, 0.42), (0.47, 0.0, 0.12))
        )

    def bind(self, model, data) -> None:
        super().bind(model, data)
        self._bottle, self._box, self._free = self.body('bottle'), self.body('box'), self.joint('bottle')
        self._geoms = {self.geom(f'bottle_{part}') for part in ('body', 'shoulder', 'cap')}
        self._mass, self._inertia = float(model.body_mass[self._bottle]), model.body_inertia[self._bottle].copy()

    def randomise(self, rng: np.random.Generator) -> None:
        p = self.parameters
        x, y = rng.uniform(-p['bottle_range'], p['bottle_range'], 2)
        self.place(self._free, (p['bottle_x'] + x, p['bottle_y'] + y, 0.001), rng.uniform(-np.pi, np.pi))
        x, y = rng.uniform(-p['box_range'], p['box_range'], 2)
        yaw = rng.uniform(-p['box_yaw_range'], p['box_yaw_range'])
        self.fix(self._box, (p['box_x'] + x, p['box_y'] + y, 0.0), yaw)
        share = rng.uniform(p['mass_low'], p['mass_high']) / self._mass
        self.model.body_mass[self._bottle] = share * self._mass
        self.model.body_inertia[self._bottle] = share * self._inertia

    def scene(self) -> Scene:
        bottle, box, tcp = self.data.xpos[self._bottle], self.data.xpos[self._box], self.tcp()
        thumb, finger = self.touching(self._geoms)
        tilt = self.tilt(self._bottle)
        inside = np.abs(bottle[:2] - box[:2]).max() < _INSIDE
        placed = inside and bottle[2] < _FLOOR + 0.008 and tilt < self.parameters['upright']
        return {
            'bottle_x': float(bottle[0]),
            'bottle_y': float(bottle[1]),
            'bottle_z': float(bottle[2]),
            'tilt': tilt,
            'box_x': float(box[0]),
            'box_y': float(box[1]),
            'box_yaw': self.yaw(self._box),
            # Where the bottle hangs in the hand.
            'hang_x': float(bottle[0] - tcp[0]),
            'hang_y': float(bottle[1] - tcp[1]),
            'hang_z': float(bottle[2] - tcp[2]),
            'near': float(np.linalg.norm(tcp - bottle - [0, 0, _GRASP]) < 0.03),
            'held': float(thumb and finger),
            'lost': float(tilt > 0.8),
            'success': float(placed and not thumb and not finger),
        }

    def plan(self) -> list[Stage]:
        def bottle(seen: Scene, above: float = 0.0):
            return seen['bottle_x'], seen['bottle_y'], _GRASP + above, 0.0

        def lifted(seen: Scene):
            """Straight up: the hand, not what hangs beside it."""
            return seen['bottle_x'] - seen['hang_x'], seen['bottle_y'] - seen['hang_y'], _GRASP + _CLEAR, 0.0

        def over_box(seen: Scene, height: float):
            """The TCP, so that the bottle hangs over the middle of the box with its bottom at a height."""
            return (
                seen['box_x'] - seen['hang_x'],
                seen['box_y'] - seen['hang_y'],
                height - max(seen['hang_z'], -_GRASP - 0.02),
                seen['box_yaw'],
            )

        def lower(seen: Scene):
            """Down, but only while the bottle is over the opening."""
            beside = np.hypot(seen['bottle_x'] - seen['box_x'], seen['bottle_y'] - seen['box_y']) > 0.008
            return over_box(seen, _CLEAR if beside and seen['bottle_z'] > _HEIGHT - 0.005 else _FLOOR)

        def stands(seen: Scene) -> bool:
            return seen['bottle_z'] < _FLOOR + 0.006

        def retreated(seen: Scene):
            return seen['box_x'], seen['box_y'], _GRASP + _FLOOR + 0.07, seen['box_yaw']

        def held(seen: Scene) -> bool:
            return seen['held'] > 0

        return [
            Stage('approach', lambda seen: bottle(seen, 0.055), closure=0.36, tolerance=0.015),
            Stage('descend', bottle, closure=0.36, speed=0.7, tolerance=0.008),
            Stage('grasp', bottle, closure=1.0, speed=0.4, tolerance=0.02, ticks=3, until=held, retry=2),
            Stage('lift', lifted, closure=1.0, tolerance=0.025, needs=held),
            Stage('carry', lambda seen: over_box(seen, _CLEAR), closure=1.0, tolerance=0.008, needs=held),
            Stage('lower', lower, closure=1.0, speed=0.7, tolerance=0.02, until=stands, needs=held),
            Stage(
                'release',
                lambda seen: (*over_box(seen, _FLOOR)[:2], _GRASP + _FLOOR, seen['box_yaw']),
                closure=0.36,
                speed=0.3,
                tolerance=0.03,
            ),
            Stage('retreat', retreated, closure=0.36, tolerance=1.0),
        ]
