"""Programs that are started and waited for."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any


def run_to_end(command: Sequence[str], **more: Any) -> int:
    """Exit code of a program. Ctrl-C reaches it as well as this process: it is waited for while it
    saves, where `subprocess.run` would kill it after a quarter of a second, and ends this one then.

    Args:
        more: of `subprocess.Popen`.
    """
    stopped = False
    with subprocess.Popen(command, **more) as child:
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:
                stopped = True
    if stopped:
        raise KeyboardInterrupt
    return code
