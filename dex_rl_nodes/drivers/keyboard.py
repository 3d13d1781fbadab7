"""The keys of a terminal, one by one, without Enter."""

import os
import select
import termios
import tty

from dex_rl_nodes.drivers.link import LinkLost
from dex_rl_nodes.errors import UserError


class Terminal:
    """A terminal whose keys are read as they are pressed. Ctrl-C stays an interrupt.

    From `begin` on keys come one by one; `close` puts the terminal back as it was.

    Args:
        descriptor: open file of the terminal.

    Raises:
        UserError: it is no terminal.
    """

    def __init__(self, descriptor: int = 0):
        self._descriptor = descriptor
        if not os.isatty(descriptor):
            raise UserError(
                'the keyboard node needs a terminal of its own; open another one and run: ./dexrl keyboard '
                '(or ros2 run dex_rl_nodes keyboard)'
            )
        self._before = termios.tcgetattr(descriptor)

    def begin(self) -> None:
        """Read keys from now on. Whoever calls it must call `close` however the process ends."""
        tty.setcbreak(self._descriptor, termios.TCSANOW)

    def read(self) -> str:
        """Keys pressed since the last call, oldest first. LinkLost when the terminal was closed."""
        keys = b''
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                found = os.read(self._descriptor, 64)
            except OSError as error:
                raise LinkLost(f'terminal: {error.strerror}') from None
            if not found:
                raise LinkLost('terminal: closed')
            keys += found
        return keys.decode('ascii', 'ignore')

    def close(self) -> None:
        """Put the terminal back as it was. May be called twice."""
        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
        except termios.error:
            pass  # it was closed: there is nothing to put back
