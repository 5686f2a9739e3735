"""How many cores there are to work on."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use; macOS does not tell, and there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
