"""A process that hangs ends itself and says where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.footage import tiny_set
from tests.support.training import train
from trainer import job
from trainer.watchdog import Watchdog, hang_file

ROOT = Path(__file__).resolve().parents[2]
HANG = """
import sys, threading
from pathlib import Path
from trainer import watchdog
watchdog.GRACE_SECONDS = 0.1
dog = watchdog.Watchdog(Path(sys.argv[1]), hang_seconds=1.5, rank=0, world=2)
def waits_for_a_batch_that_never_comes():
    threading.Event().wait()
dog.beat(step=12, phase="data")
dog.start()
waits_for_a_batch_that_never_comes()
"""


STOPPED = """
import sys, time
from pathlib import Path
from trainer import watchdog
watchdog.ASLEEP_SECONDS = 0.5
dog = watchdog.Watchdog(Path(sys.argv[1]), hang_seconds=5.0)
dog.start()
print("on", flush=True)
for step in range(4):
    dog.beat(step, "train")
    end = time.process_time() + 0.4  # of computing: no beat comes right after the process goes on
    while time.process_time() < end:
        pass
dog.stop()
"""


DEAF = """
import ctypes, sys, time
from pathlib import Path
from trainer import watchdog
watchdog.BACKSTOP_SECONDS = 1.0
dog = watchdog.Watchdog(Path(sys.argv[1]), hang_seconds=3.0)
def never_lets_a_python_thread_run():
    ctypes.PyDLL(None).sleep(60)
dog.start()
time.sleep(1.5)
never_lets_a_python_thread_run()
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_hang_ends_with_its_code_and_stacks(tmp_path: Path) -> None:
    """Exit code 4; rank, step, phase and the hanging function are in the file; the run says so."""
    run = subprocess.run(
        [sys.executable, "-c", HANG, str(tmp_path)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 4, run.stderr
    text = hang_file(tmp_path, 0).read_text()
    assert text.startswith("rank 0 of 2: no sign of life for 1.5 s, in step 12, phase data\n")
    assert "waits_for_a_batch_that_never_comes" in text
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "hang"
    assert len(run.stderr.strip().splitlines()) == 1


def test_a_process_that_was_stopped_does_not_hang(tmp_path: Path) -> None:
    """Stopped for longer than the limit and continued, as by `scontrol suspend`, it goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as run:  # fmt: skip
        assert run.stdout is not None and run.stdout.readline() == b"on\n"
        run.send_signal(signal.SIGSTOP)
        time.sleep(6.5)
        run.send_signal(signal.SIGCONT)
        assert run.wait(60) == 0
    assert not hang_file(tmp_path, 0).exists()


def test_a_process_whose_watchdog_never_runs_is_ended_all_the_same(tmp_path: Path) -> None:
    """Foreign code keeps Python's lock for a minute: code 1 a second after the limit, with the
    stacks on stderr, since nobody was there to write a file."""
    run = subprocess.run(
        [sys.executable, "-c", DEAF, str(tmp_path)], capture_output=True, text=True, timeout=50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert "Timeout (0:00:04)!" in run.stderr and "never_lets_a_python_thread_run" in run.stderr
    assert not hang_file(tmp_path, 0).exists()


def test_beats_and_patience_move_the_limit(tmp_path: Path) -> None:
    """Silence counts from the last beat; long work gets its own limit and only for its time."""
    clock = Clock()
    dog = Watchdog(tmp_path, hang_seconds=10, clock=clock)
    clock.now = 9.0
    assert not dog.silent
    clock.now = 10.0
    assert dog.silent
    dog.beat(3)
    assert not dog.silent
    with dog.patience(100):
        clock.now = 109.0
        assert not dog.silent
        clock.now = 110.0
        assert dog.silent
    assert not dog.silent
    with dog.patience(1):
        clock.now += 9
        assert not dog.silent
    with dog.patience(100):
        with dog.patience(50):
            clock.now += 99
            assert not dog.silent
        clock.now += 99
        assert not dog.silent
    clock.now += 10
    assert dog.silent


def test_a_watchdog_can_be_stopped_and_switched_off(tmp_path: Path) -> None:
    """Stacks of an earlier life go at the start; a stopped or disabled one has no thread."""
    hang_file(tmp_path, 0).touch()
    dog = Watchdog(tmp_path, hang_seconds=1000)
    dog.start()
    assert not hang_file(tmp_path, 0).exists()
    dog.stop()
    off = Watchdog(tmp_path, hang_seconds=0)
    off.start()
    assert off._thread is None
    off.stop()


def test_no_watchdog_outlives_a_training_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no error of the run's, such as a notebook's interrupt, reaches the
    caller, whose process is not ended as a hang minutes later."""
    seen = []

    def interrupted(*_: object) -> None:
        seen.extend(thread.name for thread in threading.enumerate())
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_train", interrupted)
    data = tiny_set(tmp_path / "set", identities=2, actions=2, frames=4, size=32)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "runs", data, "train.steps=3")
    assert "watchdog" in seen
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_who_finds_a_peer_gone_says_whether_it_hung(tmp_path: Path) -> None:
    """Stacks of another rank of this life name the culprit, before one's own patience ends; without
    them, without a watchdog, or with those of a rank that the run does not have, nobody hung."""
    dog = Watchdog(tmp_path, hang_seconds=1000, rank=0, world=2)
    hang_file(tmp_path, 1).touch()
    assert dog.culprit() == ""
    dog.start()
    dog.beat(3, "step")
    line = "rank 0 of 2: rank 1 hung and is gone, in step 3, phase step"
    assert dog.culprit() == line
    assert hang_file(tmp_path, 0).read_text().startswith(f"{line}\n\n")
    hang_file(tmp_path, 1).rename(hang_file(tmp_path, 2))
    assert dog.culprit() == ""
    dog.stop()
