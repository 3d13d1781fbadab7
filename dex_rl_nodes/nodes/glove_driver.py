"""The glove: finger positions of the operator in [0, 1]. Silent while the glove is."""

import time
from typing import Any

import numpy as np

from dex_rl_nodes.descriptions import GLOVE
from dex_rl_nodes.drivers.devices import GloveReader, Reconnecting
from dex_rl_nodes.drivers.glove import Calibration, Smoother
from dex_rl_nodes.drivers.hand import JOINTS
from dex_rl_nodes.drivers.settings import device_settings
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions
from dex_rl_nodes.nodes.main import run_node
from dex_rl_nodes.nodes.node import ERROR, Node

_SILENT = 'the glove has not answered for long enough; check its cable and try again'
_CALIBRATION_SAMPLES = 30
_GAP = 0.1  # s between two samples that are not averaged


class GloveDriver(Node):
    """Polls the glove and publishes calibrated, smoothed finger positions."""

    def __init__(self, **options: Any) -> None:
        super().__init__('glove_driver', **options)
        settings = device_settings(self.robot).glove
        try:
            self._calibration = Calibration(np.array(settings.open), np.array(settings.closed))
        except ValueError as error:
            raise UserError(f'config/robots/{self.robot.name}.yaml: devices.glove: {error}') from None
        port = self.setting('port') or settings.port
        self._glove = Reconnecting(
            lambda: GloveReader(port, settings.baud, settings.registers, tuple(settings.channels))
        )
        self._smoother = Smoother(settings.window, settings.largest_step)
        self._recent: list[np.ndarray] = []
        self._open: np.ndarray | None = None
        self._published = 0
        self._read_at = -np.inf
        self.serve('glove_driver/calibrate_open', self._calibrate_open)
        self.serve('glove_driver/calibrate_fist', self._calibrate_fist)
        self.advertise(GLOVE)
        self.create_timer(1 / settings.rate, self._poll)

    def _poll(self) -> None:
        asked = time.monotonic()
        counts = self._glove.read()
        stamp = self.get_clock().now().nanoseconds
        if counts is None or time.monotonic() - asked > _GAP:  # a late answer says where the fingers were
            self._smoother.reset()
            self._recent.clear()
            return
        self._recent = [*self._recent[-_CALIBRATION_SAMPLES + 1 :], counts]
        now = time.monotonic()
        if now - self._read_at > _GAP:
            self._smoother.reset()  # old samples would say where the fingers were
        self._read_at = now
        fingers = self._smoother.update(self._calibration.normalise(counts))
        self._published += 1
        self.publish(GLOVE, conversions.joint_state(JOINTS, fingers, stamp))

    def _mean(self) -> np.ndarray | None:
        return np.mean(self._recent, axis=0) if len(self._recent) == _CALIBRATION_SAMPLES else None

    def _calibrate_open(self, _request: Any, response: Any) -> Any:
        self._open = self._mean()
        response.success = self._open is not None
        taken = 'open hand taken; now make a fist and call glove_driver/calibrate_fist'
        response.message = taken if response.success else _SILENT
        return response

    def _calibrate_fist(self, _request: Any, response: Any) -> Any:
        closed = self._mean()
        if self._open is None or closed is None:
            first = 'open your hand and call glove_driver/calibrate_open first'
            response.message = first if self._open is None else _SILENT
            return response
        try:
            self._calibration = Calibration(self._open, closed)
        except ValueError as error:
            response.message = str(error)
            return response
        response.success = True
        response.message = (
            f'calibrated; to keep it, put into config/robots/{self.robot.name}.yaml: '
            f'open: {np.rint(self._open).astype(int).tolist()}, closed: {np.rint(closed).astype(int).tolist()}'
        )
        return response

    def diagnose(self) -> None:
        """Rate and reconnections."""
        rate, self._published = self._published, 0
        values = {'rate (Hz)': float(rate), 'reconnections': max(self._glove.reconnections, 0)}
        reader = self._glove.device
        values['replies refused'] = reader.rejected if reader else 0  # since it was opened
        if rate:
            self.report('glove', **values)
        else:
            self.report('glove', ERROR, reader.problem if reader else self._glove.problem or 'not read yet', **values)

    def close(self) -> None:
        """Give the port back."""
        self._glove.close()


def main() -> None:
    """Entry point."""
    run_node(GloveDriver)


if __name__ == '__main__':
    main()
