"""Runs as jobs of a real SLURM: finished, interrupted, cancelled, killed, in arrays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from launch.slurm.__main__ import main
from tests.support.cluster import Cluster, wait_for
from tests.support.training import ROOT, SMALL, tensors
from trainer.commit import committed

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600)]

STEPS = 100
WORDS = (*SMALL, f"train.steps={STEPS}", "train.log_steps=1", "checkpoint.steps=50")
TWO_BY_TWO = ("--nodes", "2", "--processes-per-node", "2")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs are handed in from here; runs/ lies here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(data: Path, *words: str, name: str = "run") -> str:
    """Hand a run in; its job's number."""
    assert main(["submit", f"data.manifest={data}", f"name={name}", *WORDS, *words]) == 0
    return json.loads(Path("runs", name, "slurm", "job.json").read_text())["job"]


def record(name: str = "run") -> dict:
    path = Path("runs", name, "run.json")
    return json.loads(path.read_text()) if path.exists() else {}


def log(name: str = "run") -> str:
    return "\n".join(p.read_text() for p in Path("runs", name, "slurm").glob("*.out"))


def at_work(name: str = "run") -> None:
    """Wait until a run takes steps."""
    path = Path("runs", name, "metrics.jsonl")
    wait_for(lambda: path.exists() and path.stat().st_size, f"steps of {name}: {log(name)}")


