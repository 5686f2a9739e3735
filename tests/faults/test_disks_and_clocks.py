"""Disks that fail, clocks that jump, preparations that are killed: nothing is lost or wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_shards.prepare import main as prepare
from launch.chaos.processes import children, kill
from tests.support.training import differing, environment, run_script, tensors, train
from trainer import commit
from trainer.saved import damage_of

SEED = int(os.environ.get("NAVSYNTH_SEED", random.SystemRandom().randrange(10**6)))


FAILING_DISK = """
import errno, os, sys
from trainer import engine
first, last = int(sys.argv.pop(1)), int(sys.argv.pop(1))
update, fsync, at = engine.Engine.update, os.fsync, [0]

def counted(self, *, step, moves, factor):
    at[0] = step
    update(self, step=step, moves=moves, factor=factor)

def failing(descriptor):
    if first <= at[0] < last:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    fsync(descriptor)

engine.Engine.update, os.fsync = counted, failing
"""


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize(("on_full", "last"), [("stop", 99), ("continue", 9), ("continue", 99)])
def test_a_disk_that_fails(
    tmp_path: Path, data: Path, on_full: str, last: int, background: str
) -> None:
    """EIO at every fsync from step 5 on: the run stops with a line and its checkpoints are whole,
    or goes on without saves until the disk is well; one that is not well at the end has not saved
    what it was for, and says so. Either way it ends on the bits of any other."""
    words = ("train.steps=12", "checkpoint.steps=2", "checkpoint.keep=0",
             f"checkpoint.background={background}", f"checkpoint.on_full={on_full}")  # fmt: skip
    run = tmp_path / "run"
    ended = run_script(
        tmp_path / "fails.py", FAILING_DISK, tmp_path, data, *words, args=("5", str(last))
    )
    steps = commit.committed(run / "checkpoints")
    whole = [step for step in steps if not damage_of(run / "checkpoints" / commit.step_name(step))]
    assert whole == steps and steps[0] <= 2
    assert not list((run / "checkpoints").glob(".*"))
    assert "Input/output error" in ended.stderr and "Traceback" not in ended.stderr
    if last == 99:
        assert ended.returncode == 2 and "mend the disk" in ended.stderr
        assert ("step 12, the last, could not be saved" in ended.stderr) == (on_full == "continue")
        assert 3 <= steps[-1] <= 5
        assert train(tmp_path, data, *words) == 0
    else:
        assert ended.returncode == 0 and "training goes on without it" in ended.stderr
        assert not {6, 7, 8} & set(steps) and steps[-1] == 12
    assert train(tmp_path, data, "train.steps=12", name="straight") == 0
    assert differing(tensors(run, 12), tensors(tmp_path / "straight", 12)) == []


FULL_DISK = """
import errno, os

def full(descriptor, data, at):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

os.pwrite = full
"""


def test_a_disk_that_is_full_when_the_run_begins(tmp_path: Path, data: Path) -> None:
    """The first write of a run, of its lock, is refused: one line that names the file, and code
    2."""
    ended = run_script(tmp_path / "full.py", FULL_DISK, tmp_path, data, "train.steps=2")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "run.lock: No space left on device" in ended.stderr


JUMPING_CLOCK = """
import random, time
dice, now, now_ns = random.Random(7), time.time, time.time_ns

def jump():
    return dice.choice((-1, 1)) * 3600 * dice.randint(1, 2000)

time.time = lambda: now() + jump()
time.time_ns = lambda: now_ns() + 10**9 * jump()
"""


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, data: Path) -> None:
    """The time of day is hours off at every look, now ahead and now behind: no save or sample sheet
    that is not due, no hang that is none, no wrong length, no other bit; and a second life goes
    on."""
    words = ("checkpoint.minutes=60", "train.sample_minutes=60", "train.log_steps=1",
             "data.workers=1", "data.cache_mib=0", "begin.latents=random")  # fmt: skip
    run = tmp_path / "run"
    for life, steps in enumerate((6, 12), 1):
        ended = run_script(
            tmp_path / "jumps.py", JUMPING_CLOCK, tmp_path, data, *words, f"train.steps={steps}"
        )
        assert ended.returncode == 0, ended.stderr
        assert commit.committed(run / "checkpoints") == [6, 12][:life]
    record = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and 0 < record["final"]["seconds"] < 3600
    assert len({line["time"] > time.time() for line in lines}) == 2, "the clock did jump"
    assert {path.stem for path in (run / "samples").glob("step-*")} <= {
        commit.step_name(6), commit.step_name(12)
    }  # fmt: skip
    assert train(tmp_path, data, *words, "train.steps=12", name="straight") == 0
    assert differing(tensors(run, 12), tensors(tmp_path / "straight", 12)) == []


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def look(folder: Path) -> tuple[int, int]:
    """How many files a preparation has, and the bytes of its open shard: it changes as it works."""
    names = [name for _, _, files in os.walk(folder) for name in files]
    try:
        return len(names), sum(path.stat().st_size for path in folder.glob(".partial/*.tmp"))
    except FileNotFoundError:
        return len(names), -1  # it was renamed meanwhile


@pytest.mark.slow
def test_preparations_killed_at_random_end_on_the_same_bytes(tmp_path: Path) -> None:
    """kill -9 of the command or of one of its processes, again and again on one folder;
    NAVSYNTH_SEED repeats the draws of a failure."""
    dice = random.Random(SEED)
    words = ["synthetic", "--identities", "4", "--actions", "3", "--frames", "12", "--size", "32",
             "--shard-clips", "2", "--out"]  # fmt: skip
    line = [sys.executable, "-m", "data_shards.prepare", *words, str(tmp_path / "set")]
    for _ in range(6):
        process = subprocess.Popen(
            [*line, "--workers", dice.choice("12")], env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        changes, seen = dice.randint(0, 12), look(tmp_path / "set")
        while changes and process.poll() is None:
            now = look(tmp_path / "set")
            changes, seen = changes - (now != seen), now
            time.sleep(0.001)
        kill(dice.choice([process.pid, *children(process.pid)]))
        process.wait()
    assert prepare([*words, str(tmp_path / "set"), "--workers", "2"]) == 0, SEED
    assert prepare([*words, str(tmp_path / "whole"), "--workers", "1"]) == 0
    assert tree(tmp_path / "set") == tree(tmp_path / "whole"), SEED
