"""episode_manager between peers that stand in for robot, policy, classifier, operator and recorder."""

import json

import numpy as np
import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from harness import bench, ros  # noqa: F401
from manager_graph import MS, Graph, runs  # noqa: F401
from std_msgs.msg import Header, String

from dex_rl_nodes.config import load_task
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.episode_manager import EpisodeManager
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import (
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Mark,
    Outcome,
    Phase,
    Reward,
    SimState,
    Source,
    TeleopCommand,
)
from dex_rl_nodes.run_directory import RunDirectory

FIRST = load_task('pull_tissue').evaluation.seed


def test_evaluation_by_the_classifier(bench, runs):
    graph = Graph(bench, 'evaluation', episodes=2)
    assert graph.wait_phase(Phase.RUNNING, 0).seed == FIRST
    for step in range(4):
        graph.tick(0, step, probability=0.2 * step, success=step == 3)
    graph.wait_phase(Phase.RUNNING, 1)
    graph.table.until(lambda: len(graph.results) == 3, 'three results')
    assert [(r.step, r.reward, r.terminated, r.truncated) for r in graph.results] == [
        (1, 0, False, False), (2, 0, False, False), (3, 1, True, False),
    ]  # fmt: skip
    assert graph.results[2].probability == pytest.approx(0.6)
    partial = runs / 'default' / 'evaluation_partial.json'
    assert json.loads(partial.read_text())['n'] == 1 and not (runs / 'default' / 'evaluation.json').exists()
    graph.table.send('core_action', CoreAction(graph.first, 1, weights_version=7))
    graph.table.send('sim_state', SimState(graph.first, 1, failure='hand'))
    for step in range(121):
        graph.tick(1, step)
    graph.done()
    graph.table.node.close()
    last = graph.results[-1]
    assert (last.step, last.terminated, last.truncated, last.reward) == (120, False, True, 0)
    assert [request.seed for request in graph.resets] == [FIRST, FIRST + 1]
    report = json.loads((runs / 'default' / 'evaluation.json').read_text())
    assert (report['n'], report['successes'], report['failures']['hand']) == (2, 1, 1)
    assert (report['weights_version'], report['seed']) == (7, 0) and not partial.exists()
    assert [row['steps'] for row in report['episodes']] == [3, 120]
    assert report['episodes'][1]['outcome'] == 'timeout' and report['episodes'][1]['jitter'] > 0
    ended = [state for state in graph.states if state.phase == Phase.ENDED]
    assert [(state.outcome, state.final_step) for state in ended] == [(Outcome.SUCCESS, 3), (Outcome.TIMEOUT, 120)]


def test_a_takeover_is_no_success_and_a_discarded_start_comes_again(bench, runs):
    graph = Graph(bench, 'evaluation', episodes=2)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    graph.table.send('executed_action', ExecutedAction(graph.first, 0, 0, source=Source.ARM))
    graph.table.until(lambda: 0 in graph.table.node._executed, 'the takeover')
    graph.table.send('reward', Reward(graph.first + 100 * MS, 0, 1, success=True))
    graph.wait_phase(Phase.RUNNING, 1)
    graph.tick(1, 0)
    graph.mark(Mark.DISCARD, 1)
    graph.tick(1, 1)
    graph.wait_phase(Phase.RUNNING, 2)
    graph.tick(2, 0)
    graph.tick(2, 1, success=True)
    graph.done()
    graph.table.node.close()
    assert [request.seed for request in graph.resets] == [FIRST, FIRST + 1, FIRST + 1]
    report = json.loads((runs / 'default' / 'evaluation.json').read_text())
    assert (report['n'], report['successes'], report['taken_over']) == (2, 1, 1)
    assert report['failures']['takeover'] == 1
    assert [(row['episode'], row['autonomous'], row['interventions']) for row in report['episodes']] == [
        (0, False, 1), (2, True, 0),
    ]  # fmt: skip