@pytest.fixture(scope="session")
def straight(
    slurm: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """What an uninterrupted job of two nodes with two processes each comes to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("straight"))
        job = submit(data, *TWO_BY_TWO)
        assert slurm.wait_end(job) == "COMPLETED", log()
        assert record()["status"] == "done" and record()["starts"][0]["world"] == 4
        return tensors(Path("runs", "run"), STEPS)


def test_asked_to_make_room_it_saves_is_queued_again_and_ends_as_if_never_stopped(
    slurm: Cluster, data: Path, straight: dict
) -> None:
    """USR1, as SLURM sends it before the time limit; the second life ends on the same bits."""
    job = submit(data, *TWO_BY_TWO)
    at_work()
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.show(job).get("Restarts") == "1", f"a requeue: {log()}")
    assert record()["status"] == "preempted"
    assert slurm.wait_end(job) == "COMPLETED", log()
    assert record()["status"] == "done" and len(record()["starts"]) == 2
    ended = tensors(Path("runs", "run"), STEPS)
    assert ended.keys() == straight.keys()
    assert [name for name in ended if not torch.equal(ended[name], straight[name])] == []


def test_asked_before_it_has_begun_a_run_begins_saves_and_makes_room(
    slurm: Cluster, data: Path
) -> None:
    """SLURM may send its signal a minute early, while srun itself is still being loaded: the
    processes hear it as soon as they can, and no failure is counted."""
    slow = 'srun() { touch loading; sleep 5; exec srun "$@"; }'
    job = submit(data, "--setup", slow, "train.steps=1000000")
    wait_for(Path("loading").exists, f"a start: {log()}")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.show(job).get("Restarts") == "1", f"a requeue: {log()}")
    assert record().get("status") == "preempted", log()
    assert "failures" not in json.loads(Path("runs", "run", "slurm", "job.json").read_text())
    slurm.run("scancel", job)
    assert slurm.wait_end(job) == "CANCELLED", log()


def test_a_time_limit_costs_nothing(slurm: Cluster, data: Path) -> None:
    """SLURM itself sends USR1 before the limit of a minute: the run saves, is queued again, and its
    next job goes on at that step. Nobody else asks."""
    job = submit(data, "--time", "1", "--signal-seconds", "30", "train.steps=1000000")
    wait_for(lambda: slurm.show(job).get("Restarts") == "1", f"a requeue: {log()}")
    assert record()["status"] == "preempted", log()
    steps = committed(Path("runs", "run", "checkpoints"))
    assert record()["step"] == steps[-1] >= 1

    def again() -> bool:
        slurm.hurry(job)
        return len(record().get("starts", [])) > 1

    wait_for(again, f"a second life: {log()}")
    wait_for(lambda: f"resumed at step {steps[-1]} " in str(record()["events"]), log())

    def cancelled() -> bool:
        slurm.run("scancel", job)  # again and again: it may just be queued once more
        return slurm.state(job) == "CANCELLED"

    wait_for(cancelled, f"the end of job {job}")


def test_a_node_that_dies_costs_no_more_than_a_save_interval(slurm: Cluster, data: Path) -> None:
    """One of two nodes loses its power: the job is queued again and finishes."""
    job = submit(data, "--nodes", "2")
    at_work()
    slurm.kill_node("n2")
    wait_for(lambda: slurm.show(job).get("Restarts") == "1", f"a requeue: {log()}")
    slurm.start_node("n2")
    assert slurm.wait_end(job) == "COMPLETED", log()
    assert record()["status"] == "done" and len(record()["starts"]) == 2


def test_scancel_saves_and_the_run_can_be_handed_in_again(
    slurm: Cluster, data: Path, capsys: pytest.CaptureFixture
) -> None:
    """A second job of the run is refused. A cancelled one has saved, is not queued again by itself,
    and `resume` goes on."""
    run = Path("runs", "run")
    job = submit(data, "--nodes", "2", "train.steps=100000")
    at_work()
    assert main(["submit", f"data.manifest={data}", "name=run", *WORDS]) == 2
    assert f"job {job} is running; cancel it first" in capsys.readouterr().err
    slurm.run("scancel", job)
    assert slurm.wait_end(job) == "CANCELLED", log()
    wait_for(lambda: record().get("status") == "preempted", f"a save: {log()}")
    assert list((run / "checkpoints").glob("step-*"))
    wait_for(lambda: slurm.states() == ["idle", "idle"], "idle nodes")
    assert main(["resume", str(run)]) == 0
    wait_for(lambda: len(record()["starts"]) == 2, f"a second life: {log()}")
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert "running" in capsys.readouterr().out
    assert main(["cancel", str(run)]) == 0
    again = json.loads((run / "slurm" / "job.json").read_text())["job"]
    assert again != job and slurm.wait_end(again) == "COMPLETED", log()
    assert slurm.show(again)["Restarts"] == "0"
    assert record()["status"] == "preempted"
    assert main(["logs", str(run)]) == 0 and "run: preempted" in capsys.readouterr().out


def test_a_sweep_is_a_job_array(slurm: Cluster, data: Path) -> None:
    """Each line of the file becomes a run of its own, which can be handed in again by itself."""
    Path("sweep.txt").write_text("name=a seed=1  # first\n\nname=b seed=2\n")
    words = (*WORDS, "train.steps=4", f"data.manifest={data}")
    assert main(["submit", *words, "--array", "sweep.txt"]) == 0
    for name, seed in (("a", 1), ("b", 2)):
        job = json.loads(Path("runs", name, "slurm", "job.json").read_text())["job"]
        assert slurm.wait_end(job) == "COMPLETED"
        assert record(name)["status"] == "done"
        assert f"\nseed: {seed}\n" in Path("runs", name, "config.yaml").read_text()
    assert main(["resume", "runs/b"]) == 0
    again = json.loads(Path("runs", "b", "slurm", "job.json").read_text())["job"]
    assert slurm.wait_end(again) == "COMPLETED"
    assert [len(record(name)["starts"]) for name in "ab"] == [1, 2]


def test_the_plain_script_trains_too(slurm: Cluster, data: Path) -> None:
    """`sbatch launch/slurm/train.sbatch` with settings as its arguments; bad ones end in code 2."""
    script = str(ROOT / "launch" / "slurm" / "train.sbatch")
    words = ["--parsable", script, *WORDS, "train.steps=4", f"data.manifest={data}", "name=plain"]
    job = slurm.run("sbatch", *words).strip()
    bad = slurm.run("sbatch", *words, "train.steeps=4").strip()
    assert slurm.wait_end(job) == "COMPLETED"
    assert record("plain")["status"] == "done"
    assert slurm.wait_end(bad) == "FAILED" and slurm.show(bad)["ExitCode"] == "2:0"
