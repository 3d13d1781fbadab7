"""Safety events: a number, a name, what it means, what to do next. Counted on /diagnostics and so in the bag."""

from collections import Counter
from enum import Enum, IntEnum


class Reaction(IntEnum):
    """What the command mux does about an event, from mild to severe."""

    WARN = 0  # counts it
    LIMIT = 1  # executes the nearest permitted target instead
    REFUSE = 2  # ignores the message; no tick is executed
    HOLD = 3  # does not move in this tick, or for as long as the cause lasts
    STOP = 4  # does not move until somebody resets the stop


_WARN, _LIMIT, _REFUSE, _HOLD, _STOP = Reaction


class SafetyEvent(Enum):
    """Every kind of event: number, reaction, what happened, what to do."""

    # fmt: off
    COMMAND_NOT_FINITE = 101, _HOLD, 'a command holds NaN or infinity', 'look at the loss curves and the checkpoint'
    COMMAND_WRONG_SIZE = 102, _HOLD, 'a command has the wrong size', 'rebuild: all nodes must have one version'
    COMMAND_IMPLAUSIBLE = 103, _HOLD, 'a command is far beyond any legal value', 'check units and scale of its sender'
    COMMAND_OUT_OF_RANGE = 104, _LIMIT, 'a command is beyond its range', 'nothing, if rare; it is clipped'
    COMMAND_REPEATED = 111, _REFUSE, 'a command came twice', 'look for two policies or decoders'
    COMMAND_OUT_OF_ORDER = 112, _REFUSE, 'a command is older than the last', 'look for two policies or a clock set back'
    COMMAND_STALE = 113, _HOLD, 'a command is over two periods old', 'see why the policy is late: load, network'
    COMMAND_FROM_FUTURE = 114, _REFUSE, 'a command is from the future', 'synchronise the clocks of the machines'
    COMMAND_BURST = 115, _HOLD, 'commands come too fast', 'see why the policy is irregular'
    COMMAND_SILENT = 116, _HOLD, 'no valid command for two periods', 'see whether policy and decoder run'
    CLOCK_JUMP = 117, _HOLD, 'the clock jumped', 'synchronise clocks before starting'
    TELEOP_INVALID = 121, _WARN, 'a teleop command is malformed', 'check the SpaceMouse and glove drivers'
    TELEOP_SILENT = 122, _HOLD, 'teleop fell silent', 'check teleop and its devices'
    STEP_LIMIT = 201, _LIMIT, 'the TCP would move too fast', 'nothing; it is slowed down'
    ACCELERATION_LIMIT = 202, _LIMIT, 'the TCP would accelerate too fast', 'nothing; it is slowed down'
    WORKSPACE_BOX = 203, _LIMIT, 'the TCP would leave the workspace', 'nothing, or widen the box of the task'
    TABLE_PLANE = 204, _LIMIT, 'the TCP would come near the table', 'nothing, or correct the table height'
    LEASH = 205, _LIMIT, 'the target would leave the measured pose', 'see what blocks the arm'
    JOINT_LIMIT = 206, _LIMIT, 'a joint would exceed its limits', 'start from another posture'
    JOINTS_UNKNOWN = 207, _WARN, 'joint limits are not checked', 'see measured_joint_states of the arm'
    HAND_RANGE = 211, _LIMIT, 'a hand target is beyond its range', 'nothing, or correct the range of the motor'
    HAND_STEP = 212, _LIMIT, 'a hand target would move too fast', 'nothing; it is slowed down'
    HAND_CURRENT = 213, _LIMIT, 'a motor draws too much current', 'see what the finger pushes against'
    CAMERA_SILENT = 301, _HOLD, 'a camera sends no frames', 'check its cable; motion resumes with a frame'
    CAMERA_FROZEN = 302, _HOLD, 'a camera repeats the same frame', 'restart it; motion resumes with a new frame'
    ARM_SILENT = 303, _HOLD, 'the arm does not report', 'check its network; motion resumes by itself'
    HAND_SILENT = 304, _HOLD, 'the hand does not reply', 'check cable and power; motion resumes by itself'
    READING_INVALID = 305, _HOLD, 'a report from the robot is impossible', 'check the driver of what is named'
    LEARNER_SILENT = 401, _WARN, 'the learner says nothing', 'see its log; the last weights go on'
    SECOND_PUBLISHER = 501, _STOP, 'somebody else commands the robot', 'end that process, then reset the stop'
    HARDWARE_ERROR = 502, _STOP, 'a device reports an error', 'clear it on the device, then reset the stop'
    OPERATOR_STOP = 503, _STOP, 'a person stopped the robot', 'reset the stop when it is safe'
    TARGET_NOT_FINITE = 504, _STOP, 'a target of the robot is not a number', 'report it with the bag; start again'
    ARM_REFLEX = 511, _STOP, 'the arm stopped itself', 'see what it hit, reset the stop; the next start recovers it'
    ARM_USER_STOP = 512, _STOP, 'the user stop of the arm is pressed', 'release it, then reset the stop'
    ARM_NOT_READY = 513, _STOP, 'the arm is not moved by its controller', 'see the arm bring-up, then reset the stop'
    ARM_STATE_SILENT = (
        514, _STOP, 'the arm says nothing about itself: it stopped itself, or its user stop is pressed',
        'see to it, reset the stop; the next start recovers it',
    )
    # fmt: on

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
