"""What all nodes have in common: parameters, deadlines, diagnostics, start and stop."""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('mujoco')

from diagnostic_msgs.msg import DiagnosticStatus
from harness import bench, ros  # noqa: F401
from rclpy.parameter import Parameter

from dex_rl_nodes import nodes
from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import node as node_module
from dex_rl_nodes.nodes.node import ERROR, OK, WARN, Node
from dex_rl_nodes.parameters import COMMON
from dex_rl_nodes.setup import shared_memory


def _make(**parameters):
    return Node('policy', parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()])


@pytest.mark.parametrize(
    'parameters, sentence',
    [
        ({'seed': 1000}, 'policy: seed must be at most 999, not 1000'),
        ({'threads': 0}, 'policy: threads must be at least 1, not 0'),
        ({'threads': 'two'}, 'policy: threads must be a whole number, not "two"'),
        ({'lockstep': 1}, 'policy: lockstep must be true or false, not "1"'),
        ({'source': 'guess'}, 'policy: source must be one of model, zero, not "guess"'),
    ],
)
def test_wrong_parameters_are_refused_with_a_reason(ros, parameters, sentence):
    with pytest.raises(UserError) as caught:
        _make(**parameters)
    assert str(caught.value) == sentence


def test_unknown_names_are_answered_with_the_valid_ones(ros):
    node = _make(task='fold_laundry')
    with pytest.raises(UserError, match='unknown task "fold_laundry"; choose one of: .*pull_tissue'):
        node.task  # noqa: B018


@pytest.mark.parametrize('name', NODES)
def test_every_parameter_is_described_and_fixed(ros, name):
    node = Node(name)
    for parameter in (*COMMON, *NODES[name].parameters):
        descriptor = node.describe_parameter(parameter.name)
        assert parameter.description in descriptor.description
        assert node.setting(parameter.name) == parameter.default
        result = node.set_parameters([Parameter(parameter.name, value=parameter.default)])[0]
        assert not result.successful
    node.destroy_node()


def test_no_node_overwrites_what_rclpy_keeps_in_its_nodes(ros):
    node = rclpy.create_node('plain')
    theirs = set(vars(node)) | {name for name in dir(rclpy.node.Node) if name.startswith('_')}
    for path in Path(nodes.__file__).parent.glob('*.py'):
        ours = set(re.findall(r'self\.(\w+)(?:: [^=\n]+)? = ', path.read_text()))
        assert not ours & theirs, path.name
    node.destroy_node()


def test_a_deadline_names_what_it_waited_for(bench):
    table = bench(lambda **options: Node('policy', **options))
    table.node.wait_for('the front camera', 0.0, 'is it plugged in?')
    table.node.wait_for('the wrist camera', 0.0)
    table.node.arrived('the wrist camera')
    with pytest.raises(UserError) as caught:
        table.until(lambda: False, 'the error')
    assert str(caught.value) == 'policy: waited 0 s for the front camera in vain; is it plugged in?'


def test_diagnostics_come_every_second(bench):
    table = bench(lambda **options: Node('policy', **options))
    heard = table.listen('/diagnostics')
    table.node.report('front camera', frames=3)
    table.until(lambda: heard, 'the regular report')
    status = heard[-1].status[0]
    assert (status.name, status.level, status.hardware_id) == ('policy: front camera', DiagnosticStatus.OK, 'sim')
    assert (status.values[0].key, status.values[0].value) == ('frames', '3')


def test_diagnostics_come_at_once_when_something_changes(bench, monkeypatch):
    monkeypatch.setattr(node_module, '_DIAGNOSTICS_PERIOD', 1000.0)
    table = bench(lambda **options: Node('policy', **options))
    heard = table.listen('/diagnostics')
    table.until(lambda: table.node._diagnostics.get_subscription_count(), 'who listens')
    table.node.report('front camera', frames=3)
    for level, message in ((WARN, 'silent'), (OK, 'ok')):
        table.node.report('front camera', level, message)
        table.until(lambda said=message: heard and heard[-1].status[0].message == said, message)


def _start(name, *parameters, remaps=()):
    overrides = [
        word for flag, pairs in (('-p', parameters), ('-r', remaps)) for pair in pairs for word in (flag, pair)
    ]
    environment = {
        **os.environ,
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    command = [sys.executable, '-m', f'dex_rl_nodes.nodes.{name}', '--ros-args', *overrides]
    hang_up = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # also where the tests run with nohup
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hang_up)


def test_a_person_s_mistake_is_one_sentence_and_code_2():
    process = _start('lmpm_decoder', 'run:=no_such_run')
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.count('\n') == 1 and 'there is no run "no_such_run" in' in errors


