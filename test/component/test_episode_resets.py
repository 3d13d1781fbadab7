"""episode_manager and the resets between episodes: refused, called off, unanswered."""

import pytest

pytest.importorskip('rclpy')

from harness import bench, ros  # noqa: F401
from manager_graph import MS, Graph, runs  # noqa: F401
from std_msgs.msg import String

from dex_rl_nodes.descriptions import TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos, scene_reset
from dex_rl_nodes.records import (
    Mark,
    Outcome,
    Phase,
    TeleopCommand,
)


def test_a_refused_reset_says_why(bench):
    graph = Graph(bench, 'online')
    graph.refusal = 'the arm is in its user stop; release it'
    with pytest.raises(UserError, match='cannot be reset: the arm is in its user stop; release it'):
        graph.wait_phase(Phase.RUNNING)


def test_on_a_robot_a_refused_reset_waits_for_a_person(bench):
    graph = Graph(bench, 'online', robot='fr3_ruiyan', lockstep=False, episodes=1)
    graph.refusal = 'the arm is in its user stop; release it'
    assert 'the arm is in its user stop; release it' in graph.wait_phase(Phase.PAUSED).reason
    first = graph.resets[-1]
    graph.refusal = ''
    graph.table.call('episode_manager/pause', data=False)
    assert graph.wait_phase(Phase.RUNNING, 0).seed == first.seed, 'the same start, again'


ON_A_ROBOT = {'robot': 'fr3_ruiyan', 'lockstep': False, 'episodes': 1, 'slow': True}


def test_a_pause_calls_a_reset_off_at_once(bench):
    graph = Graph(bench, 'online', **ON_A_ROBOT)
    graph.until_asked(1)
    graph.table.send('teleop_command', TeleopCommand(1, mark=Mark.PAUSE))
    paused = graph.wait_phase(Phase.PAUSED)
    graph.answer()
    assert graph.table.node._state.phase == Phase.PAUSED and 'reset_scene' not in graph.table.node._deadlines
    graph.table.send('teleop_command', TeleopCommand(2, mark=Mark.PAUSE))
    graph.until_asked(2)
    graph.answer()
    assert graph.wait_phase(Phase.RUNNING).episode == paused.episode
    assert graph.resets[0].seed == graph.resets[1].seed, 'the same start, again'


@pytest.mark.parametrize(
    ('after', 'said', 'reason'),
    [
        (0.0, {'mark': Mark.DISCARD}, 'discard was marked'),
        (0.0, {'mark': Mark.FAILURE}, 'failure was marked'),
        (2.0, {'arm_active': True}, 'the SpaceMouse was moved'),
    ],
)
def test_whoever_takes_the_devices_calls_a_reset_off(bench, after, said, reason):
    graph = Graph(bench, 'online', **ON_A_ROBOT)
    graph.until_asked(1)
    stamp = graph.wait_phase(Phase.RESETTING).stamp
    graph.table.send('teleop_command', TeleopCommand(stamp - 1, **said))  # before
    graph.table.send('teleop_command', TeleopCommand(stamp + int(after * 1e9), **said))
    assert graph.wait_phase(Phase.PAUSED).reason == f'{reason} while the episode was prepared'
    assert [state.phase for state in graph.states].count(Phase.PAUSED) == 1


@pytest.mark.parametrize('when', ['while the next is prepared', 'in a pause'])
def test_a_success_that_was_none_can_be_taken_back(bench, when):
    # asked for in the last episode, a pause comes before the end of the series
    graph = Graph(bench, 'online', **{**ON_A_ROBOT, 'episodes': 1 if when == 'in a pause' else 2})
    graph.until_asked(1)
    graph.answer()
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    if when == 'in a pause':
        graph.table.call('episode_manager/pause', data=True)
    graph.tick(0, 1, success=True)
    series = graph.table.node._series
    if when == 'in a pause':
        phase = graph.wait_phase(Phase.PAUSED)
    else:
        graph.until_asked(2)
        phase = graph.wait_phase(Phase.RESETTING)
    assert series.counted == 1
    for _ in range(2):  # the second finds nothing to take back
        graph.table.send('teleop_command', TeleopCommand(phase.stamp + 1, mark=Mark.DISCARD))

    def ends():
        return [state for state in graph.states if state.phase == Phase.ENDED]

    graph.table.until(lambda: len(ends()) == 2 and graph.states[-1].phase == Phase.PAUSED, 'the pause after it')
    assert graph.states[-1].reason.endswith('episode 0 (success) was discarded'), 'a person sees what was lost'
    pauses = {state.stamp for state in graph.states if state.phase == Phase.PAUSED}
    assert len(pauses) == 1, 'the same pause: nobody had looked at the arm again'
    ended = ends()
    assert series.counted == 0 and [state.outcome for state in ended] == [Outcome.SUCCESS, Outcome.DISCARDED]
    assert ended[-1].episode == 0 and ended[-1].reason == 'discarded by the operator after its end (success)'
    graph.table.call('episode_manager/pause', data=False)
    graph.until_asked(2 if when == 'in a pause' else 3)
    graph.answer()
    assert graph.wait_phase(Phase.RUNNING).episode == 1, 'another one is wanted instead'


