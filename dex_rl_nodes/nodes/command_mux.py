"""The only publisher to the robot: takeover, safety supervisor, watchdogs."""

import time
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import String

from dex_rl_nodes.config import is_simulated
from dex_rl_nodes.descriptions import CURRENT_POSE, IMAGES, MEASURED_JOINTS
from dex_rl_nodes.descriptions import HAND_JOINTS as HAND_TOPIC
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import qos
from dex_rl_nodes.nodes.episode_node import EpisodeNode
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK
from dex_rl_nodes.nodes.publishers import other_publisher
from dex_rl_nodes.nodes.robot_reports import REPORTS, RobotReports
from dex_rl_nodes.nodes.safety_reports import SafetyReports
from dex_rl_nodes.nodes.targets import TARGETS, RobotTargets
from dex_rl_nodes.nodes.timing import Timing
from dex_rl_nodes.paths import config_directory
from dex_rl_nodes.records import (
    ActionCommand,
    ArmState,
    EpisodeState,
    ExecutedAction,
    Phase,
    RobotReading,
    TeleopCommand,
)
from dex_rl_nodes.robot.events import Reaction, SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux
from dex_rl_nodes.robot.tool import tcp_complaint
from dex_rl_nodes.robot.watchdog import FaultCounter, picture_digest

_SILENCE = {
    CURRENT_POSE: SafetyEvent.ARM_SILENT,
    MEASURED_JOINTS: SafetyEvent.ARM_SILENT,
    HAND_TOPIC: SafetyEvent.HAND_SILENT,
}
_SILENCE |= dict.fromkeys(IMAGES.values(), SafetyEvent.CAMERA_SILENT)
_TICK_DEADLINE = 20.0  # s, lockstep: longest wait for what belongs to a command
_HAND_AWAY = 500_000_000  # ns; a hand silent for longer may be anywhere, and its driver, too, starts where it finds it
_TELEOP_SILENCE = 0.5  # s; it speaks fifty times a second, and only a person's hands wait for it
_BEGINNING = 1_000_000_000  # ns, in which everything may come for the first time
_FRAMES = 1.5  # camera periods that must fit into the longest silence
_REACTION = 0.02  # s, from noticing a silence to the target that ends the motion


