"""Modes and errors of the arm, read from objects laid out like franka_msgs/FrankaRobotState."""

from types import SimpleNamespace

import pytest

from dex_rl_nodes.records import ArmState
from dex_rl_nodes.robot.arm_state import ArmMode, mode_name, problem, read_arm_state, recoverable
from dex_rl_nodes.robot.events import Reaction, SafetyEvent

ERRORS = ('joint_position_limits_violation', 'joint_reflex', 'cartesian_reflex', 'communication_constraints_violation')


class Errors:
    """As rclpy makes messages: slots with underscores, and a list of the fields."""

    __slots__ = tuple(f'_{name}' for name in ERRORS)

    def __init__(self, *active):
        for name in ERRORS:
            setattr(self, f'_{name}', name in active)

    def __getattr__(self, name):
        return object.__getattribute__(self, f'_{name}')

    @classmethod
    def get_fields_and_field_types(cls):
        return dict.fromkeys(ERRORS, 'boolean')


def message(mode=2, current=(), last=(), errors=Errors):
    return SimpleNamespace(
        robot_mode=mode,
        current_errors=errors(*current),
        last_motion_errors=errors(*last),
        control_command_success_rate=0.98,
    )


def plain(*active):
    return SimpleNamespace(**{name: name in active for name in ERRORS})


@pytest.mark.parametrize('errors', [Errors, plain])
def test_errors_are_read_by_their_names(errors):
    state = read_arm_state(message(4, ['cartesian_reflex'], ['joint_reflex', 'cartesian_reflex'], errors), 7)
    assert state == ArmState(7, 4, ['cartesian_reflex'], ['joint_reflex', 'cartesian_reflex'], 0.98)


def test_a_message_of_another_version_is_named():
    with pytest.raises(ValueError, match='"robot_mode": another version of franka_msgs'):
        read_arm_state(SimpleNamespace(), 0)


@pytest.mark.parametrize(
    ('mode', 'errors', 'event', 'can_recover'),
    [
        (ArmMode.MOVE, [], None, False),
        (ArmMode.MOVE, ['joint_reflex'], SafetyEvent.ARM_REFLEX, True),
        (ArmMode.REFLEX, ['cartesian_reflex'], SafetyEvent.ARM_REFLEX, True),
        (ArmMode.USER_STOPPED, [], SafetyEvent.ARM_USER_STOP, False),
        (ArmMode.GUIDING, [], SafetyEvent.ARM_NOT_READY, False),
        (ArmMode.IDLE, [], SafetyEvent.ARM_NOT_READY, True),
        (ArmMode.OTHER, [], SafetyEvent.ARM_NOT_READY, True),
        (ArmMode.AUTOMATIC_ERROR_RECOVERY, [], SafetyEvent.ARM_NOT_READY, True),
        (17, [], SafetyEvent.ARM_NOT_READY, True),
    ],
)
def test_only_an_arm_under_its_controller_may_be_moved(mode, errors, event, can_recover):
    state = ArmState(mode=int(mode), errors=errors)
    found = problem(state)
    assert (found[0] if found else None) == event
    assert event is None or event.reaction == Reaction.STOP
    assert recoverable(state) == can_recover


def test_the_sentence_names_mode_and_error():
    event, detail = problem(ArmState(mode=4, last_errors=['cartesian_reflex']))
    assert 'safety event 511: the arm stopped itself (cartesian_reflex)' in event.sentence(detail)
    assert problem(ArmState(mode=1))[1] == 'mode idle'
    assert mode_name(17) == 'mode 17'
