"""The main function of every node: a clean start, its callbacks, and a clean stop whatever asks for it.

A node that needs PyTorch imports it when it is made, not when its module is: from then on Ctrl-C is handled.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes.node import Node
from dex_rl_nodes.sole_graph import domain_of

_STOP_PERIOD = 0.1  # s; a signal is noticed within
_STUCK = 4.2  # s after a signal; just before it is killed, a node that has not ended says where it stands
_ONCE = 0.5  # s in which two SIGINT are one Ctrl-C
_INSIST = 0.25  # s until a node that is still being made is stopped again: libraries in C swallow exceptions
_GOODBYE = 2.0  # s for the middleware to say that a node goes, once everything is written


class _Stop(BaseException):
    """Stop at once: the node is still being made, or it was asked twice."""


def make_executor() -> Any:
    """The executor with the least work per message: the one driven by events, which Jazzy and newer have."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def spin(node: Node, stopping: Callable[[], bool]) -> None:
    """Run the callbacks of a node until it is finished or `stopping` says so; raises what the node failed with."""
    executor = make_executor()
    executor.add_node(node)
    try:
        while not (stopping() or node.finished):
            executor.spin_once(timeout_sec=_STOP_PERIOD)
        if node.failure:
            raise node.failure
    finally:
        executor.remove_node(node)
        executor.shutdown()


def _init_ros() -> None:
    """Read domain and arguments of ROS; UserError says what it does not accept."""
    domain_of(os.environ)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # what rcl could not parse, and where in its own source that was
        what = str(error).partition(', at /')[0].removeprefix('failed to initialize rcl: ')
        raise UserError(f'ROS does not accept what stands after --ros-args: {what}') from None


def _say_goodbye(node: Node | None, code: int) -> None:
    """End the process, which peers hear of; soon and with its code also where the middleware hangs while it goes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is going
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    watch = threading.Timer(_GOODBYE, os._exit, [code])
    watch.daemon = True
    watch.start()
    signal.setitimer(signal.ITIMER_REAL, _GOODBYE + 0.5)  # the timer cannot run where Python's lock is kept
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    # All is closed. Tearing down an interpreter with PyTorch in it would take seconds on a busy machine.
    os._exit(code)


def run_node(node_class: Callable[[], Node]) -> None:
    """Main function of every node.

    Ends with code 0 on SIGINT, SIGTERM, SIGHUP and `finish()`, with code 2 and one sentence on a `UserError`.
    The context stays valid while the node closes, so that it can say good-bye.
    """
    stop_requests, asked_at = 0, 0.0
    closing = False
    node = None

    def request_stop(number: int, _frame: Any) -> None:
        nonlocal stop_requests, asked_at
        stop_requests += 1
        asked_at = asked_at or time.monotonic()
        faulthandler.dump_traceback_later(_STUCK)
        # SIGTERM comes from `launch` after a while and shall not cut off what is being written; SIGHUP comes twice, and
        # so does a Ctrl-C that terminal and launch both tell
        again = time.monotonic() - asked_at > _ONCE
        insists = (number == signal.SIGINT and again) or (number == signal.SIGTERM and not closing)
        if node is None:
            signal.setitimer(signal.ITIMER_REAL, _INSIST, _INSIST)
            insist()
        elif stop_requests > 1 and insists:
            raise _Stop

    def insist(*_: Any) -> None:
        if node is None and not closing:
            raise _Stop
        signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, insist)
    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # the terminal was closed; with nohup nobody minds
        signal.signal(signal.SIGHUP, request_stop)
    code = 0
    try:
        try:
            _init_ros()
            node = node_class()
            node.made()
            spin(node, stopping=lambda: stop_requests > 0)
        finally:
            closing = True
            if node is not None:
                node.close()
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except _Stop:
        pass
    except Exception as error:
        # a library in C that was stopped while it was loaded has a word of its own for that
        if not (stop_requests and (node is None or isinstance(error, ImportError))):
            traceback.print_exc()
            code = 1
    _say_goodbye(node, code)
