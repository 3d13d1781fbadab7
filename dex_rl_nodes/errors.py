"""Errors that a person can act on."""


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one sentence that names the thing and the next step. Commands and nodes print it
    without a traceback and exit with code 2.
    """


def refused_by_system(error: OSError) -> str:
    """One sentence for what the operating system did not let a command do: a full disk, a missing right."""
    return f'{error.filename or "the file system"}: {error.strerror or error}; free some space or fix its permissions'
