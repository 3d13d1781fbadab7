"""Turns an application of graph.py into a standard launch description; the files in launch/ are made of it."""

import contextlib
import os
import shutil
import sys
import time

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitution import Substitution
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import APPLICATIONS, Application, check_parameter_file, environment
from dex_rl_nodes.parameters import Parameter, Value, split_argument
from dex_rl_nodes.process import Process, Restarts

RESTART_DELAY = 1.0  # s
# Seconds after Ctrl-C until a process that has not ended is told to, and then is killed: gone within 5 s, as in
# supervisor.py. launch itself waits for 5 and 5 more.
_SECONDS_TO_END = {'sigterm_timeout': '3.5', 'sigkill_timeout': '1.0'}
_held = contextlib.ExitStack()  # the domain, as long as this process lives


def describe(name: str) -> LaunchDescription:
    """The launch description of an application."""
    app = APPLICATIONS[name]
    variables = [SetEnvironmentVariable(key, value) for key, value in environment(os.environ).items()]
    declared = [_declare(argument) for argument in app.arguments]
    return LaunchDescription([*declared, *variables, OpaqueFunction(function=_actions, args=[app])])


def _declare(argument: Parameter) -> DeclareLaunchArgument:
    default = str(argument.default)
    return DeclareLaunchArgument(
        argument.name,
        default_value=default.lower() if isinstance(argument.default, bool) else default,
        description=argument.description,
        choices=list(argument.choices) or None,
    )


def _actions(context: LaunchContext, app: Application) -> list[Action]:
    """Everything that depends on the values of the arguments."""
    _refuse_undeclared(context, app)
    values = app.values(
        {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in app.arguments}
    )
    check_parameter_file(values)
    processes = app.build(values)
    _held.enter_context(app.alone(str(values.get('namespace', '')), os.environ))
    parameter_file = str(values.get('parameter_file', ''))
    first = [process for process in processes if process.runs_first]
    then = [action for process in processes if not process.runs_first for action in _start(process, parameter_file)]
    return [action for process in first for action in _start(process, then=then)] if first else then


def _refuse_undeclared(context: LaunchContext, app: Application) -> None:
    # an including launch file may have arguments of its own, so only what was typed for this file is judged
    if any(os.path.basename(word) == f'{app.name}.launch.py' for word in sys.argv):
        app.values(dict(split_argument(word) for word in context.argv))


def _include(process: Process) -> IncludeLaunchDescription:
    """A launch file of another package; UserError when that is not installed."""
    try:
        share = get_package_share_directory(process.package)
    except PackageNotFoundError:
        raise UserError(
            f'the {process.name} is started by {process.executable} of {process.package}, which is not installed; '
            f'install it, or start the {process.name} elsewhere and leave devices.{process.name}.bringup in '
            'config/robots/ empty'
        ) from None
    source = PythonLaunchDescriptionSource(os.path.join(share, 'launch', process.executable))
    return IncludeLaunchDescription(source, launch_arguments=[split_argument(text) for text in process.arguments])


def _typed(value: Value) -> Value | ParameterValue:
    """A text stays one: launch would read it as YAML."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def _prefix() -> list[Substitution | str]:
    """What stands before every command: told to stop when launch goes without a word (it does so at SIGTERM)."""
    guard = ['setpriv --pdeathsig INT '] if shutil.which('setpriv') else []
    return [*guard, LaunchConfiguration('launch-prefix', default='')]  # ours would hide that of a person


def _start(process: Process, parameter_file: str = '', then: list[Action] | None = None) -> list[Action]:
    """Actions that start a process and watch its end; `then` are started when it has ended well."""
    if process.is_launch_file:
        return [_include(process)]
    options = {'name': process.name, 'output': 'screen', 'prefix': _prefix(), **_SECONDS_TO_END}
    if process.on_exit == 'restart':
        # counted in `ended`: launch would go on without the process, and that of Humble restarts it for ever
        options |= {'respawn': True, 'respawn_delay': RESTART_DELAY}
    parameters = {name: _typed(value) for name, value in process.parameters.items()}
    if process.is_node:
        started: ExecuteProcess = Node(
            package=process.package,
            executable=process.executable,
            exec_name=process.name,  # what its lines begin with; else that would be the prefix
            namespace=process.namespace,
            parameters=[part for part in (parameters, parameter_file) if part],
            remappings=list(process.remaps),
            arguments=list(process.arguments),
            **options,
        )
    else:
        executable = ExecutableInPackage(package=process.package, executable=process.executable)
        started = ExecuteProcess(cmd=[executable, *process.arguments], emulate_tty=True, **options)

    restarts, began = Restarts(process.max_restarts), time.monotonic()

    def ended(event: ProcessExited, event_context: LaunchContext) -> list[Action]:
        nonlocal began
        if event_context.is_shutdown:
            return []
        if process.on_exit == 'restart' and event.returncode != 2:
            ran, began = time.monotonic() - began, time.monotonic() + RESTART_DELAY
            if restarts.allow(ran):
                return []
        if event.returncode == 0 and (process.may_end or then is not None):
            return then or []
        if event.returncode == 0 and process.ends_graph:
            reason = f'{process.name} is done'
            return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]
        # an exception is what makes `ros2 launch` end with a code other than 0
        raise UserError(f'{process.name} ended with exit code {event.returncode}, so the graph stops')

    return [started, RegisterEventHandler(OnProcessExit(target_action=started, on_exit=ended))]
