"""VGG16 weights of a study: which file, and whether it can be opened, before any budget is spent.

Run: python -m tuning.vgg_file FILE
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from data_shards.errors import UserError
from tuning.command import HIDDEN, ROOT
from tuning.objectives import needs_vgg


def weights_of(objectives: tuple[str, ...], given: str) -> str:
    """The file, absolute: the one given, else, where an objective needs one, the environment's,
    which workers on other machines do not see. Empty: none."""
    from trainer.vgg import ENVIRONMENT

    chosen = given or (os.environ.get(ENVIRONMENT, "") if needs_vgg(objectives) else "")
    return str(Path(chosen).resolve()) if chosen else ""


def require_weights(file: str) -> None:
    """Refuse a file that the evaluation of every trial would stumble over.

    In a process that sees no GPU: whoever opens one keeps memory on it, beside all trials.

    Raises:
        UserError: it is missing, unreadable or not VGG16's.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "tuning.vgg_file", file], capture_output=True, text=True,
        env={**os.environ, **HIDDEN, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise UserError(told[-1])


def main(argv: list[str] | None = None) -> int:
    """Open a file; 2 and one line where that cannot be."""
    from trainer.vgg import open_vgg

    (file,) = sys.argv[1:] if argv is None else argv
    try:
        open_vgg(file)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
