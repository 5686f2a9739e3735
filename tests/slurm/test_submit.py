"""Batch scripts before there is a cluster: what is written, what is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from launch.slurm.__main__ import main
from launch.slurm.inside import FOLDER, JOB, STOP, verdict
from launch.slurm.script import JobConfig, render, seconds_of
from tests.support.training import ROOT
from trainer.commit import read_json, update_json


def test_the_plain_script_is_the_template_filled_in() -> None:
    """`train.sbatch` is what the template gives for any user: change one, and make the other."""
    assert (ROOT / "launch" / "slurm" / "train.sbatch").read_text() == render(
        JobConfig(), plain=True
    )


@pytest.mark.parametrize(
    "job",
    [
        JobConfig(),
        JobConfig(nodes=4, gpus_per_node=8, cpus_per_task=96, memory="500G", partition="gpu",
                  account="video", setup=("module load cuda",), venv="/home/a b/venv",
                  more=("qos=high", "exclusive"), restarts=2, zero=1),
        JobConfig(container="image.sif", gpus_per_node=1),
    ],
)  # fmt: skip
def test_scripts_are_shell(job: JobConfig, tmp_path: Path) -> None:
    """Every script parses, sweeps and awkward words included."""
    for sweep in ((), (["name=a b", "x='1'"], ["name=c"])):
        script = render(job, words=["data.manifest=/a b/$c"], sweep=sweep, output=tmp_path)
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True,
                                 check=False)  # fmt: skip
        assert checked.returncode == 0, checked.stderr
        assert script.index("#SBATCH --requeue") < script.index("set -u")


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--venv", "/home/a b/venv"],
         ["source '/home/a b/venv'/bin/activate", "python=(python)"]),
        (["--container", "image.sif"],
         ['python=(apptainer exec --bind "$PWD" image.sif python)']),
        (["--container", "my image.sif", "--gpus-per-node", "2"],
         ["""python=(apptainer exec --nv --bind "$PWD" 'my image.sif' python)""", "processes=2"]),
        (["--setup", "module load cuda", "--setup", "export A='b c'"],
         ["module load cuda", "export A='b c'"]),
    ],
)  # fmt: skip
def test_hooks_come_before_everything_that_needs_them(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    options: list[str],
    lines: list[str],
) -> None:
    """Modules, virtual environments and containers, as a dry run prints them: each on a line of its
    own, in order, before the run is begun."""
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "--dry-run", f"data.manifest={data}", *options]) == 0
    told = [line.partition("  #")[0].rstrip() for line in capsys.readouterr().out.splitlines()]
    places = [told.index(line) for line in lines]
    begin = next(i for i, line in enumerate(told) if "-m launch.slurm begin" in line)
    assert places == sorted(places) and places[-1] < begin


def test_a_dry_run_prints_the_script(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """--dry-run writes nothing and needs no cluster."""
    monkeypatch.chdir(tmp_path)
    words = ["submit", "--dry-run", f"data.manifest={data}", "name=x", "--nodes", "4",
             "--gpus-per-node", "8", "--metrics-port", "9100"]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().out
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --signal=B:USR1@120",
        f"#SBATCH --output={tmp_path}/runs/x/slurm/%j.out",
        "processes=8",
        "set -- telemetry.targets=runs/targets/ telemetry.address=0.0.0.0 telemetry.port=9100 "
        f"data.manifest={data} name=x",
    ):
        assert line in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.steeps=1"], "train.steeps: no such setting; did you mean train.steps?"),
        (["data.manifest=/nowhere"], "/nowhere/manifest.json: No such file or directory"),
        (["--nodes", "0"], "--nodes: 0 is below 1"),
        (["--time", "3"], "--time: 3 is less than twice --signal-seconds 120"),
        (["--time", "soon"], "--time: 'soon' is not a time such as"),
        (["--array", "none.txt"], "none.txt: cannot be read"),
        (["--partition", "a b"], "'a b': an sbatch option holds no spaces"),
    ],
)
def test_mistakes_never_reach_the_queue(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    """Settings, footage, options are looked at before anything is handed in: one line, code 2."""
    monkeypatch.chdir(tmp_path)
    assert main(["submit", f"data.manifest={data}", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}") and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_two_runs_of_a_sweep_need_two_folders(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Lines of a sweep that would train in one folder are named."""
    (tmp_path / "sweep").write_text("seed=1\nseed=2\n")
    assert main(["submit", f"data.manifest={data}", "--array", str(tmp_path / "sweep")]) == 2
    assert "lines 1 and 2 would both train in runs/" in capsys.readouterr().err


def test_times_are_read_as_slurm_reads_them() -> None:
    """Minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    for time, seconds in (("90", 5400), ("2:30", 150), ("1:00:00", 3600), ("1-2", 93600),
                          ("1-0:30", 88200), ("0-0:0:9", 9)):  # fmt: skip
        assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("status", "answers"),
    [
        ("done", ["0 stop"]),
        ("preempted", ["6 again", "6 again", "6 again"]),
        ("hang", ["4 again", "4 again", "4 stop"]),
        ("running", ["5 again", "5 again", "5 stop"]),
        ("non-finite", ["3 stop"]),
        ("user-error", ["2 stop"]),
        ("failed", ["1 stop"]),
    ],
)
def test_what_the_run_wrote_decides(tmp_path: Path, status: str, answers: list[str]) -> None:
    """Saved runs come again, lost ones a few times in a row, wrong ones never."""
    (tmp_path / FOLDER).mkdir()
    update_json(tmp_path / "run.json", status=status)
    assert [verdict(tmp_path, since=0, retries=2) for _ in answers] == answers


def test_a_new_checkpoint_forgives_earlier_failures(tmp_path: Path) -> None:
    """The count of failures begins again where a run has come further."""
    (tmp_path / FOLDER).mkdir()
    update_json(tmp_path / "run.json", status="lost-rank")
    for step in (10, 20, 30):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        assert verdict(tmp_path, since=0, retries=1) == "5 again"
    assert verdict(tmp_path, since=0, retries=1) == "5 stop"
    assert read_json(tmp_path / FOLDER / JOB)["failures"] == 2


def test_a_run_that_never_came_to_life_is_lost_whatever_it_said_before(tmp_path: Path) -> None:
    """An old `done` or `preempted` is not taken for the answer of a new life."""
    (tmp_path / FOLDER).mkdir()
    update_json(tmp_path / "run.json", status="preempted")
    before = (tmp_path / "run.json").stat().st_mtime_ns
    assert verdict(tmp_path, since=before, retries=1) == "5 again"
    (tmp_path / FOLDER / STOP).touch()
    assert verdict(tmp_path, since=0, retries=1) == "0 stop"


@pytest.mark.parametrize("script", ["train.sbatch", "train.sbatch.j2", "search.sbatch"])
def test_a_signal_never_meets_a_command_substitution(script: str) -> None:
    """While bash 5.2 expands $(...), a trap fails ("unexpected EOF") or breaks the command: with
    traps set there is none, or a warning of SLURM's could be lost."""
    text = (ROOT / "launch" / "slurm" / script).read_text()
    _, *armed = re.split(r"^trap ", text, flags=re.MULTILINE)
    assert armed
    for line in "".join(armed).splitlines():
        assert not re.search(r"\$\((?!\()|`|<\(", line.partition("# ")[0]), line
