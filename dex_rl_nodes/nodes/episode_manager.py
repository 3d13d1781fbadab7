"""Starts episodes, judges every tick, and ends the graph when there are enough."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Header, String

from dex_rl_nodes import config
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.episodes import EpisodeMachine
from dex_rl_nodes.evaluation.series import COLLECTING, EpisodeSeries
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN, Node
from dex_rl_nodes.nodes.partners import Partners
from dex_rl_nodes.nodes.scene_reset import SceneReset
from dex_rl_nodes.nodes.scores import Scores
from dex_rl_nodes.nodes.verdicts import Verdicts
from dex_rl_nodes.recording.history import History, read_history
from dex_rl_nodes.records import (
    EpisodeState,
    ExecutedAction,
    Mark,
    Outcome,
    Phase,
    PolicyStep,
    Reward,
    SimState,
    TeleopCommand,
)

_WATCH_PERIOD = 0.1  # s
_REST = 'what belongs to the end of the episode'
_REST_DEADLINE = 60.0  # s, lockstep; a recorder without processor time
_LINGER = 1.0  # s from DONE to the end, so that the last messages reach the recorder
_TELEOP_DEADLINE = 20.0  # s, lockstep
_TELEOP_OF_TICK = 'teleop_command of the tick'
_LET_GO = 1_000_000_000  # ns, for a hand that still moves the arm when its episode is over
_STARTLED = 2.0  # s; who wants a pause just after the manager paused by itself does not want to end it
_STOPPED_SILENCE = 0.5  # s without a tick after which a stop ends the episode all the same
_SILENCES = 3  # in a row, before a simulation gives up
_RELEASE = 'call command_mux/reset_stop, then episode_manager/pause with false'
_STOP_REASON = f'safety stop; see command_mux on /diagnostics, {_RELEASE}'


class EpisodeManager(Node):
    """Wraps EpisodeSeries (which episode) and EpisodeMachine (how it ends).

    A tick is judged when its Reward comes, or its PolicyStep while the operator decides; in lockstep the operator's
    command of the tick is waited for, so that a run can be repeated.
    """

    def __init__(self, **options: Any):
        super().__init__('episode_manager', **options)
        self._purpose = self.setting('purpose')
        self._operator_decides = self._purpose in COLLECTING
        self._series: EpisodeSeries | None = None  # until the recorder has repaired the bags of earlier sessions
        self._machine = EpisodeMachine(0)
        self._verdicts = Verdicts(self.lockstep, self.lockstep and self.setting('teleop_required'))
        self._first = 0  # stamp of the first tick of the episode
        self._state = EpisodeState(purpose=self._purpose)
        self._attended = not config.is_simulated(self.setting('robot'))  # a person can help
        self._hands_off = False  # since then the operator let go of the arm
        self._pause = False
        self._pause_reason = ''
        self._paused_at = 0.0  # s, monotonic, when the manager last paused by itself
        self._latched = ''  # why command_mux has stopped the robot for good; empty when it has not
        self._silences = 0  # episodes in a row that ended because no tick came
        self._outcomes: dict[str, int] = {}
        self._scores = Scores(self)
        self._ended = False  # an episode has, and the next one waits for the rest of its messages
        self._recorded = 0  # lockstep: stamp up to which the recorder has everything
        self._forget_episode()
        self.subscribe('teleop_command', self._on_teleop)
        self.subscribe('executed_action', self._on_executed)
        self.subscribe('safety_stop', self._on_safety_stop)
        self.subscribe('sim_state', self._on_sim_state)
        if self._operator_decides:
            self.subscribe('policy_step', self._on_verdict)
        else:
            self.subscribe('reward', self._on_verdict)
        if self._purpose == 'evaluation':
            self.subscribe('core_action', self._scores.hear)
        if self.lockstep and self.setting('recorded'):
            self.subscribe('recorded', self._on_recorded)
        self.serve('episode_manager/pause', self._on_pause)
        self._scene = SceneReset(self)
        self.advertise('episode', 'step_result')
        self._announce(Phase.IDLE)
        self._partners = Partners(self, self._purpose)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._starting = self.create_timer(_WATCH_PERIOD, self._start_when_ready, clock=steady)
        if not self.lockstep:
            self.create_timer(_WATCH_PERIOD, self._watch_silence, clock=steady)
            self.create_timer(_WATCH_PERIOD, self._watch_adapter, clock=steady)

    def _continue_series(self) -> EpisodeSeries:
        """Every purpose goes on where it was; an evaluation starts anew, from the same starts."""
        past = History() if self._purpose == 'evaluation' else read_history(self.run_directory, self._purpose)
        return EpisodeSeries(
            task=self.task,
            purpose=self._purpose,
            run_seed=self.setting('seed'),
            episodes=self.setting('episodes'),
            steps=self.setting('steps'),
            number=past.next_episode,
            counted=past.successes if self._purpose == 'demos' else past.episodes,
            ticks=past.steps,
            attempts=self.setting('attempts'),
        )

    def _forget_episode(self) -> None:
        self._verdicts.clear()
        self._stopped = False
        self._executed: dict[int, ExecutedAction] = {}
        self._sim_states: dict[int, SimState] = {}
        self._heard_at = time.monotonic()

    # Starting

    def _start_when_ready(self) -> None:
        """Wait for everybody whose messages an episode needs: who is late would miss its start."""
        if self._series is None and self.count_publishers('transitions'):
            self._series = self._continue_series()
        if self._series is not None and self._series.done:
            more = 'ask for more with episodes:=N or steps:=N, or use another run:=NAME'
            self.get_logger().info(f'nothing is left to do; {more}')
            self._begin_series()
            return
        if self._partners.look(self._scene.served, self._series is not None):
            self._begin_series()

    def _begin_series(self) -> None:
        self._partners.missing = []
        self.destroy_timer(self._starting)
        counted = self.task.demonstrations
        if self._purpose == 'demos' and self._series.episodes > counted:
            where = f'`demonstrations` in config/tasks/{self.task.name}.yaml'
            self.get_logger().warning(f'of the demonstrations the first {counted} are learned from: {where}')
        self._next_episode()

    def _next_episode(self) -> None:
        """Start the next episode, unless there are enough or somebody wants a pause."""
        # who asked for a pause on a robot may want to discard the last one
        if self._series.done and not (self._attended and self._pause and not self._pause_reason):
            self._finish()
        elif reason := self._series.hopeless:
            raise UserError(f'episode_manager: {reason}')
        elif self._pause:
            self._announce(Phase.PAUSED, reason=self._pause_reason)
            self.get_logger().info(f'pause: {self._pause_reason or "asked for by a person"}')
        else:
            self._reset_scene()

    def _reset_scene(self) -> None:
        if self._attended and not self._scene.served:
            self._call_off('arm_adapter does not serve reset_scene; see its log, then end the pause')
            return
        if self._attended and self._latched:
            self._call_off(f'{self._latched}; {_RELEASE}')
            return
        number, seed = self._series.number, self._series.seed
        self._hands_off = False
        self._announce(Phase.RESETTING, episode=number, seed=seed)
        fields = {'episode': number, 'seed': seed, 'purpose': self._purpose}
        self._scene.ask(lambda start: self._begin(start, seed), repeat=not self._attended, **fields)

    def _begin(self, start: Any, seed: int) -> None:
        if not start.success:
            self._reset_failed(f'the scene cannot be reset: {start.message}')
            return
        self._score()  # until now it could be taken back
        self._forget_episode()
        self._machine = EpisodeMachine(self._series.time_limit, self._series.ticks_after_success)
        stamp = conversions.stamp_ns(start.start)
        self._state = self._machine.begin(self._series.number, seed, stamp, np.array(start.hand_target), self._purpose)
        self._first = stamp
        self.publish('episode', self._state)

    def _reset_failed(self, reason: str) -> None:
        """On a robot a person can help, and end the pause; in simulation nobody can."""
        if not self._attended:
            raise UserError(f'episode_manager: {reason}')
        self._call_off(reason)

    def _call_off(self, reason: str) -> None:
        """Pause at once instead of resetting: command_mux and the arm adapter stop when they hear of it."""
        self._scene.call_off()
        self._pause_for(reason)
        self._next_episode()

    def _pause_for(self, reason: str) -> None:
        self._pause, self._pause_reason, self._paused_at = True, reason, time.monotonic()

    def _watch_adapter(self) -> None:
        if self._attended and self._resetting and self._scene.lost():
            self._call_off('arm_adapter went away while it prepared the episode; see its log, then end the pause')

    def _announce(self, phase: Phase, **fields: Any) -> None:
        stamp = self.get_clock().now().nanoseconds
        fields = {'episode': self._series.number if self._series else 0, **fields}
        self._state = EpisodeState(stamp=stamp, phase=phase, purpose=self._purpose, **fields)
        self.publish('episode', self._state)

    @property
    def _running(self) -> bool:
        return self._state.phase == Phase.RUNNING

    @property
    def _resetting(self) -> bool:
        return self._state.phase == Phase.RESETTING

    # What comes in

    def _belongs(self, record: Any) -> bool:
        return self._running and record.episode == self._state.episode and record.stamp >= self._state.stamp

    def _on_verdict(self, verdict: PolicyStep | Reward) -> None:
        if not self._belongs(verdict) or not self._verdicts.add(verdict):
            return
        self._heard_at = time.monotonic()
        self._judge()
        if self._running and self._verdicts:
            self.wait_for(_TELEOP_OF_TICK, _TELEOP_DEADLINE, 'is teleop running?')

    def _on_teleop(self, teleop: TeleopCommand) -> None:
        if teleop.mark == Mark.PAUSE:
            startled = self._pause_reason and time.monotonic() - self._paused_at < _STARTLED
            self._set_pause(bool(startled) or not self._pause)
        elif self._state.phase == Phase.PAUSED and teleop.mark == Mark.DISCARD:
            if told := self._take_back():
                self._pause_reason = f'{self._pause_reason}; {told}' if self._pause_reason else told
                self._state = replace(self._state, reason=self._pause_reason)  # the same pause, so the same stamp
                self.publish('episode', self._state)
        elif self._attended and self._resetting and teleop.stamp >= self._state.stamp:
            self._call_off_by_hand(teleop)
        if not self._running or teleop.stamp < self._state.stamp:
            return
        valid = (Mark.FAILURE, Mark.DISCARD, Mark.SUCCESS) if self._operator_decides else (Mark.FAILURE, Mark.DISCARD)
        self._verdicts.hear(teleop, valid)
        self._judge()

    def _call_off_by_hand(self, teleop: TeleopCommand) -> None:
        """On a robot: who discards, or moves the arm, while it is brought to its start, wants it to stop."""
        self._hands_off |= not teleop.arm_active
        if teleop.mark in (Mark.FAILURE, Mark.DISCARD):
            told = self._take_back() if teleop.mark == Mark.DISCARD else ''
            reason = f'{Mark(teleop.mark).name.lower()} was marked while the episode was prepared'
            self._call_off(f'{reason}; {told}' if told else reason)
        elif teleop.arm_active and (self._hands_off or teleop.stamp - self._state.stamp > _LET_GO):
            self._call_off('the SpaceMouse was moved while the episode was prepared')

    def _take_back(self) -> str:
        """The episode before is discarded after its end: the classifier saw a success, say, that was none.

        Returns:
            What was taken back, for a person; empty where there was nothing.
        """
        outcome = self._machine.take_back(self.get_clock().now().nanoseconds)
        if outcome is None:
            return ''
        state, before = self._machine.state, outcome.name.lower()
        self._series.take_back(outcome)
        for name, change in ((before, -1), ('discarded', 1)):
            self._outcomes[name] = self._outcomes.get(name, 0) + change
        self.publish('episode', state)
        self.get_logger().info(f'episode {state.episode}: {state.reason}; {self._series.progress()}')
        return f'episode {state.episode} ({before}) was discarded'

    def _on_executed(self, action: ExecutedAction) -> None:
        if action.episode == self._machine.state.episode and action.stamp >= self._first:
            self._executed[action.step] = action
            self._stopped |= action.stopped
            self._go_on()

    def _on_safety_stop(self, stop: String) -> None:
        self._latched = stop.data
        self._stopped |= bool(stop.data) and self._running  # also when it is released before a tick tells of it
        if self._latched and self._attended and self._resetting:
            self._call_off(f'{self._latched}; {_RELEASE}')

    def _on_sim_state(self, state: SimState) -> None:
        if self._state.phase in (Phase.RUNNING, Phase.ENDED, Phase.RESETTING):
            self._sim_states[state.stamp] = state
            self._go_on()

    # Judging

    def _judge(self) -> None:
        """Judge, one after the other, the ticks of which everything has come."""
        while self._running and (ready := self._verdicts.pop()):
            self._judge_tick(*ready)
        if not (self._running and self._verdicts):
            self.arrived(_TELEOP_OF_TICK)

    def _judge_tick(self, verdict: PolicyStep | Reward, mark: Mark) -> None:
        seen = {'probability': verdict.probability, 'success': verdict.success} if isinstance(verdict, Reward) else {}
        stopped = _STOP_REASON if self._stopped else ''
        result = self._machine.judge(verdict.step, verdict.stamp, mark=mark, stopped=stopped, **seen)
        if result is not None:
            self.publish('step_result', result)
        if self._machine.ended:
            self._end()

    def _end(self, broken_off: bool = False) -> None:
        self._state = state = self._machine.state
        self.publish('episode', state)
        self._series.finish(state.outcome, state.final_step)
        outcome = Outcome(state.outcome).name.lower()
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        how = f'{outcome} after {state.final_step} ticks ({state.reason})'
        self.get_logger().info(f'episode {state.episode}: {how}; {self._series.progress()}')
        broken_off |= state.outcome == Outcome.STOPPED
        if not broken_off:
            self._silences = 0
        if self._stopped or (self._attended and (self._latched or broken_off)):  # whatever was marked
            self._pause_for(state.reason if broken_off else _STOP_REASON)
        self._ended = True
        self.wait_for(_REST, _REST_DEADLINE)
        self._go_on()

    def _go_on(self) -> None:
        """Next, once the rest of the episode has come: in lockstep nothing else holds back the one after it."""
        if self._ended and self._rest_has_come():
            self._ended = False
            self.arrived(_REST)
            self._next_episode()

    def _rest_has_come(self) -> bool:
        """Whether recorder and manager have the last action that was executed, and what came of it."""
        state = self._machine.state
        if not (self.lockstep and self.setting('recorded') and state.final_step):
            return True
        last = self._executed.get(state.final_step - 1)
        truth = self._purpose != 'evaluation' or state.stamp in self._sim_states
        return truth and last is not None and self._recorded >= last.stamp

    def _watch_silence(self) -> None:
        silence, quiet = self.setting('silence'), time.monotonic() - self._heard_at
        if self._running and self._stopped and quiet > _STOPPED_SILENCE:  # a silent arm makes no ticks
            self._break_off(f'{self._latched}; {_RELEASE}' if self._latched else _STOP_REASON)
            self._end(broken_off=True)
            return
        if not self._running or quiet <= silence:
            return
        self._silences += 1
        reason = f'no control tick for {silence:g} s; see command_mux and policy on /diagnostics'
        if not self._attended and self._silences >= _SILENCES:  # nobody is there who could end a pause
            raise UserError(f'episode_manager: {reason}')
        reason += ', then end the pause' if self._attended else ''
        self._break_off(reason)
        self._end(broken_off=True)

    def _break_off(self, reason: str) -> None:
        now, discarded = self.get_clock().now().nanoseconds, self._verdicts.discarded
        self._machine.break_off(now, max(self._verdicts.judged, 0), reason, discarded)

    # Pause

    def _on_pause(self, request: Any, response: Any) -> Any:
        self._set_pause(request.data)
        response.success = self._pause == request.data  # going on may be refused at once, by a latched stop for example
        response.message = 'goes on' if not self._pause else 'paused after this episode' if self._running else 'paused'
        if self._pause_reason:
            response.message += f': {self._pause_reason}'
        return response

    def _set_pause(self, pause: bool) -> None:
        if pause and self._pause:
            return
        self._pause, self._pause_reason = pause, ''
        if pause and self._resetting:
            self._call_off('')
        elif not pause and self._state.phase == Phase.PAUSED:
            self._next_episode()

    # Scoring and the end

    def _score(self) -> None:
        """Add the row of the episode that has ended, now that all its messages have come."""
        state = self._machine.state
        if self._purpose == 'evaluation' and state.phase == Phase.ENDED:
            self._scores.add(state, self._executed, self._sim_states, finished=self._series.done)

    def _finish(self) -> None:
        self._announce(Phase.DONE)
        self.get_logger().info(f'done: {self._series.progress()}')
        self.create_timer(_LINGER, self._finish_when_heard, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_recorded(self, header: Header) -> None:
        self._recorded = conversions.stamp_ns(header.stamp)
        self._go_on()

    def _finish_when_heard(self) -> None:
        for topic in ('episode', 'step_result'):
            self.flush(topic, _LINGER)
        self.finish()

    def diagnose(self) -> None:
        if self._series is None or self._partners.missing:
            self.report('episodes', WARN, f'waits for {", ".join(self._partners.missing)}')
        else:
            phase = Phase(self._state.phase).name.lower()
            counts = {'episode': self._series.number, **self._outcomes}
            waits = self._pause_reason if self._state.phase == Phase.PAUSED else ''
            found = f'{phase}: {waits or self._series.progress()}'
            self.report('episodes', WARN if waits else OK, found, **counts)

    def close(self) -> None:
        if self._running:
            self._break_off('the graph was stopped')
            self.publish('episode', self._machine.state)
        self._score()


def main() -> None:
    """Entry point."""
    run_node(EpisodeManager)


if __name__ == '__main__':
    main()
