"""SpaceMouse through its HID reports, for machines without spacenavd.

Report 1 holds the translation (older models) or all six axes, report 2 the rotation of older models, report 3 the
buttons (bit 0 left, bit 1 right, then those of larger models). Counts are about plus or minus 350 at full deflection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

FULL_SCALE = 350.0
REPORT_SIZE = 64  # bytes; no report is longer
_BUTTON_BYTES = 6  # of the largest model; smaller ones send fewer

# vendor id, product id -> model
MODELS = {
    (0x256F, 0xC635): 'SpaceMouse Compact',
    (0x256F, 0xC62E): 'SpaceMouse Wireless (cabled)',
    (0x256F, 0xC63A): 'SpaceMouse Wireless BT',
    (0x256F, 0xC632): 'SpaceMouse Pro Wireless (cabled)',
    (0x256F, 0xC638): 'SpaceMouse Pro Wireless BT',
    (0x256F, 0xC652): 'Universal Receiver',
    (0x256F, 0xC633): 'SpaceMouse Enterprise',
    (0x256F, 0xC641): 'SpaceMouse',
    (0x046D, 0xC626): 'SpaceNavigator',
    (0x046D, 0xC62B): 'SpaceMouse Pro',
}


@dataclass(frozen=True)
class MouseState:
    """Axes in device convention, [-1, 1]: x, y, z, then rotations about them; buttons, left first.

    The device tells its buttons when one changes, so until then nobody knows whether one is held: None.
    """

    axes: tuple[float, ...] = (0.0,) * 6
    buttons: tuple[bool, ...] | None = None


def _axes(data: bytes) -> tuple[float, ...]:
    counts = (int.from_bytes(data[i : i + 2], 'little', signed=True) for i in range(0, len(data) - 1, 2))
    return tuple(min(max(count / FULL_SCALE, -1.0), 1.0) for count in counts)


def decode_report(report: bytes, state: MouseState) -> MouseState:
    """State after one report; reports of other kinds or lengths leave it as it was."""
    if not report:
        return state
    kind, data = report[0], report[1:]
    if kind == 1 and len(data) >= 12:
        return replace(state, axes=_axes(data[:12]))
    if kind == 1 and len(data) >= 6:
        return replace(state, axes=_axes(data[:6]) + state.axes[3:])
    if kind == 2 and len(data) >= 6:
        return replace(state, axes=state.axes[:3] + _axes(data[:6]))
    if kind == 3 and data:
        bits = int.from_bytes(data[:_BUTTON_BYTES], 'little')
        return replace(state, buttons=tuple(bool(bits >> index & 1) for index in range(max(2, bits.bit_length()))))
    return state


def ros_axes(axes: Sequence[float] | np.ndarray) -> np.ndarray:
    """Axes (6,) of the device (right, towards the operator, down) in those of REP-103 (forward, left, up)."""
    right, back, down, about_right, about_back, about_down = axes
    return -np.array([back, right, down, about_back, about_right, about_down])
