"""Run a command that is asked to stop (SIGTERM) when the process that started it dies.

Run: python -m tuning.tether PARENT-PID COMMAND...
So a training never outlives its trial, not even when its Ray worker is killed with -9.
"""

from __future__ import annotations

import os
import sys

from trainer.leaving import follow_parent


def main(argv: list[str] | None = None) -> int:
    """Become the command: never returns, but 1 where the parent is gone already."""
    parent, *command = sys.argv[1:] if argv is None else argv
    follow_parent()
    if os.getppid() == int(parent):
        os.execvp(command[0], command)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
