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
    _to_the_controllers(node)
    assert node.open[0][0]['activate_controllers'][0] == 'impedance' and not said
    node.answer()
    assert not arm.working and said == [''] and not node.open


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
