"""A process in which everything that a training imports is imported, and which forks them.

Run: python -m tuning.nursery PARENT-PID MODULE...
`Nursery` starts it and talks to it; a training that it forks begins in milliseconds instead of
seconds, and computes the same bits. Requests are lines of JSON on its input, answers on its output.
Linux only (pidfd); where there is none, a training is started like any other program.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from trainer.leaving import follow_parent

AVAILABLE = sys.platform == "linux" and hasattr(os, "pidfd_open")


class Child(Protocol):
    """What a trial needs of a process; `subprocess.Popen` has it too."""

    pid: int

    @property
    def returncode(self) -> Any:
        """Exit code, None before it is known; minus the signal's number where one ended it."""

    def poll(self) -> int | None:
        """The exit code where it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; `subprocess.TimeoutExpired` where it has not ended in time."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""


class Nursery:
    """Owns the process that forks, from construction to `close`; one child at a time."""

    def __init__(self, modules: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Start it; it imports the modules while the caller goes on."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuning.nursery", str(os.getpid()), *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), bufsize=0,
        )  # fmt: skip

    def spawn(
        self, words: Sequence[str], *, log: Path, cwd: Path, environment: Mapping[str, str]
    ) -> Forked:
        """Start what `python` would with the words `-m MODULE ...`; output goes to `log`.

        Raises:
            OSError: the process that forks is gone.
        """
        request = {"words": list(words), "log": str(log), "cwd": str(cwd), "env": dict(environment)}
        line = json.dumps(request).encode() + b"\n"
        assert self._process.stdin is not None
        while line:  # a pipe takes what there is room for
            line = line[self._process.stdin.write(line) or 0 :]
        return Forked(self, int(self.read()["pid"]))

    def read(self, timeout: float | None = None) -> dict[str, int]:
        """The next answer; empty where there is none within `timeout` seconds.

        Raises:
            OSError: the process that forks is gone.
        """
        out = self._process.stdout
        assert out is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(out, selectors.EVENT_READ)
            if not waiting.select(timeout):
                return {}
        line = out.readline()
        if not line:
            raise OSError("the process that forks trainings is gone")
        return json.loads(line)

    def close(self) -> None:
        """End the process; a child that still runs gets SIGTERM."""
        self._process.terminate()
        self._process.wait()


class Forked:
    """A program that the nursery has forked, seen as `subprocess.Popen` is."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self.returncode, self._nursery = pid, None, nursery

    def poll(self) -> int | None:
        """The exit code where it has ended."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, at the end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def terminate(self) -> None:
        """Send SIGTERM; nothing where it has ended."""
        with suppress(ProcessLookupError):  # it has, and nobody has looked yet
            if self.returncode is None:
                os.kill(self.pid, signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.read(timeout).get("code")
        return self.returncode


# In the process that forks -------------------------------------------------------------------


def serve() -> int:
    """Fork what each line of the input asks for, tell its pid, and its code when it has ended."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(**request)
        _tell(pid=pid)
        _, status = os.waitpid(pid, 0)
        _tell(code=os.waitstatus_to_exitcode(status))
    return 0


def become(words: list[str], *, log: str, cwd: str, env: dict[str, str]) -> NoReturn:
    """Be `python -m MODULE ...`, which returns its code from `main`; never returns."""
    code = 1
    try:
        parent = os.getppid()
        follow_parent()
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(ours, theirs)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        module = importlib.import_module(words[1])
        sys.argv = [str(module.__file__), *words[2:]]
        code = int(module.main(words[2:]))
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _tell(**answer: int) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Serve until the input ends or the parent does; 1 where the parent is gone already."""
    parent, *modules = sys.argv[1:] if argv is None else argv
    follow_parent()
    if os.getppid() != int(parent):
        return 1
    for name in modules:
        importlib.import_module(name)
    return serve()


if __name__ == "__main__":
    raise SystemExit(main())
