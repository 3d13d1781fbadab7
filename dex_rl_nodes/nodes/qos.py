"""The QoS profiles of the package, by what a topic is for."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliable: bool, depth: int, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


PROFILES = {
    'SENSOR': _profile(reliable=False, depth=5),  # with two, frames of 640x480 were lost
    'COMMAND': _profile(reliable=True, depth=1),  # must arrive, never late; a command is not kept for late joiners
    'TICK': _profile(reliable=True, depth=50, latched=True),  # no tick may be missed, also by who is discovered late
    'STATE': _profile(reliable=True, depth=1, latched=True),  # who comes late learns how things are
    'EXPERIENCE': _profile(reliable=True, depth=1000),
    'DIAGNOSTICS': _profile(reliable=True, depth=10),
}


def profile(name: str, lockstep: bool = False) -> QoSProfile:
    """Profile by name. In lockstep the tick waits for sensors and commands, so none of them may be lost."""
    return PROFILES['TICK' if lockstep and name in ('SENSOR', 'COMMAND') else name]
