"""Assemble box: pick a lid up by its knob, turn it, and fit its rim into the box."""

import numpy as np

from dex_rl_nodes.sim.tasks.base import Grip, Scene, SimTask, Stage
from dex_rl_nodes.sim.world import Fragment, frustum, panel

# The box (m): half width inside, half thickness of the walls, height.
_INSIDE, _WALL, _HEIGHT = 0.045, 0.003, 0.060
# The lid (m): half width of the plate, its thickness, depth of the rim below it, and the knob on it.
_PLATE, _THICK, _RIM, _KNOB = 0.054, 0.006, 0.014, (0.010, 0.044)
_GRASP = _RIM + _THICK + 0.025  # height of the TCP above the lower edge of the lid
_SEATED = _HEIGHT - _RIM  # height of the lower edge when the lid fits
_CLEAR = _HEIGHT + 0.030
_ASKEW = 0.06  # turn against the box with which nobody presses the lid down (rad)


def _turn(angle: float) -> float:
    """The same angle for a square: within 45 degrees (rad)."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)


class AssembleBox(SimTask):
    """The lid has to sit flat on the box, its rim inside, let go of."""

    defaults = {
        'lid_x': 0.47,  # nominal place of the lid (m)
        'lid_y': -0.10,
        'lid_range': 0.025,  # plus or minus, along x and y (m)
        'lid_yaw_range': 0.30,  # plus or minus (rad)
        'box_x': 0.50,  # nominal place of the box (m)
        'box_y': 0.09,
        'box_range': 0.020,
        'box_yaw_range': 0.30,
        'gap': 0.008,  # between rim and wall when centred (m)
        'seat_tolerance': 0.005,  # height above the seat that counts as fitted (m)
        'flat': 0.06,  # largest tilt that counts as fitted (rad)
    }
    grip = Grip(
        closed=(0.667, 0.50, 0.32, 0.31, 0.30, 0.26),
        onset=(0.00, 0.36, 0.36, 0.38, 0.42, 0.46),
        end=(0.40, 0.98, 0.92, 0.94, 0.98, 1.00),
    )

    def fragment(self) -> Fragment:
        outer, half = _INSIDE + 2 * _WALL, _HEIGHT / 2
        light, dark = '0.70 0.35 0.75 1', '0.48 0.20 0.55 1'
        box = (
            panel('floor_panel', (0, 0, _WALL), (_INSIDE, _INSIDE, _WALL), dark)
            + panel('wall_back', (-_INSIDE - _WALL, 0, half), (_WALL, outer, half), light)
            + panel('wall_front', (_INSIDE + _WALL, 0, half), (_WALL, outer, half), light)
            + panel('wall_right', (0, -_INSIDE - _WALL, half), (_INSIDE, _WALL, half), dark)
            + panel('wall_left', (0, _INSIDE + _WALL, half), (_INSIDE, _WALL, half), dark)
        )
        rim = _INSIDE - self.parameters['gap']
        white, grey = '0.95 0.95 0.90 1', '0.75 0.76 0.72 1'
        # The rim is narrower at its lower edge, as on a real lid; without a step, on which it could come to rest.
        lid = (
            panel('lid_rim', (0, 0, 0.75 * _RIM), (rim, rim, 0.25 * _RIM), grey)
            + f'<geom name="lid_edge" class="scene" type="mesh" mesh="lid_edge" rgba="{grey}"/>'
            + panel('lid_plate', (0, 0, _RIM + _THICK / 2), (_PLATE, _PLATE, _THICK / 2), white)
        )
        knob = (
            f'<geom name="knob" class="scene" type="cylinder" pos="0 0 {_RIM + _THICK + _KNOB[1] / 2}" '
            f'size="{_KNOB[0]} {_KNOB[1] / 2}" rgba="0.85 0.12 0.15 1"/>'
        )
        inertial = f'<inertial pos="0 0 {_RIM}" mass="0.10" diaginertia="1.1e-4 1.1e-4 2e-4"/>'
        return Fragment(
            bodies=f'<body name="box">{box}</body><body name="lid"><freejoint name="lid"/>{inertial}{lid}{knob}</body>',
            assets=frustum('lid_edge', rim - 0.003, rim, _RIM / 2),
            front_camera=((0.79, -0.295, 0.325), (0.48, 0.0, 0.10)),
        )

    def bind(self, model, data) -> None:
        super().bind(model, data)
        self._lid, self._box, self._free = self.body('lid'), self.body('box'), self.joint('lid')
        self._knob, self._plate = {self.geom('knob')}, {self.geom('lid_plate')}

    def randomise(self, rng: np.random.Generator) -> None:
        p = self.parameters
        x, y = rng.uniform(-p['lid_range'], p['lid_range'], 2)
        yaw = rng.uniform(-p['lid_yaw_range'], p['lid_yaw_range'])
        self.place(self._free, (p['lid_x'] + x, p['lid_y'] + y, 0.001), yaw)
        x, y = rng.uniform(-p['box_range'], p['box_range'], 2)
        yaw = rng.uniform(-p['box_yaw_range'], p['box_yaw_range'])
        self.fix(self._box, (p['box_x'] + x, p['box_y'] + y, 0.0), yaw)

    def arrange(self, rng: np.random.Generator) -> None:
        """The lid in its seat, or jammed a little beside it, lying across the box, or somewhere near it."""
        way = rng.choice(('seated', 'jammed', 'across', 'beside'), p=(0.35, 0.35, 0.25, 0.05))
        low, high, height, turn = {  # distance from the middle of the box, height (m) and turn (rad)
            'seated': (0.0, 0.7 * self.parameters['gap'], _SEATED, 0.1),
            'jammed': (0.0, 2.5 * self.parameters['gap'], _HEIGHT, 0.5),
            'across': (0.01, 0.08, _HEIGHT, np.pi),
            'beside': (0.11, 0.16, 0.0, np.pi),
        }[way]
        angle = rng.uniform(-np.pi, np.pi)
        x, y = self.data.xpos[self._box][:2] + rng.uniform(low, high) * np.array([np.cos(angle), np.sin(angle)])
        self.place(self._free, (x, y, height + 0.001), self.yaw(self._box) + rng.uniform(-turn, turn))

    def scene(self) -> Scene:
        p = self.parameters
        lid, box, tcp = self.data.xpos[self._lid], self.data.xpos[self._box], self.tcp()
        thumb, finger = self.touching(self._knob)
        free = not (thumb or finger or any(self.touching(self._plate)))
        tilt, yaw = self.tilt(self._lid), self.yaw(self._lid)
        centred = np.linalg.norm(lid[:2] - box[:2]) < 2.0 * p['gap']
        fitted = centred and abs(lid[2] - _SEATED) < p['seat_tolerance'] and tilt < p['flat']
        return {
            'lid_x': float(lid[0]),
            'lid_y': float(lid[1]),
            'lid_z': float(lid[2]),
            'lid_yaw': _turn(yaw),
            'tilt': tilt,
            'box_x': float(box[0]),
            'box_y': float(box[1]),
            'box_yaw': self.yaw(self._box),
            # How the lid hangs in the hand.
            'hang_x': float(lid[0] - tcp[0]),
            'hang_y': float(lid[1] - tcp[1]),
            'hang_z': float(lid[2] - tcp[2]),
            'hang_yaw': _turn(yaw - self.hand_yaw()),
            'near': float(np.linalg.norm(tcp - lid - [0, 0, _GRASP]) < 0.03),
            'held': float(thumb and finger),
            'lost': float(tilt > 1.0),
            'success': float(fitted and free),
        }

    def plan(self) -> list[Stage]:
        def knob(seen: Scene, above: float = 0.0):
            return seen['lid_x'], seen['lid_y'], seen['lid_z'] + _GRASP + above, seen['lid_yaw']

        def lifted(seen: Scene):
            """Straight up, and the hand as it is turned: a lid that was gripped askew turns with it."""
            x, y = seen['lid_x'] - seen['hang_x'], seen['lid_y'] - seen['hang_y']
            return x, y, _GRASP + _CLEAR, seen['lid_yaw'] - seen['hang_yaw']

        def over_box(seen: Scene, height: float):
            """The TCP, so that the lid hangs over the box, turned as the box, with its lower edge at a height."""
            x, y = seen['box_x'] - seen['hang_x'], seen['box_y'] - seen['hang_y']
            hang = float(np.clip(seen['hang_z'], -_GRASP - 0.02, -_GRASP + 0.02))
            return x, y, height - hang, seen['box_yaw'] - seen['hang_yaw']

        def insert(seen: Scene):
            """Down, a little below the seat, so that the arm presses; but up again where the rim is beside or askew."""
            beside = np.hypot(seen['lid_x'] - seen['box_x'], seen['lid_y'] - seen['box_y']) > 0.006
            askew = abs(_turn(seen['lid_yaw'] - seen['box_yaw'])) > _ASKEW
            up = (beside and seen['lid_z'] > _HEIGHT - 0.003) or (askew and not seated(seen))
            return over_box(seen, _CLEAR if up else _SEATED - 0.010)

        def over_knob(seen: Scene, above: float):
            return seen['lid_x'], seen['lid_y'], _SEATED + _GRASP + above, seen['box_yaw']

        def held(seen: Scene) -> bool:
            return seen['held'] > 0

        def seated(seen: Scene) -> bool:
            return (
                seen['lid_z'] < _SEATED + self.parameters['seat_tolerance'] and seen['tilt'] < self.parameters['flat']
            )

        return [
            Stage('approach', lambda seen: knob(seen, 0.05), closure=0.36, tolerance=0.012),
            Stage('descend', knob, closure=0.36, speed=0.7, tolerance=0.007, slack=0.010),
            Stage('pinch', knob, closure=1.0, speed=0.4, tolerance=0.02, ticks=3, until=held, retry=2),
            Stage(
                'lift',
                lifted,
                closure=1.0,
                tolerance=0.025,
                needs=held,
            ),
            Stage('carry', lambda seen: over_box(seen, _CLEAR), closure=1.0, tolerance=0.006, needs=held),
            Stage(
                'insert',
                insert,
                closure=1.0,
                speed=0.6,
                tolerance=0.025,
                slack=0.010,
                until=seated,
                needs=held,
            ),
            Stage('release', lambda seen: over_knob(seen, 0.0), closure=0.36, speed=0.3, tolerance=0.03),
            Stage('retreat', lambda seen: over_knob(seen, 0.07), closure=0.36, tolerance=1.0),
        ]
