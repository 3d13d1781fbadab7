"""Errors that a person can act on."""


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one sentence that names the thing and the next step. Commands and nodes print it
    without a traceback and exit with code 2.
    """