def test_an_evaluation_after_a_kill_begins_at_its_first_start(bench, runs):
    killed = Graph(bench, 'evaluation', episodes=2)
    killed.wait_phase(Phase.RUNNING, 0)
    killed.tick(0, 0)
    killed.tick(0, 1, success=True)
    killed.wait_phase(Phase.RUNNING, 1)
    killed.tick(1, 0)
    killed.table.node.close = lambda: None  # nothing more is written
    killed.table.close()
    partial, final = runs / 'default' / 'evaluation_partial.json', runs / 'default' / 'evaluation.json'
    assert json.loads(partial.read_text())['n'] == 1 and not final.exists()
    graph = Graph(bench, 'evaluation', episodes=2)
    for episode in range(2):
        graph.wait_phase(Phase.RUNNING, episode)
        graph.tick(episode, 0)
        graph.tick(episode, 1)
        graph.tick(episode, 2, success=True)
    graph.done()
    graph.table.node.close()
    report = json.loads(final.read_text())
    assert [(row['seed'], row['steps']) for row in report['episodes']] == [(FIRST, 2), (FIRST + 1, 2)]
    assert not partial.exists()


def test_a_scripted_operator_that_always_fails_is_given_up(bench):
    graph = Graph(bench, 'demos', episodes=1, attempts=1)
    for episode in range(3):
        graph.wait_phase(Phase.RUNNING, episode)
        graph.tick(episode, 0)
        graph.mark(Mark.FAILURE, 1)
        if episode < 2:
            graph.tick(episode, 1)
    with pytest.raises(UserError, match='only 0 of 3 scripted demonstrations of pull_tissue succeeded; check'):
        graph.tick(2, 1)
        graph.table.until(lambda: False, 'the end')


def test_bags_are_read_when_the_recorder_has_repaired_them(bench, runs):
    late = ('transitions',)
    graph = Graph(bench, 'demos', late=late, episodes=2)
    node = graph.table.node
    graph.table.until(lambda: node._partners.missing == ['transitions'], 'all the others')
    with BagWriter(RunDirectory('default').bags('demos') / '00000') as bag:  # what the recorder saves
        bag.write('/episode', EpisodeState(1, 0, Phase.RUNNING))
        bag.write('/episode', EpisodeState(2, 0, Phase.ENDED, Outcome.SUCCESS, final_step=5))
    graph.join(*late)
    assert graph.wait_phase(Phase.RUNNING).episode == 1
    assert node._series.counted == 1


def test_lockstep_ends_when_the_recorder_has_everything(bench):
    graph = Graph(bench, 'demos', episodes=1, recorded=True)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    graph.tick(0, 1)
    graph.mark(Mark.SUCCESS, 1)
    graph.tick(0, 2)
    graph.wait_phase(Phase.ENDED)
    node = graph.table.node
    graph.table.until(lambda: 1 in node._executed, 'the last action')
    graph.table.send('recorded', Header(stamp=conversions.time_message(graph.first)))
    graph.table.until(lambda: node._recorded == graph.first, 'all but the last action')
    assert graph.states[-1].phase == Phase.ENDED and node._deadlines
    graph.table.send('recorded', Header(stamp=conversions.time_message(graph.first + 100 * MS)))
    graph.wait_phase(Phase.DONE)
    graph.table.until(lambda: node.finished, 'the end of the node')
    assert not node._deadlines


def test_operator_decides_while_collecting(bench):
    graph = Graph(bench, 'demos', episodes=1)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    graph.tick(0, 1)
    graph.mark(Mark.DISCARD, 1)
    graph.tick(0, 2)
    graph.wait_phase(Phase.RUNNING, 1)  # a discarded episode does not count
    graph.tick(1, 0)
    graph.tick(1, 1)
    graph.mark(Mark.SUCCESS, 1)
    graph.tick(1, 2)
    graph.done()
    ended = [state for state in graph.states if state.phase == Phase.ENDED]
    assert [state.outcome for state in ended] == [Outcome.DISCARDED, Outcome.SUCCESS]
    discarded, success = (next(r for r in graph.results if (r.episode, r.step) == (e, 2)) for e in (0, 1))
    assert (discarded.terminated, discarded.truncated) == (False, True)
    assert (success.terminated, success.reward) == (True, 1.0) and np.isnan(success.probability)
    assert len({request.seed for request in graph.resets}) == 2


