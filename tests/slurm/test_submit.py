"""Batch scripts before there is a cluster: what is written, what is refused."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from launch.slurm.__main__ import main
from launch.slurm.cluster import GONE, Job
from launch.slurm.inside import FOLDER, JOB, STOP, begin, verdict
from launch.slurm.script import JobConfig, render, seconds_of
from tests.support.training import ROOT, launch, train
from trainer.comm import Comm
from trainer.commit import read_json, update_json
from trainer.lives import refusal_file
from trainer.runlock import take_lock


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


def test_awkward_names_and_folders_reach_sbatch_whole(tmp_path: Path) -> None:
    """Spaces, quotes, # and % in a run's name and folder: like a shell, sbatch groups by quotes and
    takes what follows a backslash as it is, and so reads one word for each option."""
    home = tmp_path / "a b" / 'it\'s 100% "#1"'
    script = render(JobConfig(), name="navsynth-a b", output=home, folder=home)
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line.removeprefix("#SBATCH "), comments=True) for line in lines]
    assert [len(word) for word in words] == [1] * len(lines)
    options = dict(word[0].removeprefix("--").partition("=")[::2] for word in words)
    assert options["job-name"] == "navsynth-a b" and options["chdir"] == str(home)
    assert options["output"] == f"{home}/%j.out".replace("100%", "100%%")


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
    """--dry-run writes nothing and needs no cluster; processes without a clip are told of beside
    the script."""
    monkeypatch.chdir(tmp_path)
    words = ["submit", "--dry-run", f"data.manifest={data}", "name=x", "--nodes", "4",
             "--gpus-per-node", "8", "--metrics-port", "9100"]  # fmt: skip
    assert main(words) == 0
    told, warned = capsys.readouterr()
    assert warned.startswith("warning: 24 of 32 processes get no clip: schedule.clips is 8; set ")
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


def test_words_may_stand_around_options(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As with `trainer/main.py` itself: settings before and behind a file of settings."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\n")
    line = ["submit", "--dry-run", "name=x", "--config", str(file), f"data.manifest={data}"]
    assert main(line) == 0
    assert f"name=x --config {file} data.manifest={data}" in capsys.readouterr().out


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


ANSWER = """#!/bin/bash
echo "${0##*/} $*" >>"${0%/*}/asked"
printf '%b' '{answer}'
"""


def known_cluster(folder: Path, state: str) -> None:
    """Commands of a SLURM that knows the jobs 7_0 and 7_1 in a state, and notes what it is asked
    for in the file `asked`. The real one is in test_jobs.py."""
    listed = "".join(rf"{8 + task}|7|{task}|{state}|None|0|\n" for task in range(2))
    for name, answer in (("squeue", listed), ("scancel", ""), ("sbatch", r"7\n")):
        (folder / name).write_text(ANSWER.replace("{answer}", answer))
        (folder / name).chmod(0o755)


def test_runs_of_a_sweep_are_cancelled_and_resumed_one_by_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A job that is being queued again is alive: no second one is handed in, and `cancel` ends it.
    After its end `resume` hands in a script for that run alone."""
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    Path("sweep").write_text("name=a seed=1\nname=b seed=2\n")
    known_cluster(commands, "REQUEUED")
    sweep = ["submit", f"data.manifest={data}", "--array", "sweep"]
    assert main(sweep) == 0
    assert read_json(Path("runs", "b", FOLDER, JOB))["job"] == "7_1"
    capsys.readouterr()
    for words, job in ((["resume", "runs/b"], "runs/b: job 7_1"), (sweep, "runs/a: job 7_0")):
        assert main(words) == 2
        assert capsys.readouterr().err == f"error: {job} is requeued; cancel it first\n"
    assert main(["cancel", "runs/b"]) == 0
    assert "scancel 7_1" in (commands / "asked").read_text().splitlines()
    known_cluster(commands, "CANCELLED")
    assert main(["resume", "runs/b"]) == 0
    asked = (commands / "asked").read_text().splitlines()
    assert asked[-1] == "sbatch --parsable runs/b/slurm/train.sbatch"
    script = Path("runs", "b", FOLDER, "train.sbatch").read_text()
    assert f"set -- data.manifest={data} name=b seed=2\n" in script and "--array" not in script
    assert read_json(Path("runs", "b", FOLDER, JOB))["job"] == "7"


@pytest.mark.parametrize("state", ["RUNNING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "STOPPED"])
def test_a_job_is_alive_until_it_is_known_to_have_ended(state: str) -> None:
    """Only states that nothing leads out of are an end."""
    assert Job("1", state, "", 0).alive
    for ended in ("COMPLETED", "CANCELLED", "NODE_FAIL", "TIMEOUT", GONE):
        assert not Job("1", ended, "", 0).alive


def test_a_start_that_is_refused_is_not_queued_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Another job has the folder, or a setting is one that this machine cannot do: code 2 and the
    reason; what the other job wrote, and is known by, stays. A start that gets the folder forgets
    the refusal."""
    run = tmp_path / "run"
    (run / FOLDER).mkdir(parents=True)
    update_json(run / FOLDER / JOB, job="7")
    update_json(run / "run.json", status="running")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    lock = take_lock(run, comm=Comm())
    assert lock is not None
    try:
        begin(["--runs", str(tmp_path), f"data.manifest={data}", "name=run"])
        assert read_json(run / FOLDER / JOB)["job"] == "8"
        assert launch(tmp_path, data, "train.steps=2").returncode == 2
    finally:
        lock.release()
    assert verdict(run, since=0, retries=3) == "2 stop"
    assert "in use by process" in capsys.readouterr().err
    assert read_json(run / "run.json") == {"status": "running"}
    assert read_json(run / FOLDER / JOB)["job"] == "7"
    assert launch(tmp_path, data, "train.steps=2", "train.precision=bf16").returncode == 2
    assert refusal_file(run).exists() and read_json(run / "run.json") == {"status": "running"}
    assert train(tmp_path, data, "train.steps=2") == 0
    assert verdict(run, since=0, retries=3) == "0 stop"


@pytest.mark.parametrize("script", ["train.sbatch", "train.sbatch.j2", "search.sbatch"])
def test_a_signal_never_meets_a_command_substitution(script: str) -> None:
    """While bash 5.2 expands $(...), a trap fails ("unexpected EOF") or breaks the command: with
    traps set there is none, or a warning of SLURM's could be lost."""
    text = (ROOT / "launch" / "slurm" / script).read_text()
    _, *armed = re.split(r"^trap ", text, flags=re.MULTILINE)
    assert armed
    for line in "".join(armed).splitlines():
        assert not re.search(r"\$\((?!\()|`|<\(", line.partition("# ")[0]), line
