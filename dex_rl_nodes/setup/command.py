"""The command line of `./dexrl`: sets up what is missing, then hands over to the environment."""

import os
import random
import signal
import sys

from dex_rl_nodes import interrupt
from dex_rl_nodes.errors import UserError, refused_by_system
from dex_rl_nodes.namespace import parse_namespace
from dex_rl_nodes.setup import shared_memory, system
from dex_rl_nodes.setup.build import build, run_variables
from dex_rl_nodes.setup.environment import Environment
from dex_rl_nodes.setup.places import CHECKOUT, Places, find_places
from dex_rl_nodes.setup.steps import Progress, Runner, exclusive

USAGE = """usage: ./dexrl COMMAND ...

Commands (each sets everything up when it is first used):
  launch FILE.launch.py [arg:=value ...]    start a graph; --show-args lists its arguments
  keyboard [namespace:=NAME]                keys for stop, release and marks beside a running graph
  tensorboard [arguments]                   learning curves of all runs, in a browser
  train STAGE [arg:=value ...]              one offline stage, from bags: encoder, prior, policy, reward; all
  prepare [arg:=value ...]                  what online RL needs and is missing, from demonstrations to classifier
  online [arg:=value ...]                   online RL in simulation, in one process without ROS
  evaluate [arg:=value ...]                 score a run in simulation, in one process without ROS
  bench [NAME] [arg:=value ...]             in-process experiments and speed figures
  test [pytest arguments]                   build and run the tests; all of them on all cores, chosen ones on one
  setup                                     set-up alone
  doctor [robot:=NAME] [namespace:=NAME]    what is used, what is missing, and the fix

Variables: DEXRL_HOME (private environments, ~/.cache/dexrl), DEXRL_RUNS (run directories, ./runs),
DEXRL_TORCH (PyTorch's build, cpu or cuda; unset: cuda where there is an NVIDIA card), ROS_DOMAIN_ID (bench and test
take another one; DEXRL_TEST_DOMAIN and DEXRL_TEST_SEED repeat a test).
`./dexrl COMMAND --help` says more."""

MODULES = {
    'launch': ('dex_rl_nodes.launch_command',),
    'train': ('dex_rl_nodes.stages', 'train'),
    'prepare': ('dex_rl_nodes.stages', 'prepare'),
    'online': ('dex_rl_nodes.stages', 'online'),
    'evaluate': ('dex_rl_nodes.stages', 'evaluate'),
    'bench': ('dex_rl_nodes.stages', 'bench'),
    'test': ('pytest',),
    'keyboard': ('dex_rl_nodes.nodes', 'keyboard'),
    'tensorboard': ('tensorboard.main',),
}
DRAWING = ('egl', 'osmesa', 'glfw')  # what MuJoCo draws with
DOMAINS = range(1, 102)  # those whose ports lie below the range of ephemeral ones on Linux


def set_up(places: Places) -> None:
    """Make what is missing of environment and build. Can be stopped and started again at any time."""
    with exclusive(places.environment.with_suffix('.lock')) as lock, exclusive(places.build.with_suffix('.lock')):
        if places.is_complete():
            return
        print(f'dexrl: setting up in {places.environment} (once; a few minutes)', file=sys.stderr)
        progress = Progress(total=7)
        runner = Runner(progress, places.logs, lock)
        try:
            with progress.step('system libraries and compiler'):
                system.ensure(runner)
            environment = Environment(places, runner)
            environment.make_base()
            runner.together(lambda: build(places, runner), environment.make_rest)
        except BaseException:
            runner.stop()
            raise
        places.stamp('complete').touch()


def keyboard_arguments(arguments: list[str]) -> list[str]:
    """Arguments of `./dexrl keyboard` as ROS reads them; UserError on any other."""
    words = ['--ros-args']
    for text in arguments:
        name, separator, value = text.partition(':=')
        if not separator or name != 'namespace':
            raise UserError(f'keyboard takes namespace:=NAME, not "{text}"')
        words += ['-r', f'__ns:=/{parse_namespace(value)}']
    return words


