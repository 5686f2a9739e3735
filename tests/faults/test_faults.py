"""Disks that are full, jobs that meet, values that are not numbers, ranks that hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from launch.chaos.processes import alive, children, kill
from launch.slurm.inside import verdict
from tests.support.cluster import wait_for
from tests.support.footage import tiny_set
from tests.support.training import command, environment, launch, run_script, tensors, train
from trainer import commit


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def rewrite(checkpoint: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Change a file of a checkpoint so that its manifest agrees with it."""
    save_file(tensors, checkpoint / name)
    manifest = commit.read_manifest(checkpoint)
    files = {**manifest.files, name: commit.facts_of(checkpoint / name)}
    sealed = commit.dump_manifest(manifest._replace(files=files))
    (checkpoint / commit.MANIFEST).write_bytes(sealed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_in_a_line_and_room_is_all_it_takes(
    small_disk: Path, data: Path
) -> None:
    """The run stops with code 2 and its last checkpoint; with room, the same command goes on."""
    words = ("train.steps=20", "checkpoint.steps=1", "checkpoint.keep=50")
    full = launch(small_disk, data, *words)
    assert full.returncode == 2, full.stderr
    assert "No space left" in full.stderr and "free some space" in full.stderr
    steps = commit.committed(small_disk / "run" / "checkpoints")
    assert steps
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    again = launch(small_disk, data, *words)
    assert again.returncode == 0, again.stderr
    assert f"resumed at step {steps[-1]}" in str(record(small_disk / "run")["events"])


def test_a_second_job_is_refused_and_the_first_does_not_notice(tmp_path: Path, data: Path) -> None:
    """Two jobs on one folder: the later one ends with a line; the first saves when asked to."""
    words = ("train.steps=1000000", "train.log_steps=1")
    log = tmp_path / "log"
    with log.open("wb") as out:
        first = subprocess.Popen(command(tmp_path, data, *words), env=environment(), stderr=out)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.stat().st_size, "the first steps")
        second = launch(tmp_path, data, *words)
        assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert record(tmp_path / "run")["status"] == "running"
        first.send_signal(signal.SIGTERM)
        assert first.wait(240) == 6, log.read_text()
        assert record(tmp_path / "run")["status"] == "preempted"
    finally:
        first.kill()
        first.wait()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, in which a NaN equals itself and nothing else."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_a_row_that_is_no_number_stops_the_run_before_the_step(tmp_path: Path, data: Path) -> None:
    """NaN in one latent row: code 3, the step, term and rank named, nothing moved or saved."""
    assert train(tmp_path, data, "train.steps=4") == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    name = next(p.name for p in checkpoint.glob("own-*.safetensors"))
    rows = load_file(checkpoint / name)
    for page in (key for key in rows if ".value." in key):
        rows[page][...] = torch.nan
    rewrite(checkpoint, name, rows)
    before = tensors(tmp_path / "run", 4)
    ended = launch(tmp_path, data, "train.steps=8")
    assert ended.returncode == 3, ended.stderr
    assert "step 4 is not finite: rank 0: terms total, rec" in ended.stderr
    assert record(tmp_path / "run")["status"] == "non-finite"
    assert (tmp_path / "run" / "nonfinite" / "step-00000004" / "rank-0.safetensors").exists()
    assert commit.committed(tmp_path / "run" / "checkpoints") == [4]
    after = tensors(tmp_path / "run", 4)
    assert after.keys() == before.keys()
    assert all(torch.equal(bits(after[key]), bits(before[key])) for key in before)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_goes_on(
    tmp_path: Path, data: Path
) -> None:
    """One flipped bit in the newest checkpoint costs its steps, not the run and not a bit of it."""
    assert train(tmp_path, data, "train.steps=6", "checkpoint.steps=3") == 0
    folder = tmp_path / "run" / "checkpoints"
    victim = folder / "step-00000006" / "common-networks.safetensors"
    data_of = bytearray(victim.read_bytes())
    data_of[-1] ^= 1
    victim.write_bytes(data_of)
    assert train(tmp_path, data, "train.steps=9", "checkpoint.steps=3") == 0
    assert (folder / "step-00000006.damaged").is_dir()
    assert "resumed at step 5" in str(record(tmp_path / "run")["events"])
    assert train(tmp_path, data, "train.steps=9", name="straight") == 0
    straight, healed = (tensors(tmp_path / name, 9) for name in ("straight", "run"))
    assert [key for key in straight if not torch.equal(straight[key], healed[key])] == []


