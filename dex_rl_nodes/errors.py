"""Errors that a person can act on."""

import errno


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one sentence that names the thing and the next step. Commands and nodes print it
    without a traceback and exit with code 2.
    """


_REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), 'free some space'),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), 'fix its permissions'),
}
_NO_FOLDER = 'free some space or fix its permissions'  # no folder for temporary files could be written


def next_step(error: OSError, otherwise: str) -> str:
    """What a person can do about what the operating system refused; `otherwise` where only that is left."""
    return _REFUSALS.get(error.errno, otherwise)


def refused_by_system(error: OSError) -> str:
    """One sentence for what the operating system did not let a command do; raises again what a person cannot mend."""
    step = _NO_FOLDER if error.errno == errno.ENOENT and not error.filename else _REFUSALS.get(error.errno)
    if step is None:
        raise error
    return f'{error.filename or "the file system"}: {error.strerror}; {step}'