def refuse_variables() -> None:
    """UserError where a variable of the shell names no middleware, or no way to draw."""
    middleware, drawing = (os.environ.get(name, '') for name in ('RMW_IMPLEMENTATION', 'MUJOCO_GL'))
    if middleware and not middleware.startswith('rmw_'):
        raise UserError(f'RMW_IMPLEMENTATION is "{middleware}", which names no middleware; unset it')
    if drawing and drawing not in DRAWING:
        raise UserError(f'MUJOCO_GL is "{drawing}"; unset it, or set it to one of: {", ".join(DRAWING)}')


def hand_over(places: Places, command: str, arguments: list[str]) -> int:
    """Replace this process by the command in the environment."""
    os.environ.update(run_variables(places))
    if command in ('launch', 'test'):
        shared_memory.remove(shared_memory.left_over())
    if command in ('test', 'bench'):
        # neither may hear a graph of this machine, nor be heard: where a robot is, its domain is exported everywhere
        shell = os.environ.setdefault('DEXRL_SHELL_DOMAIN', os.environ.get('ROS_DOMAIN_ID', '0'))
        own = str(random.choice([domain for domain in DOMAINS if str(domain) != shell]))
        os.environ['ROS_DOMAIN_ID'] = own
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        if os.environ.get('ROS_DISTRO') == 'humble':
            os.environ['ROS_LOCALHOST_ONLY'] = '1'
    if command == 'test':
        own = os.environ.setdefault('DEXRL_TEST_DOMAIN', own)
        print(f'dexrl: testing with DEXRL_TEST_DOMAIN={own}', file=sys.stderr)
        os.chdir(CHECKOUT)
        if not arguments:
            arguments = ['-n', str(len(os.sched_getaffinity(0))), '--dist', 'loadgroup']  # groups: test/conftest.py
    if command == 'tensorboard' and not any(word.startswith('--logdir') for word in arguments):
        arguments = ['--logdir', os.environ.get('DEXRL_RUNS') or 'runs', *arguments]
    sys.stdout.flush()
    if MODULES[command][0].startswith('dex_rl_nodes.'):
        interrupt.hold()
    os.execv(places.python, [str(places.python), '-m', *MODULES[command], *arguments])


def run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    command, *rest = arguments or ['--help']
    if command in ('-h', '--help', 'help'):
        print(USAGE)
        return 0
    if command not in (*MODULES, 'setup', 'doctor'):
        raise UserError(f'there is no command "{command}"; choose one of: {", ".join((*MODULES, "setup", "doctor"))}')
    if command in ('setup', 'doctor', 'keyboard') and ('-h' in rest or '--help' in rest):
        print(USAGE)
        return 0
    if command == 'keyboard':
        rest = keyboard_arguments(rest)
    refuse_variables()
    places = find_places()
    if command == 'doctor':
        from dex_rl_nodes.setup.doctor import examine

        return examine(places, rest)
    if command == 'setup' and rest:
        raise UserError(f'setup takes no arguments, not "{rest[0]}"')
    if not places.is_complete():
        set_up(places)
    if command == 'setup':
        print(f'dexrl: ready; environment {places.environment}')
        if places.distribution:
            site = next(places.environment.glob('lib/python3.*/site-packages'))
            print(f'for `ros2 launch` from a workspace of your own:\nexport PYTHONPATH="$PYTHONPATH:{site}"')
        return 0
    return hand_over(places, command, rest)


def main(arguments: list[str]) -> int:
    """Entry point of `./dexrl`."""
    # a closed terminal or a stopping service must end the set-up's programs too
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
            signal.signal(number, signal.default_int_handler)
    if sys.stdout is None:  # it was closed; what is opened next would become it
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w')
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f'dexrl: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has left, as with "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print('\ndexrl: stopped; the next call goes on from here', file=sys.stderr)
        return 130
    except OSError as error:
        print(f'dexrl: {refused_by_system(error)}', file=sys.stderr)
        return 2
