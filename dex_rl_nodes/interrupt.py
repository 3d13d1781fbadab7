"""Ctrl-C that meets one of our processes before it can handle it: kept, and delivered when it can."""

import signal


def hold() -> None:
    """Keep SIGINT; a program that is started now, in place of this one or beside it, does too, until `accept`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def accept() -> None:
    """Take SIGINT again, one that was kept at once: it is handled before this returns."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
