"""Serial ports that may be absent, forbidden or pulled out."""

import errno
import os
import termios

import serial

from dex_rl_nodes.errors import UserError

# What pyserial lets through when a device goes away in the middle of a call.
_GONE = (serial.SerialException, OSError, TypeError, termios.error)


class LinkLost(Exception):
    """The device went away; opening it again may help."""


class SerialLink:
    """One exclusive serial port, 8N1.

    Args:
        port: device path, better a stable name from a udev rule than ttyUSB0.
        baud: bits per second.
        timeout: how long a read waits for bytes (s).
    """

    def __init__(self, port: str, baud: int, timeout: float):
        self.port = port
        self.baud = baud
        try:
            self._serial = serial.Serial(port, baud, timeout=timeout, write_timeout=0.1, exclusive=True)
        except _GONE as error:  # a plug that bounces can fail each of the calls behind an open
            raise _explain(port, error) from None

    def write(self, data: bytes) -> None:
        """Send bytes; LinkLost when the device is gone."""
        try:
            self._serial.write(data)
        except _GONE as error:
            raise LinkLost(f'{self.port}: {error}') from None

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer after the timeout; LinkLost when the device is gone."""
        try:
            return self._serial.read(count)
        except _GONE as error:
            raise LinkLost(f'{self.port}: {error}') from None

    def discard_input(self) -> None:
        """Throw away what was received and not read."""
        try:
            self._serial.reset_input_buffer()
        except _GONE as error:
            raise LinkLost(f'{self.port}: {error}') from None

    def close(self) -> None:
        """Give the port back."""
        try:
            self._serial.close()
        except _GONE:
            pass  # it is gone already


def no_permission(path: str) -> str:
    """What to do where the system lets nobody of this user's groups open a device."""
    return (
        f'no permission to open {path}; copy config/udev/99-dex-rl-nodes.rules to /etc/udev/rules.d/, join its groups '
        '(sudo usermod -aG dialout,plugdev $USER), log in again, and plug the device in again'
    )


def _explain(port: str, error: Exception) -> UserError:
    code = getattr(error, 'errno', None)
    if code == errno.ENOENT or not os.path.exists(port):
        return UserError(f'{port} does not exist; check the cable, or set the port of this device in config/robots/')
    if code == errno.EACCES or not os.access(port, os.R_OK | os.W_OK):
        return UserError(no_permission(port))
    if 'exclusively' in str(error) or code in (errno.EBUSY, errno.EAGAIN):
        return UserError(f'{port} is in use by another program; stop that program first')
    return UserError(f'cannot open {port}: {error}')
