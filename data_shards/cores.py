"""How many cores there are to work on, and who comes first where they are few."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

DECODING, SAVING = 5, 10
"""What threads beside a training are nicer than it: where both want a core, those that decode have
a third of its weight, several times what they need, and those that save, of which a step waits for
one block at most, a tenth."""


def cores() -> int:
    """Cores that this process may use; macOS does not tell, and there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_way(by: int) -> None:
    """Have this thread, so much nicer, work when others leave a core free, or slowly: one that is
    woken to decode the next batch, or that writes a checkpoint, would else take the core from the
    training, for which all ranks then wait. It takes no core at once when it is woken either; where
    that cannot be said (a sandbox, another C library), it is only nicer."""
    if sys.platform != "linux":  # elsewhere a priority is a whole process's
        return
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + by))
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(thread) == os.SCHED_OTHER:  # what a user chose stays
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