def test_a_hand_that_has_not_let_go_yet_is_given_a_second(bench):
    graph = Graph(bench, 'online', **ON_A_ROBOT)
    graph.until_asked(1)
    node, stamp = graph.table.node, graph.wait_phase(Phase.RESETTING).stamp
    for after in (0, 500 * MS):
        node._on_teleop(TeleopCommand(stamp + after, arm_active=True))
    assert node._state.phase == Phase.RESETTING
    node._on_teleop(TeleopCommand(stamp + 600 * MS))
    node._on_teleop(TeleopCommand(stamp + 700 * MS, arm_active=True))
    assert node._state.phase == Phase.PAUSED


def test_an_adapter_that_goes_away_is_named_and_waited_for(bench):
    graph = Graph(bench, 'online', **ON_A_ROBOT)
    graph.until_asked(1)
    graph.table.peer.destroy_service(graph.late._service)
    assert 'arm_adapter went away while it prepared the episode' in graph.wait_phase(Phase.PAUSED).reason
    graph.table.call('episode_manager/pause', data=False)
    graph.table.until(lambda: 'does not serve' in graph.states[-1].reason, 'the next pause')
    assert 'arm_adapter does not serve reset_scene' in graph.wait_phase(Phase.PAUSED).reason
    graph.serve_reset()
    graph.table.until(lambda: graph.table.node._scene.served, 'another adapter')
    graph.table.call('episode_manager/pause', data=False)
    graph.until_asked(2)
    graph.answer()
    graph.wait_phase(Phase.RUNNING, 0)


def test_an_adapter_that_was_started_in_the_place_of_another_is_noticed(bench):
    graph = Graph(bench, 'online', late=('transitions',), **ON_A_ROBOT)
    topic = conversions.interface(TOPICS['reset_command'].type), 'reset_command', qos.profile('TICK', False)
    graph.table.peer.create_publisher(*topic)
    graph.table.until(lambda: graph.table.node.count_publishers('reset_command') == 1, 'the adapter')
    graph.join('transitions')
    graph.until_asked(1)
    graph.table.peer.create_publisher(*topic)  # DDS has not noticed yet that the first one was killed
    assert 'arm_adapter went away' in graph.wait_phase(Phase.PAUSED).reason


def test_a_safety_stop_calls_a_reset_off_and_the_next_one_waits_for_its_release(bench):
    graph = Graph(bench, 'online', **ON_A_ROBOT)
    graph.until_asked(1)
    graph.wait_phase(Phase.RESETTING)
    graph.table.send('safety_stop', String(data='safety event 503'))
    reason = graph.wait_phase(Phase.PAUSED).reason
    assert reason == 'safety event 503; call command_mux/reset_stop, then episode_manager/pause with false'
    graph.answer()
    answer = graph.table.call('episode_manager/pause', data=False)
    assert not answer.success and answer.message.startswith('paused: safety event 503; call command_mux/reset_stop')
    graph.table.until(lambda: [state.phase for state in graph.states].count(Phase.PAUSED) == 2, 'the pause, again')
    graph.table.send('safety_stop', String())
    graph.table.until(lambda: not graph.table.node._latched, 'the release')
    graph.table.call('episode_manager/pause', data=False)
    graph.until_asked(2)
    graph.answer()
    graph.wait_phase(Phase.RUNNING)


def test_who_asks_for_a_pause_just_after_the_manager_paused_does_not_end_it(bench):
    graph = Graph(bench, 'online', **{**ON_A_ROBOT, 'slow': False})
    graph.refusal = 'the arm is in its user stop; release it'
    reason = graph.wait_phase(Phase.PAUSED).reason
    node = graph.table.node
    node._on_teleop(TeleopCommand(1, mark=Mark.PAUSE))
    assert node._state.phase == Phase.PAUSED and node._pause_reason in reason
    node._paused_at -= 3.0  # later
    node._on_teleop(TeleopCommand(2, mark=Mark.PAUSE))
    assert node._state.phase == Phase.RESETTING


def test_a_simulation_whose_answer_was_lost_is_asked_again(bench, monkeypatch):
    monkeypatch.setattr(scene_reset, '_AGAIN', 0.2)
    graph = Graph(bench, 'demos', slow=True)
    graph.until_asked(1)
    graph.late._header = None  # the middleware dropped it
    graph.until_asked(2)
    graph.answer()
    graph.wait_phase(Phase.RUNNING, 0)
    assert graph.resets[0] == graph.resets[1] and graph.table.node._scene._repeat is None
