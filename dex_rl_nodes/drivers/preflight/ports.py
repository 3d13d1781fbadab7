"""What answers on a serial port: every device of this package is asked for a reading in its own protocol."""

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serial.tools import list_ports

from dex_rl_nodes.drivers import glove, inspire, ruiyan
from dex_rl_nodes.drivers.link import LinkLost, SerialLink
from dex_rl_nodes.drivers.settings import GloveDevice, HandDevice
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.findings import Finding, refusal

REPLY_TIMEOUT = 0.02  # s
INSPIRE_IDS = (1, 2, 3)  # as hands leave the factory; a left one beside a right one has another
_TRIES = 2
GLOVE_SIDES = {(0x0483, 0x5739): 'left', (0x0483, 0x5740): 'right'}  # USB ids of one laboratory's gloves


@dataclass(frozen=True)
class Kind:
    """A device by what it answers: `requests` are all asked, one valid reply is enough."""

    name: str
    bauds: tuple[int, ...]
    requests: tuple[bytes, ...]
    recognises: Callable[[bytes], bool]


def hand_kind(model: str, hand_id: int = 1) -> Kind:
    """A hand; of a Ruiyan every motor is asked, for the first may be the missing one."""
    if model == 'ruiyan':
        requests = tuple(ruiyan.encode_read(motor) for motor in ruiyan.MOTORS)
        return Kind('a Ruiyan hand', ruiyan.BAUD_RATES, requests, lambda data: bool(ruiyan.ReplyParser().feed(data)))
    request = inspire.encode_read(hand_id, inspire.ANGLE_ACTUAL, 12)
    return Kind(
        f'an Inspire hand with id {hand_id}',
        inspire.BAUD_RATES,
        (request,),
        lambda data: any(reply.hand == hand_id for reply in inspire.ReplyParser().feed(data)),
    )


def glove_kind(registers: int, baud: int = 115200) -> Kind:
    """A glove of a generation."""
    return Kind(
        f'a glove with {registers} registers',
        tuple(dict.fromkeys((baud, 115200, 500000))),
        (glove.encode_request(registers),),
        lambda data: glove.decode_reply(data, registers) is not None,
    )


KINDS = (
    hand_kind('ruiyan'),
    *(hand_kind('inspire', hand_id) for hand_id in INSPIRE_IDS),
    *(glove_kind(registers) for registers in glove.GENERATIONS.values()),
)


def find(port: str, kinds: Iterable[Kind], bauds: tuple[int, ...] = ()) -> tuple[Kind, int] | None:
    """The first kind that answers on a port, and at which baud rate; `bauds` instead of those of the kind.

    Raises:
        UserError: the port cannot be opened.
        LinkLost: it went away meanwhile.
    """
    for kind in kinds:
        for baud in bauds or kind.bauds:
            link = SerialLink(port, baud, REPLY_TIMEOUT)
            try:
                if any(_answers(link, request, kind.recognises) for request in kind.requests * _TRIES):
                    return kind, baud
            finally:
                link.close()
    return None


def _answers(link: SerialLink, request: bytes, recognises: Callable[[bytes], bool]) -> bool:
    link.discard_input()
    link.write(request)
    return recognises(link.read(64))


def look(device: HandDevice | GloveDevice, name: str, file: str) -> tuple[int, Finding | None]:
    """Open the port of a device and see whether the device that is configured answers there.

    Args:
        device: settings of the hand or glove.
        name: `hand` or `glove`, as in `devices:`.
        file: the configuration, to be named in a fix.

    Returns:
        Its baud rate and None, or 0 and what is wrong.
    """
    wanted = (
        hand_kind(device.model, device.hand_id)
        if isinstance(device, HandDevice)
        else glove_kind(device.registers, device.baud)
    )
    configured = (device.baud,) if device.baud else wanted.bauds
    try:
        if found := find(device.port, [wanted], configured):
            return found[1], None
        others = [kind for kind in KINDS if kind.name != wanted.name]
        return 0, _explain(name, file, device, wanted, find(device.port, [wanted, *others]))
    except UserError as error:
        finding = refusal(name, error)
        if 'does not exist' in finding.text:
            present = ', '.join(sorted(glob.glob('/dev/ttyUSB*') + glob.glob('/dev/ttyACM*'))) or 'none'
            fix = f'plug it in, or set devices.{name}.port in {file} (serial ports now: {present})'
            return 0, Finding('bad', name, finding.text, fix)
        return 0, finding
    except LinkLost as error:
        return 0, Finding('bad', name, str(error), 'check its cable')


def _explain(
    name: str, file: str, device: HandDevice | GloveDevice, wanted: Kind, found: tuple[Kind, int] | None
) -> Finding:
    if found is None:
        tried = device.baud or ', '.join(str(baud) for baud in wanted.bauds)
        text = f'nothing answers on {device.port} as {wanted.name} at {tried} baud'
        return Finding('bad', name, text, f'check its power and cable, and devices.{name} in {file}')
    kind, baud = found
    if kind.name == wanted.name:
        text = f'{kind.name} answers on {device.port} at {baud} baud, not at {device.baud}'
        return Finding('bad', name, text, f'set devices.{name}.baud: {baud} in {file}')
    text = f'{kind.name} answers on {device.port}, not {wanted.name}'
    fix = f'set devices.{name}.port in {file} to the right port'
    if ' hand' in kind.name and ' hand' in wanted.name:
        fix = f'is it the hand of the other side or another model? else correct devices.{name} in {file}'
    elif 'glove' in kind.name and 'glove' in wanted.name:
        fix = f'set devices.{name}.registers in {file}, and its channels if they stand there; then calibrate it'
    return Finding('bad', name, text, fix)


def usb_id(port: str) -> tuple[int, int] | None:
    """USB vendor and product id of a serial port; None when it has none."""
    for info in list_ports.comports(include_links=True):
        if info.device == port and info.vid is not None:
            return info.vid, info.pid
    return None
