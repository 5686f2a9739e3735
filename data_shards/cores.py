"""How many cores there are to work on, and who comes first where they are few."""

from __future__ import annotations

import os
import sys
import threading

NICE = 5
"""What threads beside a training are nicer than it: where both want a core they have a third of its
weight, several times what they need."""


def cores() -> int:
    """Cores that this process may use; macOS does not tell, and there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_way() -> None:
    """Have this thread work when others leave a core free, or slowly: one that is woken to decode
    the next batch, or that writes a checkpoint, would else take the core from the training, for
    which all ranks then wait."""
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        thread = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*thread, min(19, os.getpriority(*thread) + NICE))
