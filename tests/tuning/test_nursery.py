"""Programs that are forked: their code, their output, and that none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.training import environment
from tuning import processes
from tuning.nursery import AVAILABLE, Nursery

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="forking trainings: needs Linux's pidfd")
MODULE = """
import os, signal, sys
def main(argv):
    print(argv, sys.argv[1:], os.environ["HOW"], os.getcwd(), flush=True)
    if argv == ["wait"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(6))
        print("ready", flush=True)
        while True:
            signal.pause()
    if argv == ["fail"]:
        raise ValueError("no")
    return int(argv[0])
"""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    (tmp_path / "grown.py").write_text(MODULE)
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    made = Nursery(["grown"], environment={**os.environ, "PYTHONPATH": path})
    yield made
    made.close()


def spawn(nursery: Nursery, folder: Path, word: str):
    return nursery.spawn(
        ["-m", "grown", word], log=folder / "log", cwd=folder, environment={"HOW": "here"}
    )


def gone(known: processes.Process) -> bool:
    end = time.monotonic() + 60
    while processes.alive(known) and time.monotonic() < end:
        time.sleep(0.02)
    return not processes.alive(known)


def test_a_program_gets_its_words_and_tells_its_code(nursery: Nursery, tmp_path: Path) -> None:
    """One after the other: a code of its own, one of an exception, each with its own words."""
    assert spawn(nursery, tmp_path, "3").wait() == 3
    assert spawn(nursery, tmp_path, "fail").wait() == 1
    assert spawn(nursery, tmp_path, "0").wait() == 0
    told = (tmp_path / "log").read_text()
    assert f"['3'] ['3'] here {tmp_path}" in told and "ValueError: no" in told


def test_a_program_is_asked_to_stop(nursery: Nursery, tmp_path: Path) -> None:
    """It has not ended while it runs; SIGTERM reaches it, and its code comes back."""
    child = spawn(nursery, tmp_path, "wait")
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    ready(tmp_path)
    assert child.poll() is None
    child.terminate()
    assert child.wait() == 6 and child.poll() == 6
    child.terminate()


def test_no_program_outlives_what_forked_it(nursery: Nursery, tmp_path: Path) -> None:
    """Killed with -9, the nursery takes its program along, by way of SIGTERM."""
    child = spawn(nursery, tmp_path, "wait")
    known = processes.process(child.pid)
    assert known is not None
    ready(tmp_path)
    (forker,) = [p for p in processes.descendants(os.getpid()) if p.pid == parent_of(child.pid)]
    os.kill(forker.pid, signal.SIGKILL)
    assert gone(known)
    with pytest.raises(OSError, match="gone"):
        child.wait()


def ready(folder: Path) -> None:
    end, log = time.monotonic() + 60, folder / "log"
    while not log.exists() or "ready" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
