"""What SLURM refuses, what it was never given, and machines without it: one line, code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch.slurm.__main__ import main
from launch.slurm.inside import FOLDER, JOB
from tests.slurm.test_submit import known_cluster
from trainer.commit import read_json, update_json

REFUSES = """#!/bin/bash
echo "sbatch: error: invalid partition specified: gold" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
exit 1
"""
UNKNOWN = "runs/x: no SLURM job is known of it (slurm/job.json)"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose commands come before those of the machine; the test runs beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_script_that_slurm_refuses_can_be_handed_in_again(
    data: Path, commands: Path, capsys: pytest.CaptureFixture
) -> None:
    """SLURM's reason is told, and no job is noted that would keep the next one out."""
    (commands / "sbatch").write_text(REFUSES)
    (commands / "sbatch").chmod(0o755)
    words = ["submit", f"data.manifest={data}", "name=x", "--partition", "gold"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: sbatch: ") and told.count("\n") == 1
    assert told.endswith("Batch job submission failed: Invalid partition name specified\n")
    assert not Path("runs", "x", FOLDER, JOB).exists()
    known_cluster(commands, "PENDING")
    assert main(words) == 0
    assert read_json(Path("runs", "x", FOLDER, JOB))["job"] == "7"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--dry", "--dry"),
        ("--node", "--node"),
        ("--gpu", "--gpu"),
        ("--ranks=8", "--ranks"),
        ("--gpus", "--gpus"),
        ("--no-gpus", "--no-gpus"),
    ],
)
def test_a_wrong_option_is_no_job(
    data: Path, commands: Path, capsys: pytest.CaptureFixture, word: str, said: str
) -> None:
    """What `submit` does not know is no option of a job: `--dry` would have been one that trains
    nothing and is queued again."""
    known_cluster(commands, "PENDING")
    assert main(["submit", word, f"data.manifest={data}", "name=x"]) == 2
    assert capsys.readouterr().err == f"error: {said}: no option of a job; see submit --help\n"
    assert not (commands / "asked").exists()


def test_a_machine_without_slurm_can_only_show_the_script(
    data: Path, commands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The command that is not there is named, and what can be done here works."""
    monkeypatch.setenv("PATH", str(commands))
    submit = ["submit", f"data.manifest={data}", "name=x"]
    for words, command in ((submit, "sbatch"), (["status", "runs/x"], "squeue")):
        assert main(words) == 2
        assert capsys.readouterr().err == (
            f"error: {command}: not found; run this on a machine of the cluster, or look at the "
            "script with --dry-run\n"
        )
        update_json(Path("runs", "x", FOLDER, JOB), job="7")
    assert main([*submit, "--dry-run"]) == 0
    assert "#SBATCH --nodes=1" in capsys.readouterr().out


def test_a_run_without_a_script_is_not_resumed(
    commands: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its job, begun by a script of the user's own, is over; nothing is handed in."""
    known_cluster(commands, "COMPLETED")
    Path("runs", "x", FOLDER).mkdir(parents=True)
    update_json(Path("runs", "x", FOLDER, JOB), job="7")
    assert main(["resume", "runs/x"]) == 2
    said = "runs/x/slurm/train.sbatch: not there; the run was not handed in by `submit`"
    assert capsys.readouterr().err == f"error: {said}\n"
    (asked,) = (commands / "asked").read_text().splitlines()
    assert asked.startswith("squeue ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume", "runs/x"], UNKNOWN),
        (["cancel", "runs/x"], UNKNOWN),
        (["status", "runs/x"], UNKNOWN),
        (["status"], "runs: no run with a SLURM job; name the run folder"),
        (["logs", "runs/x"], "runs/x/slurm: no log yet"),
    ],
)
def test_a_run_that_slurm_was_never_given(
    commands: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    said: str,
) -> None:
    """Trained by hand: SLURM is not asked, and need not be there."""
    monkeypatch.setenv("PATH", str(commands))
    Path("runs", "x").mkdir(parents=True)
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
