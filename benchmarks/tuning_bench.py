"""What the stages of `benchmarks.tuning` share: results that are kept, and programs that are run.

Each result is in OUT/state.json as soon as it is there, so the same command goes on where it was.
Programs end when the benchmark does, however it ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from data_shards.cores import cores
from trainer.commit import read_json, update_json

ROOT = Path(__file__).resolve().parent.parent
FREE = ("write", "until")
"""Options that may differ from one sitting to the next."""


def tethered(*words: str) -> list[str]:
    """A command line of python that is asked to stop (SIGTERM) when this process ends."""
    return [sys.executable, "-m", "tuning.tether", str(os.getpid()), sys.executable, *words]


class Bench:
    """Makes results once and keeps them."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Take or go on with the folder OUT; ends where it holds results of other options."""
        self.args, self.out = args, args.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.cores = cores()
        self.weights = ["--vgg", str(args.vgg.resolve())]
        self._keeping = threading.Lock()
        asked = {key: str(value) for key, value in vars(args).items() if key not in FREE}
        if self.once("asked", lambda: asked) != asked:
            raise SystemExit(f"{args.out}: holds figures of other settings; choose another --out")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A result, from its file or made now; several threads may make some."""
        file = self.out / "state.json"
        if name not in read_json(file):
            begun = time.monotonic()
            made = make()
            with self._keeping:
                update_json(file, **{name: made})
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        return read_json(file)[name]

    def python(self, *words: str, may: Container[int] = (0,)) -> int:
        """Run a module of the project; its output goes to OUT/log.

        Returns:
            Its exit code, which is one of those that `may` be; else this program ends.
        """
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with (self.out / "log").open("ab") as log:
            done = subprocess.run(
                tethered("-m", *words), stdout=log, stderr=log, cwd=self.out,
                env={**os.environ, "PYTHONPATH": path}, check=False,
            )  # fmt: skip
        if done.returncode not in may:
            raise SystemExit(f"{' '.join(words[:3])} ...: code {done.returncode}; see {log.name}")
        return done.returncode
