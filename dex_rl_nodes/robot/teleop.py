"""What the operator's devices mean: SpaceMouse and glove to a TeleopCommand (LAMP, appendix D).

Buttons, by index in `spacenav/joy`, where the robot's file does not say otherwise; a keyboard says 2, 3 and 4 in
`keyboard/joy`, and there they always mean this:

| button | meaning |
|---|---|
| 0, left | short press: success; held for `long_press` seconds: discard this episode |
| 1, right | held: the glove drives the hand, as a change from where glove and hand were when it went down |
| 2, 3, 4, 5 | success, failure, discard, pause |
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from dex_rl_nodes.config import Model, Robot, Vector6
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.records import ARM_DIM, HAND_DIM, Mark, OperatorInput, TeleopCommand

KEY_MARKS = {2: Mark.SUCCESS, 3: Mark.FAILURE, 4: Mark.DISCARD, 5: Mark.PAUSE}  # index in `keyboard/joy`
_SCRIPTED_MARKS = (Mark.SUCCESS, Mark.FAILURE, Mark.DISCARD)


class TeleopSettings(Model):
    """How the devices are read: the `teleop:` block of config/robots/<robot>.yaml."""

    dead_zone: float = Field(0.05, ge=0, lt=1, description='SpaceMouse axes smaller than this count as zero')
    axes: list[int] = Field(
        [1, 2, 3, 4, 5, 6],
        description='device axis (1 to 6, negative: reversed) for x, y, z, rotation about x, y, z of the base frame',
    )
    gain: Vector6 = Field([1.0] * 6, description='unit command at full deflection')
    success_or_discard_button: int = Field(0, ge=0, description='index of the left button')
    hand_button: int = Field(1, ge=0, description='index of the button that gives the hand to the glove')
    mark_buttons: dict[int, Mark] = Field(
        KEY_MARKS, description='buttons that mark the episode: success, failure, discard or pause'
    )
    long_press: float = Field(
        1.0, gt=0, le=10, description='holding the left button this long discards the episode (s)'
    )
    device_age: float = Field(0.2, gt=0, le=1, description='a device that was silent for longer is absent (s)')
    glove_low: Vector6 = Field([0.0] * 6, description='lower limit of each finger of the glove, normalised travel')
    glove_high: Vector6 = Field([1.0] * 6, description='upper limit of each finger of the glove, normalised travel')

    def layout(self) -> tuple[np.ndarray, np.ndarray]:
        """Device axis (6,) and signed gain (6,) of x, y, z and the rotations about them."""
        axes = np.array(self.axes)
        return np.abs(axes) - 1, np.sign(axes) * np.array(self.gain)

    @field_validator('mark_buttons', mode='before')
    @classmethod
    def _by_name(cls, marks: Any) -> Any:
        if not isinstance(marks, dict):
            return marks
        names = {mark.name.lower(): mark for mark in Mark}
        return {index: names.get(str(mark).lower(), mark) for index, mark in marks.items()}

    @field_validator('axes')
    @classmethod
    def _permutation(cls, axes: list[int]) -> list[int]:
        if sorted(abs(axis) for axis in axes) != [1, 2, 3, 4, 5, 6]:
            raise ValueError('every device axis from 1 to 6 must appear once, with a sign')
        return axes


def read_teleop(robot: Robot) -> TeleopSettings:
    """Teleop settings of a robot; UserError names what is wrong."""
    try:
        return TeleopSettings.model_validate(robot.teleop)
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(['teleop', *(str(part) for part in first['loc'])])
        raise UserError(f'config/robots/{robot.name}.yaml: {where}: {first["msg"]}') from None


class TeleopMapper:
    """Keeps the latest of every device and turns it into commands. Stamps are nanoseconds on one clock."""

    def __init__(self, settings: TeleopSettings | None = None):
        self.settings = settings or TeleopSettings()
        self._axis, self._gain = self.settings.layout()
        self._age = int(self.settings.device_age * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget devices, buttons and marks."""
        self._twist: tuple[np.ndarray, int] | None = None
        self._glove: tuple[np.ndarray, int] | None = None
        self._joy_stamp: int | None = None
        self._pressed: set[int] = set()
        self._keys: set[int] = set()
        self._left_since: int | None = None
        self._marks: deque[Mark] = deque()
        self._arm_active = False
        self._baseline: np.ndarray | None = None
        self._delta = np.zeros(HAND_DIM)
        self._released = False
        self._rebase = False

    def begin_episode(self) -> None:
        """Marks and a half-made press of the left button belonged to the one before, and so did the way of the glove:
        a hand that is still held goes on from where it is.
        """
        self._marks.clear()
        self._left_since = None
        self._baseline, self._rebase = None, False

    def drop_silent(self, now: int) -> None:
        """An episode is over, or begins: a device that fell silent in somebody's hands is in control no longer.

        While it was, commands had the stamp of its last word, and what is marked with such a stamp counts for nothing
        in what follows.
        """
        if self._twist is not None and not self._fresh(self._twist[1], now):
            self._twist, self._arm_active = None, False
        sources = (self._joy_stamp, self._glove and self._glove[1])
        if any(then is not None and not self._fresh(then, now) for then in sources):
            self._pressed.discard(self.settings.hand_button)
            self._baseline, self._rebase = None, False

    def twist(self, axes: np.ndarray, stamp: int) -> bool:
        """SpaceMouse axes (6,), [-1, 1]. False: malformed or not finite, so dropped, as if the device were silent."""
        axes = np.asarray(axes, np.float64)
        if axes.shape != (ARM_DIM,) or not np.isfinite(axes).all():
            return False
        self._twist = axes, stamp
        return True

    def glove(self, fingers: np.ndarray, stamp: int) -> bool:
        """Fingers of the glove (6,), normalised travel. False: malformed or not finite, so dropped."""
        fingers = np.asarray(fingers, np.float64)
        if fingers.shape != (HAND_DIM,) or not np.isfinite(fingers).all():
            return False
        self._glove = np.clip(fingers, self.settings.glove_low, self.settings.glove_high), stamp
        return True

    def buttons(self, buttons: list[int], stamp: int) -> None:
        """Buttons, pressed or not; the list may be short or empty: what it lacks is not pressed."""
        if self._joy_stamp is not None and not self._fresh(self._joy_stamp, stamp):
            self._left_since = None  # nobody knows when the left button was let go of
        pressed = _pressed(buttons)
        down, up = pressed - self._pressed, self._pressed - pressed
        self._pressed, self._joy_stamp = pressed, stamp
        if self.settings.hand_button in up:
            self._released = True
        self._mark(down, self.settings.mark_buttons)
        self._left_button(down, up, stamp)

    def keys(self, buttons: list[int]) -> None:
        """Buttons of a keyboard: they only mark, so that a key neither moves a hand nor lets go of one."""
        pressed = _pressed(buttons)
        self._mark(pressed - self._keys, KEY_MARKS)
        self._keys = pressed

    def _mark(self, down: set[int], marks: Mapping[int, Mark]) -> None:
        self._marks.extend(mark for index, mark in marks.items() if index in down)

    def _left_button(self, down: set[int], up: set[int], stamp: int) -> None:
        button = self.settings.success_or_discard_button
        if button in down:
            self._left_since = stamp
        elif self._left_since is not None and stamp - self._left_since >= self.settings.long_press * 1e9:
            self._marks.append(Mark.DISCARD)
            self._left_since = None
        elif button in up and self._left_since is not None:
            self._marks.append(Mark.SUCCESS)
            self._left_since = None

    def update(self, twist: np.ndarray, buttons: list[int], glove: np.ndarray, stamp: int) -> TeleopCommand:
        """All devices at once, then the command: for lockstep and loops in one process."""
        self.twist(twist, stamp)
        self.buttons(buttons, stamp)
        self.glove(glove, stamp)
        return self.command(stamp)

    def command(self, stamp: int) -> TeleopCommand:
        """What the devices say now.

        A device that falls silent while its user is in control keeps control, with the stamp of its last word: the
        command mux sees it age and holds, rather than letting the policy continue out of a half-made motion.
        """
        oldest = stamp
        arm = np.zeros(ARM_DIM)
        if self._twist is not None and (self._fresh(self._twist[1], stamp) or self._arm_active):
            arm, oldest = self._arm(*self._twist, stamp)
        self._arm_active = bool(np.any(arm))
        hand_active, hand_stamp = self._hand(stamp)
        return TeleopCommand(
            stamp=min(oldest, hand_stamp),
            arm_active=self._arm_active,
            arm=arm.astype(np.float32),
            hand_active=hand_active,
            hand_delta=self._delta.astype(np.float32) if hand_active else np.zeros(HAND_DIM, np.float32),
            mark=self._marks.popleft() if self._marks else Mark.NONE,
        )

    def _fresh(self, then: int, now: int) -> bool:
        return now - then <= self._age

    def _arm(self, axes: np.ndarray, then: int, now: int) -> tuple[np.ndarray, int]:
        axes = np.where(np.abs(axes) < self.settings.dead_zone, 0.0, axes)
        return np.clip(axes[self._axis] * self._gain, -1.0, 1.0), now if self._fresh(then, now) else then

    def _hand(self, now: int) -> tuple[bool, int]:
        """Whether the glove drives the hand, and the stamp of the oldest device it depends on."""
        held = self.settings.hand_button in self._pressed and not self._released
        self._released = False
        if not held:
            self._baseline, self._rebase = None, False
            return False, now
        silent = [
            then for then in (self._joy_stamp, self._glove and self._glove[1]) if then and not self._fresh(then, now)
        ]
        if self._baseline is None:
            if self._glove is None or silent:
                return False, now
            self._baseline, self._delta = self._glove[0], np.zeros(HAND_DIM)
        if silent:
            self._rebase = True  # the glove may have moved when it comes back: go on from here then
            return True, min(silent)
        if self._rebase:
            self._baseline, self._rebase = self._glove[0] - self._delta, False
        self._delta = self._glove[0] - self._baseline
        return True, now


