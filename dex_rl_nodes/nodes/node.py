"""The base of all nodes: declared parameters and topics, deadlines, diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import rclpy
import rclpy.node
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
)
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

from dex_rl_nodes import config
from dex_rl_nodes.descriptions import NODES, SERVICES, TOPICS
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions, qos
from dex_rl_nodes.nodes.scheduling import prefer, spare_collector
from dex_rl_nodes.parameters import COMMON, Parameter, Value
from dex_rl_nodes.run_directory import RunDirectory, RunSettings

if TYPE_CHECKING:
    from dex_rl_nodes.stages.job import Job

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}
_DIAGNOSTICS_PERIOD = 1.0  # s
_DEADLINE_PERIOD = 0.2  # s


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    description = parameter.description + (f' ({parameter.unit})' if parameter.unit else '')
    result = ParameterDescriptor(
        name=parameter.name,
        type=_TYPES[type(parameter.default)],
        description=description,
        additional_constraints=f'one of: {", ".join(parameter.choices)}' if parameter.choices else '',
        read_only=True,
    )
    if parameter.minimum is not None and parameter.maximum is not None:
        if isinstance(parameter.default, float):
            result.floating_point_range = [
                FloatingPointRange(from_value=float(parameter.minimum), to_value=float(parameter.maximum))
            ]
        else:
            result.integer_range = [IntegerRange(from_value=int(parameter.minimum), to_value=int(parameter.maximum))]
    return result


class Node(rclpy.node.Node):
    """A node as descriptions.py describes it.

    Args:
        name: name of its description.

    Raises:
        UserError: a parameter has a value that is not allowed.
    """

    def __init__(self, name: str, **options: Any):
        super().__init__(name, **options)
        self.description = NODES[name]
        self.finished = False
        self.failure: Exception | None = None  # why the node is finished, if not by itself
        self._publishers_of: dict[str, tuple[Any, type]] = {}
        self._deadlines: dict[str, float] = {}
        self._statuses: dict[str, tuple[int, str, dict[str, Any]]] = {}
        self._diagnosing = False
        self._declared = {parameter.name: parameter for parameter in (*COMMON, *self.description.parameters)}
        for parameter in self._declared.values():
            self._declare(parameter)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.PROFILES['DIAGNOSTICS'])
        self.every(_DIAGNOSTICS_PERIOD, self._publish_diagnostics)
        self.every(_DEADLINE_PERIOD, self._check_deadlines)

    # Parameters and configuration

    def _declare(self, parameter: Parameter) -> None:
        try:
            value = self.declare_parameter(parameter.name, parameter.default, _descriptor(parameter)).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            given = self._parameter_overrides[parameter.name].value
            raise UserError(f'{self.get_name()}: {parameter.refusal(given) or error}') from None
        if refusal := parameter.refusal(value):
            raise UserError(f'{self.get_name()}: {refusal}')

    def setting(self, name: str) -> Value:
        """Value of a parameter."""
        return self.get_parameter(name).value

    @cached_property
    def lockstep(self) -> bool:
        """True: simulation waits for every command."""
        return self.setting('lockstep')

    @cached_property
    def task(self) -> config.Task:
        """Configuration of the task."""
        return config.load_task(self.setting('task'))

    @cached_property
    def robot(self) -> config.Robot:
        """Configuration of the robot."""
        return config.load_robot(self.setting('robot'))

    @cached_property
    def run_directory(self) -> RunDirectory:
        """The run this node belongs to."""
        return RunDirectory(self.setting('run'))

    @cached_property
    def job(self) -> Job:
        """The run as its stages see it: what was recorded and trained. Imports PyTorch."""
        from dex_rl_nodes.stages.job import Job

        return Job(self.run_directory, RunSettings(**{key: self.setting(key) for key in RunSettings.__annotations__}))

    # Callbacks: an error in one ends the node; `spin` raises it

    def create_subscription(self, *arguments: Any, **options: Any) -> Any:
        message, topic, callback, *others = arguments
        return super().create_subscription(message, topic, self._guarded(callback), *others, **options)

    def create_timer(self, period: float, callback: Callable[[], None], *others: Any, **options: Any) -> Any:
        """Timer in real time, unless another clock is given: a simulated one stands still between episodes."""
        if not others:
            options.setdefault('clock', Clock(clock_type=ClockType.STEADY_TIME))
        return super().create_timer(period, self._guarded(callback), *others, **options)

    def every(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Timer in real time, also where the node's clock follows a simulation."""
        return self.create_timer(seconds, callback)

    def _guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(callback)
        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:  # the executor would log it and, out of a future, crash
                self.failure = self.failure or error
                self.finished = True

        return guarded

    # Topics and services: type and QoS come from descriptions.py

    def advertise(self, *topics: str) -> None:
        """Create the publishers of topics; done last, so that who is seen publishing is ready."""
        for topic in topics:
            message = conversions.interface(TOPICS[topic].type)
            publisher = self.create_publisher(message, topic, qos.profile(TOPICS[topic].qos, self.lockstep))
            self._publishers_of[topic] = publisher, message

    def publish(self, topic: str, content: Any) -> None:
        """Publish a message, or a record that has one."""
        publisher, message = self._publishers_of[topic]
        publisher.publish(content if isinstance(content, message) else conversions.to_message(content, message))

    def flush(self, topic: str, seconds: float) -> None:
        """Wait, so long at most, until everybody who listens reliably has what was published."""
        publisher, _ = self._publishers_of[topic]
        publisher.wait_for_all_acked(Duration(seconds=seconds))

    def subscribe(self, topic: str, callback: Callable[[Any], None]) -> None:
        """Call back with the record of every message, or with the message where it has no record."""
        message = conversions.interface(TOPICS[topic].type)
        record = conversions.record_of(message)
        receive = callback if record is None else lambda received: callback(conversions.to_record(received, record))
        self.create_subscription(message, topic, receive, qos.profile(TOPICS[topic].qos, self.lockstep))

    def joint_values(self, topic: str, message: Any, names: Sequence[str]) -> Any:
        """Positions in the order of `names`, float64; None, said on /diagnostics, when the message lacks one."""
        try:
            positions = conversions.joint_positions(message, names)
        except ValueError as error:
            self.report(topic, WARN, str(error))
            return None
        if topic in self._statuses:
            self.report(topic)
        return positions

    def serve(self, service: str, callback: Callable[[Any, Any], Any]) -> None:
        """Offer a service."""
        guarded = self._guarded(callback)
        kind = conversions.interface(SERVICES[service])
        # whoever asked gets an answer, also from a node that an error has just ended
        self.create_service(kind, service, lambda request, response: guarded(request, response) or response)

    def client(self, service: str) -> Any:
        """Client of a service."""
        return self.create_client(conversions.interface(SERVICES[service]), service)

    def ask(self, client: Any, request: Any, callback: Callable[[Any], None]) -> None:
        """Call a service; call back with the answer."""
        self.when_done(client.call_async(request), callback)

    def when_done(self, future: Any, callback: Callable[[Any], None]) -> None:
        """Call back with the result of a future; an error in the callback ends the node."""
        future.add_done_callback(self._guarded(lambda done: callback(done.result())))

    # Deadlines

    def wait_for(self, what: str, seconds: float, hint: str = '') -> None:
        """From now on, `what` must come within `seconds`, or the node ends with an error that names it."""
        self._deadlines[what] = time.monotonic() + seconds, seconds, hint

    def arrived(self, what: str) -> None:
        """What was waited for has come, or is not needed any more."""
        self._deadlines.pop(what, None)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for what, (when, seconds, hint) in self._deadlines.items():
            if now > when:
                raise UserError(
                    f'{self.get_name()}: waited {seconds:g} s for {what} in vain' + (f'; {hint}' if hint else '')
                )

    # Diagnostics

    def report(self, subcomponent: str, level: int = OK, message: str = 'ok', **values: Any) -> None:
        """State of a part of the node, published once a second on /diagnostics, at once when the level changes."""
        previous = self._statuses.get(subcomponent)
        self._statuses[subcomponent] = level, message, values
        if previous is not None and previous[0] != level and not self._diagnosing:
            self._publish_statuses()

    def _publish_diagnostics(self) -> None:
        self._diagnosing = True  # what is reported now is published below
        try:
            self.diagnose()
        finally:
            self._diagnosing = False
        self._publish_statuses()

    def _publish_statuses(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        for subcomponent, (level, message, values) in self._statuses.items():
            array.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f'{self.get_fully_qualified_name().lstrip("/")}: {subcomponent}',
                    message=message,
                    hardware_id=self.setting('robot'),
                    values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
                )
            )
        self._diagnostics.publish(array)

    def diagnose(self) -> None:
        """Called before diagnostics are published; nodes `report` here what is not reported elsewhere."""

    # Beginning and end

    def made(self) -> None:
        """Called once, when everything is loaded and the process belongs to this node."""
        spare_collector()
        if 'realtime_priority' in self._declared and not self.lockstep:
            self.report('scheduling', OK, prefer(self.setting('realtime_priority')))

    def finish(self) -> None:
        """End the node, exit code 0."""
        self.finished = True

    def close(self) -> None:
        """Called once before the node goes: write what must not be lost. Messages can still be published."""


def _text(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)
