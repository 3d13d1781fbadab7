"""Writes the topics it reads to bags, and hands numbered transitions to the learner."""

import shutil
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header

from dex_rl_nodes.descriptions import (
    CURRENT_POSE,
    GLOVE,
    HAND_COMMAND,
    HAND_JOINTS,
    IMAGES,
    JOY,
    MEASURED_JOINTS,
    TOPICS,
    TWIST,
)
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.evaluation.series import COLLECTING
from dex_rl_nodes.msg import Transition, TransitionAck
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import OK, WARN, Node
from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.history import owed_retraction
from dex_rl_nodes.recording.reader import next_folder, repair_all
from dex_rl_nodes.recording.spool import SUFFIX, TransitionSpool
from dex_rl_nodes.recording.transitions import TransitionAssembler
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import EpisodeState, Outcome, Phase
from dex_rl_nodes.run_directory import RunSettings

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

_DEPTH = {'image': 60, 'other': 500}  # messages; two seconds of a camera at 30 Hz, and of a joint topic at 250 Hz
_MOST_FETCHED = 500  # transitions in one answer
_TICK_PARTS = ('policy_step', 'core_action', 'executed_action', 'step_result')  # exist only within an episode
# in lockstep every tick has one of each of these; of the others, those that were heard at all
_OF_EVERY_TICK = (
    *IMAGES.values(), CURRENT_POSE, HAND_JOINTS, 'sim_state', 'policy_step', 'action_command', 'executed_action',
    'target_pose', HAND_COMMAND, 'step_result',
)  # fmt: skip
_OF_ACTING = ('core_action', 'reward')
_IF_HEARD = ('teleop_command', TWIST, JOY, GLOVE, MEASURED_JOINTS)
_PARTS = (*_TICK_PARTS, 'episode')
_GATHER = 0.05  # s; what comes within is written together, so that the two threads are not always in each other's way
_CLOSE_DEADLINE = 4.0  # s
_SETTLED = 1.0  # s after the end of an episode, nothing that belongs to it is still on its way
_LITTLE_SPACE = 5.0  # GB; two cameras of 640 x 480 at 30 Hz fill it in two minutes


@dataclass
class _Received:
    topic: str
    data: bytes
    time: int  # ns


