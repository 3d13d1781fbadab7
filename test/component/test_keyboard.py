"""The keyboard over DDS, with a pseudo-terminal as the person's."""

import os
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

pytest.importorskip('rclpy')

from harness import bench, ros  # noqa: F401
from std_srvs.srv import SetBool, Trigger

from dex_rl_nodes.descriptions import KEYBOARD
from dex_rl_nodes.nodes import keyboard
from dex_rl_nodes.nodes.keyboard import Keyboard
from dex_rl_nodes.nodes.teleop import Teleop
from dex_rl_nodes.records import Mark
from dex_rl_nodes.robot.teleop import TeleopMapper


@pytest.fixture
def terminal():
    """Both ends of a pseudo-terminal: the person's and the program's."""
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


def mode(descriptor):
    """What decides whether keys come one by one, and whether they are shown."""
    return termios.tcgetattr(descriptor)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def test_keys_mark_like_the_buttons_of_a_spacemouse(bench, terminal, capfd):
    person, program = terminal
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    heard = made.listen(KEYBOARD)
    made.until(lambda: made.node.count_subscribers(KEYBOARD), 'somebody who listens')
    for count, (key, mark) in enumerate(
        ((b's', Mark.SUCCESS), (b'F', Mark.FAILURE), (b'd', Mark.DISCARD), (b'd', Mark.DISCARD)), 1
    ):
        os.write(person, key)
        made.until(lambda: len(heard) == 2 * count, f'key {key}')
        mapper = TeleopMapper()
        for message in heard[-2:]:
            mapper.keys(list(message.buttons))
        assert [mapper.command(0).mark for _ in range(2)] == [mark, Mark.NONE]
    os.write(person, b'x\x1b[Asf')  # two of these mean something
    made.until(lambda: len(heard) == 12, 'the keys among others')
    os.write(person, b'q')
    made.until(lambda: made.node.finished, 'the end')
    assert not any(any(message.buttons[:2]) for message in heard), 'no key moves the hand'
    assert 'p pauses, g goes on, s success, f failure, d discard, q' in capfd.readouterr().out


def test_a_key_that_nobody_hears_is_said(bench, terminal, capfd):
    person, program = terminal
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    os.write(person, b's')
    said = []
    made.until(lambda: said.append(capfd.readouterr().out) or 'nobody listens' in ''.join(said), 'the remark')


def test_the_space_bar_stops_the_robot_or_says_that_it_cannot(bench, terminal, capfd):
    person, program = terminal
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    said = []
    os.write(person, b' ')
    made.until(lambda: said.append(capfd.readouterr().out) or 'nobody offers command_mux/stop' in ''.join(said), 'it')
    asked = []

    def answers(message):
        def answer(request, response):
            asked.append(request)
            response.success, response.message = True, message
            return response

        return answer

    made.peer.create_service(Trigger, 'command_mux/stop', answers('safety event 503'))
    made.until(made.node._by_service['command_mux/stop'].service_is_ready, 'the service')
    os.write(person, b' ')
    made.until(lambda: said.append(capfd.readouterr().out) or 'safety event 503' in ''.join(said), 'an answer')
    assert len(asked) == 1 and not made.node.finished
    made.peer.create_service(Trigger, 'command_mux/reset_stop', answers('released'))
    made.until(made.node._by_service['command_mux/reset_stop'].service_is_ready, 'the other service')
    os.write(person, b'r')
    made.until(lambda: said.append(capfd.readouterr().out) or 'released' in ''.join(said), 'the release')


