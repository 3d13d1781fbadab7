"""The hand: port, protocol, model, motors, rate, faults. It is asked, never commanded."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from dex_rl_nodes.drivers import inspire, ruiyan
from dex_rl_nodes.drivers.hand import JOINTS
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.drivers.preflight.ports import REPLY_TIMEOUT, look
from dex_rl_nodes.drivers.settings import HandDevice
from dex_rl_nodes.findings import Finding

_ANSWERED = 0.9  # share of the cycles in which a motor must answer
_BEYOND = 7  # a hand of this model has no such motor


@dataclass
class HandSample:
    """What a hand said in some time: cycles, and per motor the replies, the last position and all faults."""

    seconds: float = 0.0
    cycles: int = 0
    replies: list[int] = field(default_factory=lambda: [0] * 6)
    positions: list[float] = field(default_factory=lambda: [float('nan')] * 6)  # normalised travel
    faults: dict[str, str] = field(default_factory=dict)  # joint to fault
    warnings: dict[str, str] = field(default_factory=dict)
    more_motors: bool = False  # a motor answers that this model does not have


def check_hand(device: HandDevice, file: str, seconds: float = 1.0) -> Iterator[Finding]:
    """Everything about the hand.

    Args:
        device: its settings.
        file: where they stand.
        seconds: how long it is asked.
    """
    baud, problem = look(device, 'hand', file)
    if problem:
        yield problem
        return
    try:
        link = SerialLink(device.port, baud, REPLY_TIMEOUT)
        try:
            sample = (_sample_ruiyan if device.model == 'ruiyan' else _sample_inspire)(link, device, seconds)
        finally:
            link.close()
    except LinkLost as error:
        yield Finding('bad', 'hand', str(error), 'check its cable')
        return
    yield Finding('good', 'hand', f'{device.model} on {device.port} at {baud} baud')
    yield from judge_hand(sample, device, baud, file)


def _sample_ruiyan(link: SerialLink, device: HandDevice, seconds: float) -> HandSample:
    sample = HandSample()
    start = time.monotonic()
    while sample.seconds < seconds:
        sample.cycles += 1
        for index, motor in enumerate(ruiyan.MOTORS):
            link.discard_input()
            link.write(ruiyan.encode_read(motor))
            data = link.read(ruiyan.FRAME_LENGTH)
            # an adapter with echo gives the request first
            data += link.read(ruiyan.FRAME_LENGTH) if data == ruiyan.encode_read(motor) else b''
            for reply in ruiyan.ReplyParser().feed(data):
                if reply.motor == motor:
                    sample.replies[index] += 1
                    sample.positions[index] = reply.position / ruiyan.FULL_TRAVEL
                    _note(sample, JOINTS[index], reply.status)
        sample.seconds = time.monotonic() - start
    link.discard_input()
    link.write(ruiyan.encode_read(_BEYOND))
    sample.more_motors = _is_reply_of(_BEYOND, link.read(2 * ruiyan.FRAME_LENGTH))
    return sample


def _note(sample: HandSample, joint: str, status: int) -> None:
    if status in ruiyan.FAULTS:
        sample.faults[joint] = ruiyan.FAULTS[status]
    elif status in ruiyan.WARNINGS:
        sample.warnings[joint] = ruiyan.WARNINGS[status]


def _is_reply_of(motor: int, data: bytes) -> bool:
    start = data.find(bytes((ruiyan.HEADER, motor, 1, 8)))
    frame = data[start : start + ruiyan.FRAME_LENGTH]
    return start >= 0 and len(frame) == ruiyan.FRAME_LENGTH and sum(frame[:-1]) & 0xFF == frame[-1]


def _sample_inspire(link: SerialLink, device: HandDevice, seconds: float) -> HandSample:
    sample = HandSample()
    start = time.monotonic()
    while sample.seconds < seconds:
        sample.cycles += 1
        angles = _ask_inspire(link, device.hand_id, inspire.ANGLE_ACTUAL, 12)
        for index, position in enumerate(inspire.travel_from_angles(inspire.words(angles))):
            sample.replies[index] += 1
            sample.positions[index] = position
        for index, bits in enumerate(reversed(_ask_inspire(link, device.hand_id, inspire.ERROR, 6))):
            if bits:
                named = [text for bit, text in inspire.ERRORS.items() if bits >> bit & 1]
                sample.faults[JOINTS[index]] = ', '.join(named)
        sample.seconds = time.monotonic() - start
    return sample


def _ask_inspire(link: SerialLink, hand_id: int, address: int, count: int) -> bytes:
    link.discard_input()
    link.write(inspire.encode_read(hand_id, address, count))
    for reply in inspire.ReplyParser().feed(link.read(inspire.REPLY_OVERHEAD + count)):
        if reply.hand == hand_id and reply.address == address and len(reply.data) == count:
            return reply.data
    return b''


def judge_hand(sample: HandSample, device: HandDevice, baud: int, file: str) -> Iterator[Finding]:
    """What a sample means."""
    silent = [joint for joint, count in zip(JOINTS, sample.replies) if not count]
    flaky = [joint for joint, count in zip(JOINTS, sample.replies) if 0 < count < _ANSWERED * sample.cycles]
    if silent:
        text = f'no answer from motor {", ".join(silent)}'
        yield Finding('bad', 'hand motors', text, 'check its cable and its id')
    elif flaky:
        text = f'motor {", ".join(flaky)} answers only now and then'
        yield Finding('bad', 'hand motors', text, 'check the cable, its shield and the termination of the bus')
    else:
        where = ', '.join(f'{position:.2f}' for position in sample.positions)
        yield Finding('good', 'hand motors', f'six answer; normalised travel {where}')
    if sample.more_motors:
        text = f'motor {_BEYOND} answers too: this is a hand with more than six motors (RY-H1 has 16)'
        yield Finding('bad', 'hand model', text, 'this driver moves six-motor hands (RH6, RY-H2)')
    out = [joint for joint, value in zip(JOINTS, sample.positions) if value < -0.02 or value > 1.02]
    if out:
        text = f'{", ".join(out)} is outside of its travel: the registers mean something else in this model'
        yield Finding('bad', 'hand model', text, f'check devices.hand.model in {file}; RH56F1 is not supported')
    for joint, fault in sample.faults.items():
        yield Finding('bad', 'hand fault', f'{joint}: {fault}', 'free the finger, switch the hand off and on')
    for joint, warning in sample.warnings.items():
        yield Finding('warning', 'hand fault', f'{joint}: {warning}', 'let it cool down')
    if not silent:
        yield _judge_rate(sample, device, baud, file)


def _judge_rate(sample: HandSample, device: HandDevice, baud: int, file: str) -> Finding:
    rate = sample.cycles / max(sample.seconds, 1e-6)
    text = f'{rate:.0f} exchanges per second at {baud} baud'
    if rate >= _ANSWERED * device.rate:
        return Finding('good', 'hand rate', text)
    fix = f'set devices.hand.rate in {file} to what the bus gives'
    if device.model == 'ruiyan' and baud < 460800:
        fix = f'set the hand to 460800 baud, or devices.hand.rate in {file} to what the bus gives'
    return Finding('warning', 'hand rate', f'{text}, {device.rate:g} are wanted', fix)