class CommandMuxNode(EpisodeNode):
    """Wraps CommandMux.

    Silent until an episode runs; then it publishes targets once per tick, and while it must hold. Real time: silence is
    looked for by a timer. Lockstep: nothing moves without a command, so there is nothing to watch for.
    """

    def __init__(self, **options: Any):
        super().__init__('command_mux', **options)
        self._mux = CommandMux(self.robot, self.task)
        self._dry_run = self.setting('dry_run')
        if self._dry_run and self.lockstep:
            raise UserError('command_mux: a simulation in lockstep waits for commands; dry_run needs lockstep:=false')
        self._real = not is_simulated(self.setting('robot'))
        self._command: ActionCommand | None = None  # waits for what belongs to its tick
        self._teleop: TeleopCommand | None = None
        self._heard: dict[str, int] = {}  # ns, monotonic, when a topic last came in
        self._teleop_required = self.setting('teleop_required')
        self._fresh = True  # no command of this episode was executed yet
        self._called_off = -1  # stamp of an episode, or of its RESETTING, that a stop has ended, released or not
        self._observed = 0  # stamp of the reading that was last judged between ticks
        self._targets = RobotTargets(self, self._dry_run)
        self._lookout = self._targets.lookout
        self._safety = SafetyReports(self, self._mux, None if self._dry_run else self._lookout)
        self._faults = FaultCounter()
        self._timing = Timing()
        # Silence must be noticed early enough for the motion to stop in time.
        watch_period = 1 / self.setting('watch_rate')
        self._longest = self._mux.limits.timing.stop_periods / self.robot.control_rate - watch_period - _REACTION
        if not self.lockstep:
            self._check_rates()
        self._connect(watch_period)
        self.get_logger().info(f'limits of {config_directory() / "robots" / self.robot.name}.yaml')

    def _check_rates(self) -> None:
        """UserError when a camera that works would be taken for a silent one."""
        rate = min(camera.rate for camera in self.robot.cameras.values())
        if self._longest < _FRAMES / rate:
            raise UserError(
                f'command_mux: with control_rate {self.robot.control_rate:g} Hz a camera may be silent '
                f'for {max(0.0, self._longest):.3f} s, but a frame comes every {1 / rate:.3f} s; lower control_rate, '
                'or raise the rate of the cameras or limits.timing.stop_periods, in '
                f'config/robots/{self.robot.name}.yaml'
            )

    def _connect(self, watch_period: float) -> None:
        self.advertise('executed_action', 'safety_stop')
        self._tell_stop()
        self._reports = RobotReports(self, self._on_report, partial(self._mux.log.add, SafetyEvent.READING_INVALID))
        self.subscribe('teleop_command', self._on_teleop)
        self.subscribe_ticks('action_command', self._on_command)
        self.subscribe('reset_command', self._on_reset_command)
        self.subscribe('arm_state', self._on_arm_state)
        self.serve('command_mux/reset_stop', self._on_reset_stop)
        self.serve('command_mux/stop', self._on_stop)
        self.subscribe('/diagnostics', self._on_diagnostics)
        if not self.lockstep:
            for topic in IMAGES.values():
                # raw: only the bytes are compared, so a message need not be built from them
                self.create_subscription(Image, topic, partial(self._on_frame, topic), qos.PROFILES['SENSOR'], raw=True)
            self.subscribe('learner_state', self._on_learner)
        self.every(watch_period, self._watch)
        self.follow_episodes()

    # Episodes

    def _on_episode(self, episode: EpisodeState) -> None:
        if self._resetting and (episode.phase, episode.stamp) != (self.episode.phase, self.episode.stamp):
            self.end(episode)
        super()._on_episode(episode)

    def begin(self, episode: EpisodeState) -> None:
        self._fresh, self._command = True, None
        self._mux.see_again()
        if self.lockstep:
            return
        self._expect(*_SILENCE)
        if self._teleop_required:  # nobody could take over
            heard = self._heard.get('teleop_command', 0)
            self._mux.watch.watch('teleop_command', SafetyEvent.TELEOP_SILENT, _TELEOP_SILENCE, heard)

    def _expect(self, *topics: str) -> None:
        for topic in topics:  # what fell silent before counts, too
            self._mux.watch.watch(topic, _SILENCE[topic], self._longest, self._heard.get(topic, 0))

    def end(self, episode: EpisodeState) -> None:
        self._command = None  # whatever it still waits for comes too late
        for topic in (*REPORTS, 'teleop_command'):
            self.arrived(self._awaited(topic))
        if not self._fresh and not self.lockstep:
            self._mux.hold()  # before the watches are forgotten: it must know whether the arm is heard
            self._publish_targets()
        for topic in ('action_command', 'reset_command', 'teleop_command', *_SILENCE):
            self._mux.watch.forget(topic)
        self._fresh = True

    def _start(self, command: ActionCommand, reading: RobotReading) -> bool:
        """First command of the episode: targets at the measured pose. False while that pose cannot be believed."""
        now, first = time.monotonic_ns(), self.episode.stamp
        if not self.lockstep:
            self._mux.watch.check(now)
            if self._mux.watch.causes() or not self._credible(reading):
                return False
            # after a restart in the middle of an episode, its old commands come again
            first = max(first, self._ros_now() - round(2e9 / self.robot.control_rate))
        called_off = self._called_off == self.episode.stamp
        self._fresh = not self._mux.reset(reading, self.episode.hand_target, min(first, command.stamp), called_off)
        if not self._fresh and not self.lockstep:
            self._mux.watch.watch('action_command', SafetyEvent.COMMAND_SILENT, self._longest, now)
        return not self._fresh

    def _credible(self, reading: RobotReading) -> bool:
        """Whether pose and joints of a real arm agree: the first reading has none before it to be compared with."""
        complaint = tcp_complaint(reading.tcp_pose, reading.joint_position) if self._real else ''
        self._mux.disbelieve(complaint)
        return not complaint

    # What comes in

    def _on_report(self, topic: str) -> None:
        before, self._heard[topic] = self._heard.get(topic, 0), self._reports.came_at[topic]
        self._mux.watch.seen(topic, self._heard[topic])
        away = topic == HAND_TOPIC and self._heard[topic] - before > _HAND_AWAY
        if away and self._moving and not self.lockstep:
            self._mux.take_hand(self._reports.reading())
            self._publish_targets()  # before its driver moves to what it was told last
        self.arrived(self._awaited(topic))
        self._try()

    def _on_teleop(self, teleop: TeleopCommand) -> None:
        if not teleop.hand_active:
            self._mux.let_go_of_hand()
        self._teleop = teleop
        self._heard['teleop_command'] = time.monotonic_ns()
        self._mux.watch.seen('teleop_command', self._heard['teleop_command'])
        self.arrived(self._awaited('teleop_command'))
        self._try()

    def _on_arm_state(self, state: ArmState) -> None:
        problem = self._mux.hear_arm(state, time.monotonic_ns())
        if problem and self._moving:
            self._stop(*problem)

    def _on_learner(self, _state: Any) -> None:
        now = time.monotonic_ns()
        self._mux.watch.watch('learner_state', SafetyEvent.LEARNER_SILENT, self._mux.limits.timing.learner_age, now)

    def _on_frame(self, topic: str, data: bytes) -> None:
        reading = None if self._reports.missing() else self._reports.reading()
        self._heard[topic] = time.monotonic_ns()
        self._mux.watch.frame(topic, picture_digest(data), reading, self._heard[topic])

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        """A hand driver of this robot that says `fault` again and again has a hand that needs a person."""
        own = f'{self.get_namespace()}/hand_driver'.lstrip('/')
        for status in array.status:
            if status.name.partition(': ')[0] != own:
                continue
            fault = next((pair.value for pair in status.values if pair.key == 'fault'), '')
            if self._faults.lasts(status.name, fault):
                self._stop(SafetyEvent.HARDWARE_ERROR, f'{status.name}: {fault}')

    # The tick

    def _on_command(self, command: ActionCommand) -> None:
        self._command = command
        if self.lockstep:
            for topic in self._missing(command.stamp):
                self.wait_for(self._awaited(topic), _TICK_DEADLINE, 'is its node running?')
        self._try()

    @staticmethod
    def _awaited(topic: str) -> str:
        return f'{topic} of the tick'

    def _missing(self, stamp: int) -> list[str]:
        """Topics that the command with this stamp still waits for."""
        if not self.lockstep:
            return self._reports.missing()
        missing = self._reports.missing(stamp)
        if self._teleop_required and (self._teleop is None or self._teleop.stamp != stamp):
            missing.append('teleop_command')
        return missing

    def _try(self) -> None:
        if not self.running or self._command is None or self._missing(self._command.stamp):
            return
        if self._fresh and not self._mux.stopped and self._targets.in_doubt:
            return
        command, reading = self._command, self._reports.reading()
        if self._fresh and not self._start(command, reading):
            return  # the next report tries again: a policy whose command is not answered sends no other
        self._command = None
        teleop = None if self.lockstep and not self._teleop_required else self._teleop
        executed = self._execute('action_command', command, teleop, reading)
        if executed is not None:
            self.publish('executed_action', executed)

    def _execute(self, topic: str, command: ActionCommand, *others: Any) -> ExecutedAction | None:
        """Execute one tick and tell the robot; None when the command belongs to no new tick."""
        with self._timing:
            executed = self._mux.step(command, *others, None if self.lockstep else self._ros_now())
        if executed is not None:
            if self._mux.problem is None:
                self._mux.watch.seen(topic, time.monotonic_ns())
            self._publish_targets(executed.target_pose, command.stamp)
        return executed

    # Resetting

    def _on_reset_command(self, command: ActionCommand) -> None:
        """Follow the arm adapter while the robot is brought to a start pose; its motion passes the same filter."""
        if self.lockstep or not self._resetting or command.episode != self.episode.episode:
            return
        if self._mux.stopped:
            self._called_off = self.episode.stamp
        if self._called_off == self.episode.stamp:
            self._mux.watch.seen('reset_command', time.monotonic_ns())
        elif not self._missing(command.stamp) and (not self._fresh or self._start_reset(command)):
            self._execute('reset_command', command, None, self._reports.reading())

    def _start_reset(self, command: ActionCommand) -> bool:
        """First reset command: targets where the robot is. False while it may not move."""
        self._expect(*REPORTS)
        now = time.monotonic_ns()
        self._mux.watch.check(now)
        if self._targets.in_doubt or self._mux.watch.causes(cameras=False):
            return False
        if self._credible(self._reports.reading()) and self._mux.begin_reset(self._reports.reading(), command.stamp):
            self._fresh = False
            self._mux.watch.watch('reset_command', SafetyEvent.COMMAND_SILENT, self._longest, now)
        return not self._fresh

    def _ros_now(self) -> int:
        return self.get_clock().now().nanoseconds

    def _publish_targets(self, pose: np.ndarray | None = None, stamp: int | None = None) -> None:
        """The executed targets; the ones of now where they are not those of a tick."""
        pose = self._mux.target_pose if pose is None else pose
        if not self._targets.publish(pose, self._mux.hand_target, self._ros_now() if stamp is None else stamp):
            self._stop(SafetyEvent.TARGET_NOT_FINITE)

    # Watching

    @property
    def _resetting(self) -> bool:
        """Whether the arm adapter may bring the robot to a start pose."""
        return self.episode.phase == Phase.RESETTING

    @property
    def _moving(self) -> bool:
        """Whether targets follow commands."""
        return (self.running or self._resetting) and not self._fresh

    def _watch(self) -> None:
        if self._lookout.due() and not (self._mux.stopped or self._dry_run):
            self._look_for_second_publisher()
        if self.lockstep or not (self.running or self._resetting):
            return
        now = time.monotonic_ns()
        if self._fresh:
            self._mux.watch.check(now)  # for the log and /diagnostics; nothing has moved yet
            if self._ros_now() - self.episode.stamp > _BEGINNING:
                self._safety.tell()
            return
        reading = self._reports.reading()
        if reading.stamp != self._observed:
            self._observed = reading.stamp
            self._mux.observe(reading)
        if self._mux.watch.clock(now, self._ros_now()):
            self._mux.hold()
        fallen = self._mux.watchdog(now)
        silence = self._targets.silent_for > 1 / self.robot.control_rate
        if any(event.reaction >= Reaction.HOLD for event, _ in fallen) or (self._mux.holding and silence):
            self._publish_targets()  # again and again: the hand driver lets go of a target that is not repeated
        for event, name in fallen:
            if event.reaction == Reaction.STOP:
                self._stop(event)
            elif event.reaction < Reaction.HOLD:
                self.get_logger().warning(event.sentence(name))
        self._safety.tell()
        if fallen:
            self._report_safety()

    def _look_for_second_publisher(self) -> None:
        """Latch a stop when somebody else appears while the robot moves; begin no motion while somebody is there."""
        if self._lookout.look(moving=not self._fresh):
            self._stop(SafetyEvent.SECOND_PUBLISHER, self._lookout.intruder)
        if self._fresh:
            self._try()

    def _stop(self, event: SafetyEvent, detail: str = '') -> None:
        if self._mux.stopped:
            return
        self._mux.stop(event, detail)
        self._called_off = self.episode.stamp
        if self._moving and not self.lockstep:
            self._publish_targets()
        self.get_logger().error(self._mux.stop_reason)
        self._tell_stop()
        self._report_safety()

    def _tell_stop(self) -> None:
        self.publish('safety_stop', String(data=self._mux.stop_reason))

    def _on_stop(self, _request: Any, response: Any) -> Any:
        self._stop(SafetyEvent.OPERATOR_STOP)
        response.success, response.message = True, self._mux.stop_reason
        return response

    def _on_reset_stop(self, _request: Any, response: Any) -> Any:
        intruder = '' if self._dry_run else other_publisher(self, TARGETS)
        if intruder:
            response.message = SafetyEvent.SECOND_PUBLISHER.sentence(intruder)
            return response
        response.message = 'the stop is released' if self._mux.stopped else 'there was no stop'
        self._mux.reset_stop()
        self._tell_stop()
        self._faults = FaultCounter()
        self._report_safety()
        response.success = True
        return response

    def close(self) -> None:
        """The arm stays where it is, and not at a target ahead of it."""
        if self._moving and not self.lockstep:
            self._mux.hold()
            self._publish_targets()
            self._targets.flush()

    # Diagnostics

    def _report_safety(self) -> None:
        called_off = self.running and self._called_off == self.episode.stamp
        self._safety.report(self.running or self._resetting, called_off)

    def diagnose(self) -> None:
        self._report_safety()
        doing = 'dry run: nothing is published to the robot' if self._dry_run else 'ok'
        self.report('step', OK, doing, **self._timing.take())
        self.report('control', OK, 'operator' if self._moving and self._mux.operator_active else 'policy')


def main() -> None:
    """Entry point."""
    run_node(CommandMuxNode)


if __name__ == '__main__':
    main()
