"""The chain of a recovery, with services that answer when a test lets them; needs no message types of franka_ros2."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy')

from dex_rl_nodes.nodes import franka_arm
from dex_rl_nodes.nodes.franka_arm import FrankaArm


class Client:
    """A service or an action: takes what it is asked."""

    srv_type = SimpleNamespace(Request=lambda **fields: fields)

    def service_is_ready(self):
        return True

    server_is_ready = service_is_ready

    def send_goal_async(self, _goal):
        return 'goal'


class Waiting:
    """The node of an arm; what it asks for waits in `open`: question and what to call with the answer."""

    def __init__(self):
        self.open = []

    def ask(self, _client, request, answered):
        self.open.append((request, answered))

    def when_done(self, future, then):
        self.open.append((future, then))

    def answer(self, number=0, **answer):
        _, answered = self.open.pop(number)
        answered(SimpleNamespace(**{'ok': True, **answer}))


@pytest.fixture
def arm(monkeypatch):
    monkeypatch.setattr(franka_arm, '_importable', lambda *packages: packages[0])
    made = FrankaArm(Waiting(), 'impedance')
    made._managing = dict.fromkeys(franka_arm._SERVICES, Client())
    made._recovery, made._goal = Client(), object
    return made


def _to_the_controllers(node):
    """Up to the last step, which waits: controllers active again."""
    node.answer()
    node.answer(accepted=True, get_result_async=lambda: 'result')
    node.answer(status=4)
    node.answer()


def test_the_steps_follow_each_other(arm):
    said, node = [], arm._node
    arm.recover(said.append)
    assert node.open[0][0]['deactivate_controllers'] == ['impedance'] and arm.working
    assert node.open[0][0]['timeout'].sec == 5, 'zero would be a second'
    _to_the_controllers(node)
    assert node.open[0][0]['activate_controllers'][0] == 'impedance' and not said
    assert node.open[0][0]['timeout'].sec == 5
    node.answer()
    assert not arm.working and said == [''] and not node.open


@pytest.mark.parametrize(
    ('activated', 'said'),
    [
        (True, ''),
        (False, 'action_server/error_recovery failed, controller_manager/set_hardware_component_state refused'),
    ],
)
def test_an_action_that_fails_is_no_reason_to_give_up(arm, activated, said):
    """It fails after a user stop, where no error is left; the start of torque control recovers by itself, too."""
    heard, node = [], arm._node
    arm.recover(heard.append)
    node.answer()
    node.answer(accepted=True, get_result_async=lambda: 'result')
    node.answer(status=6)  # aborted
    node.answer(ok=activated)
    if activated:
        node.answer()
    assert heard == [said] and not node.open


def test_a_state_whose_clock_stands_still_is_none(arm, monkeypatch):
    """After an error the bring-up of Humble repeats the last state, with a new stamp."""
    errors = SimpleNamespace(cartesian_reflex=False)
    about = {
        'robot_mode': 2,
        'current_errors': errors,
        'last_motion_errors': errors,
        'control_command_success_rate': 1.0,
    }
    monkeypatch.setattr(franka_arm, 'deserialize_message', lambda data, _: SimpleNamespace(time=float(data), **about))
    arm._kind = None
    said = []
    for moment in (b'1.0', b'1.01', b'1.01', b'', b'1.01', b'1.02'):
        arm._keep(moment)
        said.append(arm.take(7))
    assert [state is not None for state in said] == [True, True, False, False, False, True]
    assert said[0].stamp == 7


@pytest.mark.parametrize('steps', range(5))
def test_a_recovery_that_was_called_off_goes_no_further(arm, steps):
    said, node = [], arm._node
    arm.recover(said.append)
    answers = [
        {}, {'accepted': True, 'get_result_async': lambda: 'result'}, {'status': 4}, {}, {},
    ]  # fmt: skip
    for answer in answers[:steps]:
        node.answer(**answer)
    arm.cancel()
    assert not arm.working
    node.answer(**answers[steps])
    assert all(question == 'result' for question, _ in node.open), 'the end of what had begun, and nothing else'
    while node.open:
        node.answer(status=4)
    assert not said and not node.open


def test_a_late_answer_is_not_taken_for_that_of_the_next_recovery(arm):
    first, second, node = [], [], arm._node
    arm.recover(first.append)
    _to_the_controllers(node)
    arm.recover(second.append)
    node.answer(ok=False)  # of the first one
    assert arm.working and not first and not second
    _to_the_controllers(node)
    node.answer(ok=False)
    assert not arm.working and not first and second == ['controller_manager/switch_controller refused']