HANGS = """
import os, sys, time
from trainer import engine, main, watchdog
from trainer.leaving import ENDINGS, leave
measure = engine.Engine.measure

def hanging(self, batch, *, step, moves):
    if step == 3 and self.ranks.comm.rank == 1:
        time.sleep(3600)
    return measure(self, batch, step=step, moves=moves)

engine.Engine.measure = hanging
if "PATIENT" in os.environ:
    watchdog.GRACE_SECONDS = 5
    if os.environ["RANK"] == os.environ["PATIENT"]:
        watchdog.Watchdog.silent = property(lambda self: False)
if __name__ == "__main__":
    code = main.main()
    leave(next(ending for ending in ENDINGS if ending.code == code))
"""


@pytest.mark.ranks
@pytest.mark.parametrize("patient", ["", "0"])
def test_a_rank_that_hangs_ends_the_run_with_its_name(
    tmp_path: Path, data: Path, patient: str
) -> None:
    """Rank 1 stops in step 3: both ranks end with code 4 and leave the stacks of all threads, also
    where rank 0 still waits when rank 1 has gone."""
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    # Longer than the first step may take, which imports what torch compiles with.
    words = command(tmp_path, data, "train.steps=8", "train.hang_seconds=25", ranks=2)
    place = next(i for i, word in enumerate(words) if word.endswith("trainer/main.py"))
    words[place] = str(script)
    env = environment() | ({"PATIENT": patient} if patient else {})
    ended = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode, ended.stderr
    run = tmp_path / "run"
    assert record(run)["status"] == "hang" and record(run)["code"] == 4, ended.stderr
    for rank in (0, 1):
        told = (run / f"hang-rank-{rank}.txt").read_text()
        gone = "rank 1 hung and is gone" if str(rank) == patient else "no sign of life for 25 s"
        assert f"rank {rank} of 2: {gone}, in step 3" in told
    assert "hanging" in told and "exitcode  : 4" in ended.stderr


FULL = """
import errno, os
from trainer import rowfile
write = rowfile.RowFile.write_
calls = iter(range(10**9))

def full(self, slots, rows):
    if os.environ["RANK"] == "1" and len(slots) and next(calls) == 3:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/of/one/machine")
    write(self, slots, rows)

rowfile.RowFile.write_ = full
"""


@pytest.mark.ranks
def test_a_full_scratch_disk_of_one_rank_ends_all_for_that_reason(tmp_path: Path) -> None:
    """Rank 0 only sees that rank 1 is gone, and yet the run is no lost one, which would be queued
    again to meet the same disk."""
    # 36 rows: rank 1 owns the last four.
    data = tiny_set(tmp_path / "set", identities=6, actions=6, frames=6, size=32)
    ended = run_script(
        tmp_path / "full.py", FULL, tmp_path, data, "train.steps=80", "train.pictures=false",
        "latents.residence=disk", f"latents.scratch={tmp_path}", "latents.replicate_kib=0",
        "begin.latents=random", ranks=2,
    )  # fmt: skip
    assert ended.returncode, ended.stderr
    told, why = record(tmp_path / "run"), "latents.scratch: /scratch/of/one/machine is full; choose"
    assert (told["status"], told["code"]) == ("user-error", 2), ended.stderr
    assert told["reason"].startswith(f"rank 1: {why}")
    assert f"error: rank 1: {why}" in ended.stderr and "exitcode  : 2" in ended.stderr
    assert verdict(tmp_path / "run", since=0, retries=1) == "2 stop"