def test_lockstep_waits_for_the_operator_of_the_tick(bench):
    graph = Graph(bench, 'demos', episodes=1, teleop_required=True)
    graph.wait_phase(Phase.RUNNING, 0)
    for step in range(2):
        graph.tick(0, step)
        graph.table.until(lambda: graph.table.node._verdicts, 'the tick')
        assert len(graph.results) == max(step - 1, 0)
        mark = Mark.SUCCESS if step == 1 else Mark.NONE
        graph.table.send('teleop_command', TeleopCommand(graph.first + step * 100 * MS, mark=mark))
        graph.table.until(lambda: not graph.table.node._verdicts, 'the judgement')
    graph.done()
    assert [(result.step, result.success) for result in graph.results] == [(1, True)]


def test_lockstep_judges_every_tick_when_topics_overtake_each_other(bench):
    graph = Graph(bench, 'demos', episodes=1, teleop_required=True)
    node = graph.wait_phase(Phase.RUNNING, 0) and graph.table.node

    def command(step, mark=Mark.NONE):
        stamp = graph.first + step * 100 * MS
        graph.table.send('teleop_command', TeleopCommand(stamp, mark=mark))
        graph.table.until(lambda: node._verdicts.heard == stamp, f'command {step}')

    for step in range(3):  # ticks before their commands
        graph.tick(0, step)
    graph.table.until(lambda: len(node._verdicts) == 3, 'the ticks')
    for step in range(5):  # commands before their ticks, one of them with the mark
        command(step, Mark.SUCCESS if step == 4 else Mark.NONE)
    for step in (3, 4):
        graph.tick(0, step)
    graph.done()
    assert [result.step for result in graph.results] == [1, 2, 3, 4]
    assert [result.success for result in graph.results] == [False, False, False, True]


def test_budget_of_steps_truncates_and_a_new_session_goes_on(bench, runs):
    run = RunDirectory('default')
    with BagWriter(run.bags('online') / '00000') as bag:
        for episode in range(3):
            bag.write('/episode', EpisodeState(episode, episode, Phase.RUNNING))
            bag.write('/episode', EpisodeState(episode, episode, Phase.ENDED, Outcome.TIMEOUT, final_step=5))
    graph = Graph(bench, 'online', steps=3)
    state = graph.wait_phase(Phase.RUNNING)
    assert (state.episode, state.seed) == (3, 3_000_000_003)
    for step in range(4):
        graph.tick(3, step)
    graph.done()
    assert (graph.results[-1].step, graph.results[-1].truncated, graph.results[-1].terminated) == (3, True, False)


def stopped(bench) -> Graph:
    """A graph in whose running episode a safety stop was latched."""
    graph = Graph(bench, 'online', episodes=1)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    graph.table.send('executed_action', ExecutedAction(graph.first, 0, 0, stopped=True))
    graph.table.until(lambda: graph.table.node._stopped, 'the stop')
    return graph


def test_safety_stop_ends_the_episode_and_pauses(bench):
    graph = stopped(bench)
    graph.table.send('reward', Reward(graph.first + 100 * MS, 0, 1))
    assert 'reset_stop' in graph.wait_phase(Phase.PAUSED).reason
    assert (graph.results[-1].truncated, graph.results[-1].terminated) == (True, False)
    (ended,) = (state for state in graph.states if state.phase == Phase.ENDED)
    assert (ended.outcome, ended.final_step) == (Outcome.STOPPED, 1)
    assert ended.reason == graph.states[-1].reason and ended.reason.startswith('safety stop; see command_mux')
    graph.table.call('episode_manager/pause', data=False)
    graph.wait_phase(Phase.RUNNING, 1)
    graph.table.call('episode_manager/pause', data=True)
    graph.tick(1, 0)
    graph.tick(1, 1, success=True)
    graph.done()  # there are enough, so there is nothing to pause for


