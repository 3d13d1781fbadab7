"""What the arm looks like: the shapes that simulation and RViz show. Kinematics: robot/kinematics.py."""

from dex_rl_nodes.records import ARM_JOINTS as JOINT_NAMES

__all__ = ['BASE', 'CAPSULES', 'JOINT_NAMES']

BASE = (0.085, 0.10)  # cylinder on the table: radius, height (m)
# Capsules of link i in its own frame: from, to, radius (m). The first one carries the mass.
CAPSULES = (
    (((0, 0, -0.19), (0, 0, 0), 0.062),),
    (((0, 0, 0), (0, -0.19, 0), 0.060),),
    (((0, 0, -0.12), (0, 0, -0.02), 0.058), ((0, 0, -0.02), (0.0825, 0, 0), 0.055)),
    (((0, 0, 0), (-0.0825, 0.10, 0), 0.055),),
    (((0, 0.02, -0.28), (0, 0.055, -0.08), 0.050), ((0, 0.055, -0.08), (0, 0, 0), 0.046)),
    (((0, 0, 0), (0.088, 0, 0), 0.050),),
    (((0, 0, -0.03), (0, 0, 0.075), 0.040),),
)