class ReplayRecorder(Node):
    """The executor's thread only receives; a second one writes, so that a slow disk does not cost messages.

    One bag per session and purpose. Cameras and joints are written from the first reset on, except in a pause. Online,
    transitions are put together, written, and only then published.
    """

    def __init__(self, **options: Any):
        super().__init__('replay_recorder', **options)
        settings = RunSettings(**{name: self.setting(name) for name in RunSettings.__dataclass_fields__})
        if self.setting('purpose') not in COLLECTING and not self.run_directory.exists:
            raise UserError(self.run_directory.lack)  # nothing to act with: a slip in the name makes no run
        run = self.run_directory.create(settings)
        bags = run.bags(self.setting('purpose'))
        for sentence in repair_all(bags):
            self.get_logger().warning(sentence)
        self._folder = next_folder(bags)
        self._bag: BagWriter | None = None
        self._profiles: dict[str, str] = {}
        self._spool: TransitionSpool | None = None
        self._assembler: TransitionAssembler | None = None
        if self.setting('purpose') == 'online':
            self._spool = TransitionSpool(run, self._folder.with_name(self._folder.name + SUFFIX))
            if owed := owed_retraction(run, self._spool):
                self._spool.append(owed)
            self._assembler = TransitionAssembler(self._spool.newest + 1, self._spool.newest_tick)
        self._settles_at = 0.0  # s, monotonic: when a discarded episode has all it will have; 0: none is waited for
        self._acknowledged = 0
        self._phase = Phase.IDLE
        self._queue: deque[_Received] = deque()
        self._queued = 0  # bytes
        self._news = threading.Condition()
        self._closing = False
        self._failure: Exception | None = None
        self._failure_told = False
        self._newest: dict[str, int] = {}  # lockstep: stamp of the newest message of the topics of a tick
        if self.lockstep:
            acting = () if self.setting('purpose') in COLLECTING else _OF_ACTING
            self._newest = dict.fromkeys((*_OF_EVERY_TICK, *acting), 0)
        self._recorded = 0  # stamp up to which all of them have come
        self._subscriptions_of: dict[str, Any] = {}
        self._counts: dict[str, Counter] = {topic: Counter() for topic in self.description.subscribes}
        self._connect()
        self._writer = threading.Thread(target=self._write, name='writer')
        self._writer.start()

    def _connect(self) -> None:
        self.every(0.2, self._look_after)
        for topic in self.description.subscribes:
            profile = qos.profile(TOPICS[topic].qos, self.lockstep)
            self._profiles[self.resolve_topic_name(topic)] = _qos_yaml(profile)
            messages.definition(TOPICS[topic].type)  # takes a moment, which must not come with the first messages
            depth = _DEPTH['image' if topic in IMAGES.values() else 'other']
            profile = QoSProfile(depth=depth, reliability=profile.reliability, durability=profile.durability)
            subscription = self.create_subscription(
                conversions.interface(TOPICS[topic].type),
                topic,
                partial(self._receive, topic),
                profile,
                raw=True,
                event_callbacks=SubscriptionEventCallbacks(message_lost=partial(self._on_lost, topic)),
            )
            self._subscriptions_of[topic] = subscription
        self.serve('fetch_transitions', self._on_fetch)
        self.advertise('recorded', 'transitions')

    # The executor's thread

    def _receive(self, topic: str, data: bytes) -> None:
        counts = self._counts[topic]
        counts['received'] += 1
        with self._news:
            if topic in IMAGES.values() and not self._room_for(len(data)):
                counts['dropped'] += 1
                return
            self._queue.append(_Received(topic, data, self.get_clock().now().nanoseconds))
            self._queued += len(data)
            if topic in _PARTS:  # a transition may be waiting for it; the others can wait for each other
                self._news.notify()
        if self.lockstep and (topic in self._newest or topic in _IF_HEARD):
            self._acknowledge_tick(topic, messages.stamp_of(data))

    def _room_for(self, size: int) -> bool:
        """Whether an image fits into the queue. Lockstep waits until it does: whoever keeps the tick waits for us."""
        while self._queue and self._queued + size > self.setting('queue') * 1_000_000:
            if not self.lockstep or not self._writer.is_alive():
                return False
            self._news.wait(_GATHER)
        return True

    def _acknowledge_tick(self, topic: str, stamp: int) -> None:
        """Tell who keeps the tick how far everything has come."""
        self._newest[topic] = stamp
        oldest = min(self._newest.values())
        if oldest > self._recorded:
            self._recorded = oldest
            self.publish('recorded', Header(stamp=conversions.time_message(oldest)))

    def _on_lost(self, topic: str, event: Any) -> None:
        self._counts[topic]['lost'] += event.total_count_change

    def _on_fetch(self, request: Any, response: Any) -> Any:
        if self._spool is None:
            return response
        response.newest = self._spool.newest
        for number, data in self._spool.fetch(request.first, min(request.count, _MOST_FETCHED)):
            transition = deserialize_message(data, Transition)
            transition.sequence = number
            response.transitions.append(transition)
        return response

    def _look_after(self) -> None:
        if self._failure is not None:
            self._failure_told = True
            raise self._failure

    # The writer's thread

    def _write(self) -> None:
        try:
            while (received := self._next()) is not None:
                self._handle(received)
        except Exception as error:  # handed to the executor's thread, which ends the node with it
            self._failure = error

    def _next(self) -> _Received | None:
        with self._news:
            while not self._queue and not self._closing:
                self._news.wait(_GATHER)
            if not self._queue:
                return None
            received = self._queue.popleft()
            self._queued -= len(received.data)
            return received

    def _handle(self, received: _Received) -> None:
        topic = received.topic
        if topic in _PARTS:
            message = conversions.interface(TOPICS[topic].type)
            record = conversions.to_record(deserialize_message(received.data, message), conversions.record_of(message))
            if isinstance(record, EpisodeState):
                self._phase = Phase(record.phase)
            self._to_bag(received)
            if self._assembler is not None:
                self._pass_on(self._assembler.add(record))
                if isinstance(record, EpisodeState) and record.outcome == Outcome.DISCARDED:
                    self._settles_at = time.monotonic() + _SETTLED
            if self._bag is not None and isinstance(record, EpisodeState) and self._phase == Phase.ENDED:
                self._bag.sync()
        else:
            if topic == 'transition_ack':
                self._acknowledged = deserialize_message(received.data, TransitionAck).sequence
            self._to_bag(received)
        if self._settles_at and time.monotonic() > self._settles_at:
            self._settles_at = 0.0
            self._pass_on(self._assembler.settle())

    def _to_bag(self, received: _Received) -> None:
        # in lockstep sensors speak within episodes alone, though maybe before and after we hear of them
        sensor = TOPICS[received.topic].qos == 'SENSOR' and not self.lockstep
        of_a_tick = received.topic in _TICK_PARTS or received.topic in self._newest
        begun = of_a_tick or self._phase in (Phase.RESETTING, Phase.RUNNING)
        if self._bag is None and begun:
            self._bag = BagWriter(self._folder, self._profiles)
        if self._bag is None or (sensor and self._phase in (Phase.PAUSED, Phase.DONE)):
            self._counts[received.topic]['skipped'] += 1
            return
        kind = TOPICS[received.topic].type
        self._bag.write_raw(self.resolve_topic_name(received.topic), kind, received.data, received.time)
        self._counts[received.topic]['written'] += 1

    def _pass_on(self, transitions: list[Any]) -> None:
        for transition in transitions:
            self._spool.append(transition)
            self.publish('transitions', transition)

    # What a person sees

    def diagnose(self) -> None:
        total = sum(self._counts.values(), Counter())
        lossy = {topic: counts for topic, counts in self._counts.items() if counts['dropped'] or counts['lost']}
        message = ', '.join(f'{counts["dropped"] + counts["lost"]} of {topic}' for topic, counts in lossy.items())
        names = ('received', 'written', 'skipped', 'dropped', 'lost')
        free = shutil.disk_usage(self.run_directory.path).free / 1e9
        message = f'lost: {message}' if lossy else 'the disk is nearly full' if free < _LITTLE_SPACE else 'ok'
        values = {name: total[name] for name in names}
        values |= {'waiting_MB': self._queued / 1e6, 'free_GB': free, 'bag': self._folder}
        self.report('bag', OK if message == 'ok' else WARN, message, **values)
        for topic, counts in self._counts.items():
            if counts['received'] or counts['lost']:
                self.report(topic, WARN if topic in lossy else OK, **{name: counts[name] for name in names})
        if self._spool is not None:
            dropped = self._assembler.dropped
            self.report(
                'transitions',
                WARN if dropped else OK,
                f'{dropped} ticks were incomplete' if dropped else 'ok',
                newest=self._spool.newest,
                acknowledged=self._acknowledged,
            )

    def close(self) -> None:
        for topic, subscription in self._subscriptions_of.items():  # what has come, but was not yet looked at
            with subscription.handle:
                while (taken := subscription.handle.take_message(subscription.msg_type, True)) is not None:
                    self._receive(topic, taken[0])
        with self._news:
            self._closing = True
            self._news.notify()
        self._writer.join(_CLOSE_DEADLINE)
        if self._writer.is_alive():
            self.get_logger().error(f'the disk is too slow: {len(self._queue)} messages were not written')
            with self._news:
                self._queue.clear()
            self._writer.join()
        if self._failure is not None:
            if self._failure_told:
                return
            self._look_after()  # it came while this node closes
        if self._spool is not None:
            for transition in self._assembler.settle(nothing_comes=True):
                self._spool.append(transition)
        for part in (self._spool, self._bag):
            if part is not None:
                part.close()


def _qos_yaml(profile: QoSProfile) -> str:
    """Offered QoS profiles as rosbag2 stores them, so that `ros2 bag play` offers what our nodes ask for."""
    forever = '{sec: 9223372036, nsec: 854775807}'
    return (
        f'- history: {profile.history.value}\n  depth: {profile.depth}\n  reliability: {profile.reliability.value}\n'
        f'  durability: {profile.durability.value}\n  deadline: {forever}\n  lifespan: {forever}\n  liveliness: 1\n'
        f'  liveliness_lease_duration: {forever}\n  avoid_ros_namespace_conventions: false'
    )


def main() -> None:
    """Entry point."""
    run_node(ReplayRecorder)


if __name__ == '__main__':
    main()
