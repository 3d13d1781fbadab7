"""Safety events: a number, a name, what it means and what to do next. Counted on /diagnostics and written to the bag."""

from collections import Counter
from enum import Enum, IntEnum


class Reaction(IntEnum):
    """What the command mux does about an event, from mild to severe."""

    WARN = 0  # counts it
    LIMIT = 1  # executes the nearest permitted target instead
    REFUSE = 2  # ignores the message; no tick is executed
    HOLD = 3  # does not move in this tick, or for as long as the cause lasts
    STOP = 4  # does not move until somebody resets the stop


class SafetyEvent(Enum):
    """Every kind of event: number, reaction, what happened, what to do."""

    COMMAND_NOT_FINITE = (
        101,
        Reaction.HOLD,
        'a command holds NaN or infinity',
        'look at the loss curves and the newest checkpoint',
    )
    COMMAND_WRONG_SIZE = (
        102,
        Reaction.HOLD,
        'a command has the wrong number of values',
        'rebuild, all nodes must have one version',
    )
    COMMAND_IMPLAUSIBLE = (
        103,
        Reaction.HOLD,
        'a command is far beyond any legal value',
        'check units and action scale of its sender',
    )
    COMMAND_OUT_OF_RANGE = 104, Reaction.LIMIT, 'a command is beyond its range', 'nothing, if rare; it is clipped'
    COMMAND_REPEATED = 111, Reaction.REFUSE, 'a command came twice', 'look for two policies or decoders'
    COMMAND_OUT_OF_ORDER = (
        112,
        Reaction.REFUSE,
        'a command is older than the one before',
        'look for two policies or a clock set back',
    )
    COMMAND_STALE = (
        113,
        Reaction.HOLD,
        'a command is older than two control periods',
        'see why the policy is late: load, network',
    )
    COMMAND_FROM_FUTURE = (
        114,
        Reaction.REFUSE,
        'a command is stamped in the future',
        'synchronise the clocks of the machines',
    )
    COMMAND_BURST = (
        115,
        Reaction.HOLD,
        'two commands came within half a control period',
        'see why the policy is irregular',
    )
    COMMAND_SILENT = (
        116,
        Reaction.HOLD,
        'no valid command for two control periods',
        'see whether policy and decoder run',
    )
    CLOCK_JUMP = 117, Reaction.HOLD, 'the clock jumped', 'synchronise clocks before starting, slew instead of stepping'
    TELEOP_INVALID = (
        121,
        Reaction.WARN,
        'a teleop command is malformed and was ignored',
        'check the SpaceMouse and glove drivers',
    )
    TELEOP_SILENT = (
        122,
        Reaction.HOLD,
        'teleop fell silent while a person was in control',
        'check the teleop node and its devices',
    )
    STEP_LIMIT = 201, Reaction.LIMIT, 'the TCP target would move too fast', 'nothing; it is slowed down'
    ACCELERATION_LIMIT = 202, Reaction.LIMIT, 'the TCP target would accelerate too fast', 'nothing; it is slowed down'
    WORKSPACE_BOX = (
        203,
        Reaction.LIMIT,
        'the TCP target would leave the workspace box',
        'nothing, or widen the box of the task',
    )
    TABLE_PLANE = (
        204,
        Reaction.LIMIT,
        'the TCP target would come too near to the table',
        'nothing, or correct the table height',
    )
    LEASH = 205, Reaction.LIMIT, 'the TCP target would run away from the measured pose', 'see what blocks the arm'
    JOINT_LIMIT = (
        206,
        Reaction.LIMIT,
        'a joint would exceed its position or velocity limit',
        'start from another posture',
    )
    JOINTS_UNKNOWN = (
        207,
        Reaction.WARN,
        'no joint positions, joint limits not checked',
        'see measured_joint_states of the arm',
    )
    HAND_RANGE = 211, Reaction.LIMIT, 'a hand target is beyond its range', 'nothing, or correct the range of that motor'
    HAND_STEP = 212, Reaction.LIMIT, 'a hand target would move too fast', 'nothing; it is slowed down'
    HAND_CURRENT = (
        213,
        Reaction.LIMIT,
        'a motor draws too much current and may only move back',
        'see what the finger pushes against',
    )
    CAMERA_SILENT = (
        301,
        Reaction.HOLD,
        'a camera sends no frames',
        'check its cable; motion resumes with the next frame',
    )
    CAMERA_FROZEN = (
        302,
        Reaction.HOLD,
        'a camera repeats the same frame',
        'restart that camera; motion resumes with a new frame',
    )
    ARM_SILENT = (
        303,
        Reaction.HOLD,
        'the arm does not report',
        'check the arm and its network; motion resumes when it reports',
    )
    HAND_SILENT = (
        304,
        Reaction.HOLD,
        'the hand does not reply',
        'check its cable and power; motion resumes when it replies',
    )
    READING_INVALID = (
        305,
        Reaction.HOLD,
        'arm or hand report impossible values',
        'check the driver of the one that is named',
    )
    LEARNER_SILENT = (
        401,
        Reaction.WARN,
        'the learner says nothing',
        'see its log; the robot goes on with the last weights',
    )
    SECOND_PUBLISHER = (
        501,
        Reaction.STOP,
        'somebody else publishes commands to the robot',
        'end that process, then reset the stop',
    )
    HARDWARE_ERROR = 502, Reaction.STOP, 'a device reports an error', 'clear it on the device, then reset the stop'
    OPERATOR_STOP = 503, Reaction.STOP, 'a person stopped the robot', 'reset the stop when it is safe'

    def __init__(self, number: int, reaction: Reaction, explanation: str, advice: str):
        self.number = number
        self.reaction = reaction
        self.explanation = explanation
        self.advice = advice

    def sentence(self, detail: str = '') -> str:
        """One sentence for a person: number, what happened to which thing, and the next step."""
        what = f'{self.explanation} ({detail})' if detail else self.explanation
        return f'safety event {self.number}: {what}; {self.advice}'


class EventLog:
    """Counts events and keeps the latest detail of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[SafetyEvent] = Counter()
        self.details: dict[SafetyEvent, str] = {}

    def add(self, event: SafetyEvent, detail: str = '') -> None:
        """Count one event; the detail names the thing: a camera, a motor, a topic."""
        self.counts[event] += 1
        if detail:
            self.details[event] = detail

    def summary(self) -> dict[str, str]:
        """What /diagnostics shows: '<number> <name>' -> count, with the latest detail."""
        return {
            f'{event.number} {event.name.lower()}': f'{count}'
            + (f' ({self.details[event]})' if event in self.details else '')
            for event, count in sorted(self.counts.items(), key=lambda item: item[0].number)
        }