def test_a_stop_that_is_released_before_any_tick_comes_ends_the_episode_too(bench):
    graph = Graph(bench, 'online', episodes=1)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    told = graph.table.peer.create_publisher(String, 'safety_stop', qos.profile('STATE', True))
    graph.table.until(lambda: told.get_subscription_count(), 'who hears of stops')
    for reason in ('safety event 503', ''):
        told.publish(String(data=reason))
        graph.table.until(lambda said=reason: graph.table.node._latched == said, 'the news')
    graph.table.send('reward', Reward(graph.first + 100 * MS, 0, 1))
    assert 'safety stop' in graph.wait_phase(Phase.PAUSED).reason
    (ended,) = (state for state in graph.states if state.phase == Phase.ENDED)
    assert ended.outcome == Outcome.STOPPED


def test_a_stop_ends_the_episode_also_when_the_arm_falls_silent_with_it(bench):
    """The arm stopped itself, so no tick comes: nothing waits for `silence`, and the sentence names the stop."""
    graph = Graph(bench, 'online', robot='fr3_ruiyan', episodes=1, lockstep=False, silence=60.0)
    graph.wait_phase(Phase.RUNNING, 0)
    told = graph.table.peer.create_publisher(String, 'safety_stop', qos.profile('STATE', True))
    graph.table.until(lambda: told.get_subscription_count(), 'who hears of stops')
    told.publish(String(data='safety event 514: the arm stopped itself'))
    reason = graph.wait_phase(Phase.PAUSED).reason
    assert reason.startswith('safety event 514') and 'reset_stop' in reason
    (ended,) = (state for state in graph.states if state.phase == Phase.ENDED)
    assert ended.outcome == Outcome.STOPPED


def test_a_discard_does_not_hide_a_safety_stop(bench):
    graph = stopped(bench)
    graph.mark(Mark.DISCARD, 1)
    graph.table.send('reward', Reward(graph.first + 100 * MS, 0, 1))
    assert 'reset_stop' in graph.wait_phase(Phase.PAUSED).reason
    (ended,) = (state for state in graph.states if state.phase == Phase.ENDED)
    assert ended.outcome == Outcome.DISCARDED


def test_on_a_robot_silence_breaks_the_episode_off_and_waits_for_a_person(bench):
    graph = Graph(bench, 'online', robot='fr3_ruiyan', episodes=1, lockstep=False, silence=1.0)
    graph.wait_phase(Phase.RUNNING, 0)
    heard = graph.table.listen('/diagnostics')
    assert 'no control tick for 1 s' in graph.wait_phase(Phase.PAUSED).reason

    def waits():
        found = [status for array in heard for status in array.status if status.name == 'episode_manager: episodes']
        return found and found[-1].level == DiagnosticStatus.WARN and 'paused: no control tick' in found[-1].message

    graph.table.until(waits, 'a word on /diagnostics')


@pytest.mark.parametrize('end', ['silence', 'stop of the graph'])
def test_what_was_discarded_while_no_tick_came_stays_discarded(bench, end):
    silence = 1.0 if end == 'silence' else 60.0
    graph = Graph(bench, 'online', robot='fr3_ruiyan', episodes=1, lockstep=False, silence=silence)
    graph.wait_phase(Phase.RUNNING, 0)
    graph.tick(0, 0)
    graph.table.until(lambda: graph.table.node._verdicts.judged == 0, 'the verdict')
    graph.mark(Mark.DISCARD, 1)
    if end == 'silence':
        graph.wait_phase(Phase.PAUSED)
    else:
        graph.table.node.close()
    graph.table.until(lambda: any(state.phase == Phase.ENDED for state in graph.states), 'the end of the episode')
    (ended,) = (state for state in graph.states if state.phase == Phase.ENDED)
    assert ended.outcome == Outcome.DISCARDED and ended.reason.startswith(
        'no control tick' if end == 'silence' else 'the graph was stopped'
    )


def test_in_simulation_silence_is_tried_again_and_then_said(bench):
    graph = Graph(bench, 'online', lockstep=False, silence=1.0)
    with pytest.raises(UserError, match='no control tick for 1 s; see command_mux and policy'):
        graph.table.until(lambda: False, 'never')
    assert [state.phase for state in graph.states].count(Phase.RUNNING) == 3


def test_missing_nodes_are_named(bench):
    table = bench(EpisodeManager, purpose='online', start_deadline=1.0)
    with pytest.raises(UserError, match='waited 1 s for policy_step, executed_action.* reset_scene in vain'):
        table.until(lambda: False, 'never')
