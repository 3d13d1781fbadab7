"""Which processes of the graph the system runs first."""

import gc
import os
import resource
from contextlib import suppress
from pathlib import Path

_HOW = 'no right to real-time priority; to allow it: "{user} - rtprio {priority}" in /etc/security/limits.d/dexrl.conf'


def prefer(priority: int) -> str:
    """Run all threads of this process before those of usual priority (SCHED_RR); threads made later inherit it.

    What is on the way from a camera to a command works a few milliseconds per tick and must not wait behind learner,
    recorder or whatever else the machine does. As with ros2_control's controller manager it is asked for and not
    demanded; the priority is far below that of franka_ros2.

    Args:
        priority: 1 to 99; 0: stay as it is.

    Returns:
        What the priority is now, or how to allow it; for /diagnostics.
    """
    if priority == 0:
        return 'usual priority'
    try:
        for thread in Path('/proc/self/task').iterdir():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(priority))
    except PermissionError:
        allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        if 0 < allowed < priority:
            return prefer(allowed)
        return _HOW.format(user=os.environ.get('USER', 'USER'), priority=priority)
    return f'SCHED_RR {priority}'


def step_back(niceness: int) -> None:
    """Leave the processor to the nodes that move the robot.

    Every node has a session of its own, and where Linux groups processes by session (autogroup) niceness counts only
    within one; the weight of the session has to be set as well.
    """
    os.nice(niceness)
    with suppress(OSError):  # a kernel without autogroup
        Path('/proc/self/autogroup').write_text(str(niceness))


def spare_collector() -> None:
    """Let the garbage collector overlook what is there now, which takes it tens of milliseconds with PyTorch loaded."""
    gc.collect()
    gc.freeze()