def test_an_argument_that_ros_does_not_accept_is_said_without_a_traceback():
    process = _start('teleop', 'robot:=sim', remaps=('__ns:=2nd',))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and 'Traceback' not in errors
    assert errors.splitlines()[-1].startswith("ROS does not accept what stands after --ros-args: Couldn't parse remap")


@pytest.mark.parametrize('which', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_node_with_code_0(bench, which):
    table = bench(lambda **options: Node('policy', **options))
    process = _start('scripted_operator', 'lockstep:=true')
    try:
        table.until(lambda: table.peer.count_publishers('glove/joint_states'), 'the node')
        process.send_signal(which)
        _, errors = process.communicate(timeout=5)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, '')


@pytest.mark.skipif(
    'fastrtps' not in os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'), reason='another middleware'
)
def test_what_a_node_leaves_in_shared_memory_counts_once_it_was_killed(bench, monkeypatch):
    monkeypatch.setattr(shared_memory, '_SETTLED', 0)
    table = bench(lambda **options: Node('policy', **options))
    everything = set(shared_memory.FOLDER.glob('fastrtps_*'))
    process = _start('scripted_operator', 'lockstep:=true')
    try:
        table.until(lambda: table.peer.count_publishers('glove/joint_states'), 'the node')
        mine = set(shared_memory.FOLDER.glob('fastrtps_*')) - everything
        assert mine and not mine & set(shared_memory.left_over())
    finally:
        process.kill()
    process.communicate(timeout=5)
    killed = sorted(mine & set(shared_memory.left_over()))
    assert shared_memory.size_of(killed) > 0
    shared_memory.remove(killed)


_HANGS = """
import ctypes, time
from dex_rl_nodes.nodes import main, node
class Hangs(node.Node):
    def __init__(self):
        super().__init__('policy')
        self.every(0.01, self.fail if {fails} else self.finish)
    def fail(self):
        raise node.UserError('a reason')
    def close(self):
        print('written')
    def destroy_node(self):
        {hang}(60)
main.run_node(Hangs)
"""


@pytest.mark.parametrize(
    ('fails', 'hang', 'code', 'errors'),
    [
        (False, 'time.sleep', 0, ''),
        (True, 'time.sleep', 2, 'a reason\n'),
        (False, 'ctypes.PyDLL(None).sleep', -signal.SIGALRM, ''),  # it keeps Python's lock
    ],
)
def test_a_node_whose_middleware_hangs_ends_once_all_is_written(fails, hang, code, errors):
    command = [sys.executable, '-c', _HANGS.format(fails=fails, hang=hang)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, 'written\n', errors)


_SWALLOWS = """
import time
from dex_rl_nodes.nodes import main, node
main._INSIST = 2
class Swallows(node.Node):
    def __init__(self):
        try:
            print('being made', flush=True)
            time.sleep(60)
        except BaseException:
            print('swallowed', flush=True)
        time.sleep(60)
main.run_node(Swallows)
"""


def test_a_stop_that_a_library_swallows_while_a_node_is_made_is_told_again():
    with subprocess.Popen([sys.executable, '-c', _SWALLOWS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'being made\n'
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == 'swallowed\n'
        assert process.wait(10) == 0


_WRITES = """
import sys
from dex_rl_nodes.nodes import main, node
main._ONCE = {once}
class Writes(node.Node):
    def __init__(self):
        super().__init__('policy')
        self.every(0.01, lambda: print('ready', flush=True))
    def close(self):
        print('closing', flush=True)
        sys.stdin.readline()
        print('written', flush=True)
main.run_node(Writes)
"""


@pytest.mark.parametrize(
    ('second', 'once', 'written'),
    [
        (signal.SIGTERM, 0, True),
        (signal.SIGINT, 1000, True),  # one Ctrl-C, told by terminal and launch
        (signal.SIGINT, 0, False),  # a person insists
    ],
)
def test_launch_does_not_cut_off_what_is_being_written_and_a_person_may(second, once, written):
    command = [sys.executable, '-c', _WRITES.format(once=once)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(signal.SIGINT)
        assert 'closing\n' in iter(process.stdout.readline, '')
        process.send_signal(second)
        if written:
            process.stdin.write('go on\n')
            process.stdin.flush()
        assert ('written\n' in iter(process.stdout.readline, '')) is written
    assert process.returncode == 0


class Counting(Node):
    """Says how much happened since it was asked last, as the drivers do."""

    def __init__(self, **options):
        super().__init__('policy', **options)
        self.happened = 0

    def diagnose(self):
        count, self.happened = self.happened, 0
        self.report('rate', OK if count else ERROR, count=count)


def test_a_node_that_works_again_says_so(bench):
    table = bench(Counting)
    heard = table.listen('/diagnostics')

    def level():
        return heard[-1].status[0].level if heard else None

    table.until(lambda: level() == ERROR, 'an error')
    table.node.happened = 100
    table.until(lambda: level() == OK, 'the news that it works')
