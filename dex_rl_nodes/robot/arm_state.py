"""What the arm says about itself: its mode, its errors, and whether it may be moved.

Modes and error names are those of the manufacturer's state message (franka_msgs/FrankaRobotState). It is read by its
fields, so that this works, and is tested, where that package is not installed.
"""

from enum import IntEnum
from typing import Any

from dex_rl_nodes.records import ArmState
from dex_rl_nodes.robot.events import SafetyEvent


class ArmMode(IntEnum):
    """FrankaRobotState.robot_mode and ArmState.mode."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    AUTOMATIC_ERROR_RECOVERY = 6


def _named_errors(errors: Any) -> list[str]:
    """Names of the fields that are true; a ROS message lists its fields, any other object its attributes."""
    listed = getattr(errors, 'get_fields_and_field_types', None)
    names = listed() if listed else vars(errors)
    return [name for name in names if getattr(errors, name) is True]


def read_arm_state(message: Any, stamp: int) -> ArmState:
    """ArmState of a FrankaRobotState, or of anything with its `robot_mode`, `current_errors`, `last_motion_errors`.

    Raises:
        ValueError: a field is missing: another version of the message; names it.
    """
    try:
        return ArmState(
            stamp=stamp,
            mode=int(message.robot_mode),
            errors=_named_errors(message.current_errors),
            last_errors=_named_errors(message.last_motion_errors),
            success_rate=float(message.control_command_success_rate),
        )
    except AttributeError as error:
        raise ValueError(f'robot_state has no field "{error.name}": another version of franka_msgs') from None


def mode_name(mode: int) -> str:
    """Name of a mode, for a person."""
    return ArmMode(mode).name.lower() if mode in list(ArmMode) else f'mode {mode}'


def problem(state: ArmState) -> tuple[SafetyEvent, str] | None:
    """Why the arm may not be moved: event and detail; None when its controller is at work without an error."""
    detail = ', '.join(state.errors or ([*state.last_errors] if state.mode == ArmMode.REFLEX else []))
    if state.mode == ArmMode.USER_STOPPED:
        return SafetyEvent.ARM_USER_STOP, detail
    if state.mode == ArmMode.REFLEX or state.errors:
        return SafetyEvent.ARM_REFLEX, detail
    if state.mode != ArmMode.MOVE:
        return SafetyEvent.ARM_NOT_READY, f'mode {mode_name(state.mode)}'
    return None


def recoverable(state: ArmState) -> bool:
    """Whether error recovery may help: not while a person holds the arm in its user stop or guides it."""
    return problem(state) is not None and state.mode not in (ArmMode.USER_STOPPED, ArmMode.GUIDING)