def _pressed(buttons: list[int]) -> set[int]:
    return {index for index, value in enumerate(buttons) if value}


class ScriptedHands:
    """What the devices say in the hands of a scripted operator: the inverse of TeleopMapper, for the same settings.

    Raises:
        UserError: the settings give no button to a mark that a scripted operator makes.
    """

    def __init__(self, settings: TeleopSettings | None = None):
        settings = settings or TeleopSettings()
        self._axis, self._gain = settings.layout()
        self._left, self._right = settings.success_or_discard_button, settings.hand_button
        self._marks = {mark: index for index, mark in reversed(settings.mark_buttons.items())}
        lacking = [mark.name.lower() for mark in _SCRIPTED_MARKS if mark not in self._marks]
        if lacking:
            raise UserError(
                f'teleop in config/robots/: a scripted operator needs a button for {", ".join(lacking)} in mark_buttons'
            )
        self._count = 1 + max(self._left, self._right, *self._marks.values())

    def axes(self, operator: OperatorInput) -> np.ndarray:
        """Axes (6,) of the SpaceMouse, [-1, 1], in the order of the device."""
        axes, locked = np.zeros(ARM_DIM), self._gain == 0
        wanted = np.where(locked, 0.0, operator.twist) / np.where(locked, 1.0, self._gain)
        axes[self._axis] = np.clip(wanted, -1.0, 1.0)
        return axes

    def buttons(self, operator: OperatorInput) -> list[int]:
        """Buttons of `spacenav/joy`."""
        buttons = [0] * self._count
        buttons[self._left], buttons[self._right] = int(operator.left_button), int(operator.right_button)
        for mark, index in self._marks.items():
            buttons[index] |= int(operator.mark == mark)
        return buttons