@pytest.mark.ranks
def test_a_killed_rank_comes_back_under_torchrun(tmp_path: Path, data: Path) -> None:
    """--max-restarts: both ranks start again from the checkpoint and end on the bits of a run never
    killed."""
    steps = "train.steps=40"
    straight = launch(tmp_path, data, steps, name="straight", ranks=2)
    assert straight.returncode == 0, straight.stderr
    words = command(tmp_path, data, steps, "checkpoint.steps=2", "train.log_steps=1")
    elastic = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1",
        "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
    ]  # fmt: skip
    run, log = tmp_path / "run", tmp_path / "log"
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else addresses of dead ranks are found
    with log.open("wb") as out:
        started = subprocess.Popen(
            [*elastic, *words[1:]], env={**environment(), **fresh}, stderr=out, stdout=out
        )
    try:
        wait_for(
            lambda: started.poll() is not None or commit.committed(run / "checkpoints"), "a save"
        )
        os.kill(children(started.pid)[1], signal.SIGKILL)
        assert started.wait(240) == 0, log.read_text()
    finally:
        started.kill()
        started.wait()
    assert len(record(run)["starts"]) == 2 and record(run)["status"] == "done"
    one, other = (tensors(tmp_path / name, 40) for name in ("straight", "run"))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.slow
@pytest.mark.ranks
def test_ranks_whose_launcher_is_killed_save_and_leave(tmp_path: Path, data: Path) -> None:
    """kill -9, after which the launcher asks nobody: both ranks are asked by the system, and do not
    hold the run's folder for ever."""
    words = ("train.steps=1000000", "train.log_steps=1")
    run, log = tmp_path / "run", tmp_path / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            command(tmp_path, data, *words, ranks=2), env=environment(), stderr=out, stdout=out
        )
    ranks: list[int] = []
    try:
        metrics = run / "metrics.jsonl"
        wait_for(
            lambda: started.poll() is not None or (metrics.exists() and metrics.stat().st_size),
            "the first steps",
        )
        ranks += children(started.pid)
        assert len(ranks) == 2, log.read_text()
        started.kill()
        started.wait()
        wait_for(lambda: not any(map(alive, ranks)), "the ranks to leave", seconds=60)
    finally:
        started.kill()
        started.wait()
        for pid in filter(alive, ranks):
            kill(pid)
    assert record(run)["status"] == "preempted" and record(run)["code"] == 6, log.read_text()
    assert commit.committed(run / "checkpoints")[-1] == record(run)["step"]


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_loader_process_is_no_mistake_of_the_user(
    tmp_path: Path, data: Path, ranks: int
) -> None:
    """kill -9 of a loader process of the last rank: code 5, so that a cluster starts the run again,
    and the same command goes on."""
    words = ("train.steps=1000000", "train.log_steps=1", "checkpoint.steps=2",
             "data.cache_mib=0", "begin.latents=random", "data.workers=1")  # fmt: skip
    run, log = tmp_path / "run", tmp_path / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            command(tmp_path, data, *words, ranks=ranks), env=environment(), stderr=out, stdout=out
        )
    try:
        wait_for(
            lambda: commit.committed(run / "checkpoints") or started.poll() is not None, "a save"
        )
        last = children(started.pid)[-1] if ranks > 1 else started.pid
        os.kill(children(last)[-1], signal.SIGKILL)
        assert started.wait(240) == (5 if ranks == 1 else 1), log.read_text()
    finally:
        started.kill()
        started.wait()
    assert record(run)["status"] == "lost-rank" and record(run)["code"] == 5, log.read_text()
    assert "DataLoader worker (pid" in log.read_text()
    (run / "slurm").mkdir()
    assert verdict(run, since=0, retries=1) == "5 again"
    steps = commit.committed(run / "checkpoints")[-1]
    assert train(tmp_path, data, *words[1:], f"train.steps={steps + 2}") == 0


SLOW_SHEET = """
import time
from trainer import job
write = job.write_sheet

def slow(parts, at):
    write(parts, at)
    if not parts.engine.ranks.comm.rank:
        time.sleep(30)

job.write_sheet = slow
"""


@pytest.mark.slow
@pytest.mark.ranks
def test_a_slow_sheet_is_no_hang_of_the_others(tmp_path: Path, data: Path) -> None:
    """Rank 0 takes longer over a sheet than a step may take: the other rank waits as patiently."""
    words = ("train.steps=1", "train.hang_seconds=25", "train.sample_minutes=0.000001",
             "train.pictures=false")  # fmt: skip
    ended = run_script(tmp_path / "slow.py", SLOW_SHEET, tmp_path, data, *words, ranks=2)
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "run" / "samples").glob("step-*.png"))
