"""Glove and SpaceMouse: whether they answer, and whether what they say can be true."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dex_rl_nodes.drivers import glove
from dex_rl_nodes.drivers.devices import SpaceMouseReader, find_spacemouse
from dex_rl_nodes.drivers.hand import JOINTS
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.drivers.preflight.ports import GLOVE_SIDES, REPLY_TIMEOUT, look, usb_id
from dex_rl_nodes.drivers.settings import GloveDevice, SpaceMouseDevice
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding, refusal

_DAMAGED = 0.05  # share of damaged replies above which the cable is named
_ENOUGH = 0.9  # of the wanted rate
_BEYOND = 1.0  # spans outside of the calibration: another glove, or another person's calibration


@dataclass
class GloveSample:
    """Replies of a glove: valid counts (6,) of the driving channels, and how many were zeros, damaged or missing."""

    seconds: float = 0.0
    counts: list[np.ndarray] = field(default_factory=list)
    zeros: int = 0
    damaged: int = 0
    silent: int = 0


def check_glove(
    device: GloveDevice,
    side: str,
    file: str,
    seconds: float = 1.0,
    usb: Callable[[str], tuple[int, int] | None] = usb_id,
) -> Iterator[Finding]:
    """Everything about the glove.

    Args:
        device: its settings.
        side: `left` or `right`, of the hand.
        file: where they stand.
        seconds: how long it is asked.
        usb: USB ids of a port.
    """
    try:
        calibration = glove.Calibration(np.array(device.open), np.array(device.closed))
    except ValueError as error:
        yield Finding('bad', 'glove calibration', str(error).partition(';')[0], f'correct devices.glove in {file}')
        return
    baud, problem = look(device, 'glove', file)
    if problem:
        yield problem
        return
    try:
        sample = _sample(device, baud, seconds)
    except LinkLost as error:
        yield Finding('bad', 'glove', str(error), 'check its cable')
        return
    found = GLOVE_SIDES.get(usb(device.port) or (0, 0), side)
    if found != side:
        text = f'the USB id of {device.port} is that of a {found} glove, the hand is a {side} one'
        yield Finding('warning', 'glove side', text, f'set devices.glove.port or devices.side in {file}')
    yield from judge_glove(sample, device, calibration, file)


def _sample(device: GloveDevice, baud: int, seconds: float) -> GloveSample:
    sample = GloveSample()
    link = SerialLink(device.port, baud, REPLY_TIMEOUT)
    start = time.monotonic()
    try:
        while sample.seconds < seconds:
            link.discard_input()
            link.write(glove.encode_request(device.registers))
            data = link.read(glove.reply_length(device.registers))
            counts = glove.decode_reply(data, device.registers)
            if counts is None:
                sample.silent += not data
                sample.damaged += bool(data)
            elif not counts.any():
                sample.zeros += 1
            else:
                sample.counts.append(counts[list(device.channels)])
            sample.seconds = time.monotonic() - start
    finally:
        link.close()
    return sample


def judge_glove(
    sample: GloveSample, device: GloveDevice, calibration: glove.Calibration, file: str
) -> Iterator[Finding]:
    """What a sample means."""
    if not sample.counts:
        text = f'answers on {device.port}, but only zeros' if sample.zeros else f'{device.port} fell silent'
        yield Finding('bad', 'glove', text, 'its sensors have not started: unplug it and plug it in again')
        return
    rate = len(sample.counts) / max(sample.seconds, 1e-6)
    text = f'{device.port}, {rate:.0f} replies per second'
    if rate < _ENOUGH * device.rate:
        fix = f'check its cable, or lower devices.glove.rate in {file}'
        yield Finding('warning', 'glove', f'{text}, {device.rate:g} are wanted', fix)
    else:
        yield Finding('good', 'glove', text)
    total = len(sample.counts) + sample.zeros + sample.damaged + sample.silent
    if sample.damaged > _DAMAGED * total:
        text = f'{sample.damaged} of {total} replies were damaged'
        yield Finding('bad', 'glove', text, 'use another cable or USB port')
    yield _judge_calibration(np.median(sample.counts, axis=0), calibration)


def _judge_calibration(counts: np.ndarray, calibration: glove.Calibration) -> Finding:
    low, high = np.asarray(calibration.open, float), np.asarray(calibration.closed, float)
    travel = (counts - low) / (high - low)
    off = [index for index, value in enumerate(travel) if not -_BEYOND <= value <= 1 + _BEYOND]
    if not off:
        where = ', '.join(f'{value:.2f}' for value in np.clip(travel, 0, 1))
        return Finding('good', 'glove calibration', f'open hand 0, fist 1: {where}')
    index = off[0]
    text = (
        f'{JOINTS[index]} reads {counts[index]:.0f} counts, calibrated are {low[index]:.0f} to {high[index]:.0f}: '
        'a glove of the other side, or the calibration of somebody else'
    )
    return Finding('bad', 'glove calibration', text, 'calibrate: glove_driver/calibrate_open and calibrate_fist')


def check_spacemouse(device: SpaceMouseDevice, dead_zone: float, seconds: float = 0.3) -> Iterator[Finding]:
    """Whether a SpaceMouse can be read, and rests while nobody touches it."""
    try:
        path, model = (device.path, 'SpaceMouse') if device.path else find_spacemouse()
        reader = SpaceMouseReader(path)
    except UserError as error:
        yield refusal('SpaceMouse', error)
        return
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = reader.read()
            time.sleep(0.01)
    except LinkLost as error:
        yield Finding('bad', 'SpaceMouse', str(error), 'check its cable or battery')
        return
    finally:
        reader.close()
    largest = int(np.argmax(np.abs(state.axes)))
    if abs(state.axes[largest]) > dead_zone:
        text = f'axis {largest + 1} reads {state.axes[largest]:+.2f} while it should rest'
        yield Finding('bad', 'SpaceMouse', text, 'let go of the cap; if it stays, unplug it and plug it in again')
    else:
        yield Finding('good', 'SpaceMouse', f'{model} on {path}, at rest')