def test_a_service_that_does_not_answer_is_said_and_the_other_keys_still_work(bench, terminal, capfd, monkeypatch):
    monkeypatch.setattr(keyboard, '_ANSWER', 0.2)
    person, program = terminal
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    silent = made.peer.create_service(Trigger, 'command_mux/stop', lambda _, answer: answer)
    silent.send_response = lambda *_: None
    made.peer.create_service(Trigger, 'command_mux/reset_stop', lambda _, answer: answer)
    for service in ('command_mux/stop', 'command_mux/reset_stop'):
        made.until(made.node._by_service[service].service_is_ready, service)
    said = []
    os.write(person, b' ')
    made.until(lambda: said.append(capfd.readouterr().out) or 'stop did not answer within 0.2 s' in ''.join(said), 'it')
    os.write(person, b'rs')
    made.until(lambda: said.append(capfd.readouterr().out) or 'nobody listens' in ''.join(said), 'the next key')
    made.until(lambda: not made.node._unanswered, 'the answer of the other service')
    assert not made.node.finished


def test_one_key_pauses_and_another_goes_on_whatever_was_before(bench, terminal):
    person, program = terminal
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    asked = []

    def answer(request, response):
        asked.append(request.data)
        return response

    made.peer.create_service(SetBool, 'episode_manager/pause', answer)
    made.until(made.node._by_service['episode_manager/pause'].service_is_ready, 'the service')
    for count, key in enumerate((b'p', b'p', b'g'), 1):
        os.write(person, key)
        made.until(lambda: len(asked) == count, f'key {key}')
    assert asked == [True, True, False]


def test_the_terminal_is_restored_when_the_node_closes(bench, terminal):
    _, program = terminal
    before = mode(program)
    made = bench(lambda **options: Keyboard(program, **options), lockstep=False)
    made.until(lambda: mode(program) != before, 'keys that come one by one')
    assert mode(program) & (termios.ICANON | termios.ECHO) == 0 and mode(program) & termios.ISIG
    made.close()
    assert mode(program) == before


def test_in_lockstep_nobody_listens_to_keys(bench):
    made = bench(Teleop)
    assert not any(subscription.topic_name == f'/{KEYBOARD}' for subscription in made.node.subscriptions)


def test_teleop_passes_every_key_on_once(bench):
    from sensor_msgs.msg import Joy

    made = bench(Teleop, lockstep=False)
    commands = made.listen('teleop_command')
    for index in (2, 3, 4, 5):
        buttons = [0] * 6
        made.send(KEYBOARD, Joy(buttons=[*buttons[:index], 1, *buttons[index + 1 :]]))
        made.send(KEYBOARD, Joy(buttons=buttons))
    made.until(lambda: sum(command.mark != Mark.NONE for command in commands) == 4, 'four marks')
    count = len(commands)
    made.until(lambda: len(commands) > count + 3, 'more commands')
    marks = [Mark(command.mark) for command in commands if command.mark]
    assert marks == [Mark.SUCCESS, Mark.FAILURE, Mark.DISCARD, Mark.PAUSE]


def start(stdin):
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    command = [sys.executable, '-m', 'dex_rl_nodes.nodes', 'keyboard', '--ros-args', '-p', 'robot:=sim']
    return subprocess.Popen(command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_until(stream, words, deadline=20.0):
    """What a stream says up to some words."""
    end, said = time.monotonic() + deadline, b''
    while words not in said:
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], f'{said} after {deadline} s'
        found = os.read(stream.fileno(), 4096)
        assert found, f'ended after {said}'
        said += found


@pytest.mark.parametrize('ending', ['q', signal.SIGINT, signal.SIGTERM])
def test_the_process_restores_the_terminal_however_it_ends(terminal, ending):
    person, program = terminal
    before = mode(program)
    process = start(program)
    read_until(process.stdout, b'q ends this program')
    assert mode(program) != before
    if ending == 'q':
        os.write(person, b'q')
    else:
        process.send_signal(ending)
    assert process.wait(timeout=20) == 0
    assert mode(program) == before
    process.communicate()


def test_without_a_terminal_it_says_how_to_start_it():
    process = start(subprocess.DEVNULL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.count(b'\n') == 1 and b'open another one and run: ./dexrl keyboard' in errors
