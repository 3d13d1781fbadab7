"""Pieces of work for the tests of the workers; in a file of its own, so that another process can import it."""

import os
import signal

from dex_rl_nodes.errors import UserError


def note(path, text, tell):
    """Append a text to a file."""
    tell(1, 1)
    with open(path, 'a') as file:
        file.write(text)
    return text.upper()


def refuse(tell):
    """Something a person has to do."""
    raise UserError('there is no spoon; bring one')


def stumble(tell):
    """A mistake in the program."""
    raise ZeroDivisionError('by nought')


def vanish(path, tell):
    """As when memory runs out; the file tells how often."""
    note(path, 'x', tell)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(tell):
    """As when somebody told this process to end."""
    raise SystemExit(130)


def vanish_once(path, tell):
    """Dies the first time only."""
    if not path.exists():
        vanish(path, tell)
    return note(path, 'again', tell)
