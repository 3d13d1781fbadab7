"""`./dexrl launch`: starts a launch file with `launch` where it is installed, else with the supervisor."""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dex_rl_nodes import interrupt
from dex_rl_nodes.errors import UserError, refused_by_system
from dex_rl_nodes.graph import Application, application, check_parameter_file, environment
from dex_rl_nodes.parameters import split_argument
from dex_rl_nodes.paths import share_directory


def show_arguments(app: Application) -> str:
    """The arguments of a launch file, as `--show-args` prints them."""
    lines = [f'{app.name}.launch.py: {app.description}', 'Arguments (name:=value):']
    for argument in app.arguments:
        choices = f' One of: {", ".join(argument.choices)}.' if argument.choices else ''
        lines += [
            '',
            f"    '{argument.name}':",
            f'        {argument.description}.{choices}',
            f"        (default: '{argument.default}')",
        ]
    return '\n'.join(lines)


def run_with_launch(app: Application, texts: Mapping[str, str]) -> int:
    """Start the launch file with the `launch` of the ROS installation."""
    import launch
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    path = share_directory() / 'launch' / f'{app.name}.launch.py'
    # without a terminal nobody but launch tells the processes of a SIGINT, as in `ros2 launch`
    argv = [f'{name}:={value}' for name, value in texts.items()]
    service = launch.LaunchService(argv=argv, noninteractive=not sys.stdin.isatty())
    source = PythonLaunchDescriptionSource(str(path))
    service.include_launch_description(
        launch.LaunchDescription([launch.actions.IncludeLaunchDescription(source, launch_arguments=texts.items())])
    )
    return service.run()


def run_with_supervisor(app: Application, values: dict) -> int:
    """Start the graph without `launch`."""
    from dex_rl_nodes.supervisor import Supervisor, command_line

    processes = app.build(values)
    with tempfile.TemporaryDirectory(prefix='dexrl-') as folder:
        parameter_file = str(values.get('parameter_file', ''))
        commands = {process.name: command_line(process, Path(folder), parameter_file) for process in processes}
        return Supervisor(processes, commands, dict(os.environ)).run()


def run(arguments: list[str]) -> int:
    """Run `launch FILE [name:=value ...]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog='./dexrl launch', description='Start a graph.')
    parser.add_argument('launch_file', nargs='?', default='', help='for example online_rl.launch.py')
    parser.add_argument('-s', '--show-args', action='store_true', help='list the arguments of the launch file')
    parser.add_argument('arguments', nargs='*', metavar='name:=value')
    options = parser.parse_intermixed_args(arguments)
    app = application(options.launch_file)
    if options.show_args:
        print(show_arguments(app), flush=True)
        return 0
    texts = dict(split_argument(text) for text in options.arguments)
    values = app.values(texts)
    check_parameter_file(values)
    app.build(values)  # refuses what cannot be started
    os.environ.update(environment(os.environ))
    if importlib.util.find_spec('launch_ros'):  # `launch` would also be found as the folder of that name
        return run_with_launch(app, texts)
    with app.alone(str(values.get('namespace', '')), os.environ):
        return run_with_supervisor(app, values)


def main() -> int:
    """Entry point of `python -m dex_rl_nodes.launch_command`."""
    try:
        interrupt.accept()
        return run(sys.argv[1:])
    except UserError as error:
        print(f'dexrl: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f'dexrl: {refused_by_system(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ndexrl: stopped before anything was started', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
