"""Whole searches: a real local Ray, real trainings of a second or two, a driver killed with -9."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.footage import tiny_set
from tests.support.training import ROOT, SMALL, environment
from trainer.evaluate import main as evaluate
from trainer.main import main as train
from tuning import processes
from tuning.ledger import Ledger
from tuning.objectives import FIT_STEPS
from tuning.records import DONE, STOPPED, folder_of, read_records
from tuning.search import main

SPACE = "latents.static: {low: 4, high: 12}\nloss.margin: {low: 0.5, high: 2.0, log: true}\n"
FIXED = [word for word in SMALL if not word.startswith("latents.static")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"), identities=3, actions=2, frames=4, size=32)


def words(data: Path, out: Path, *more: str, trials: int = 3) -> list[str]:
    space = out.parent / "space.yaml"
    space.write_text(SPACE)
    return ["--manifest", str(data), "--cpu-hours", "1", "--space", str(space), "--out", str(out),
            "--trials", str(trials), "--max-concurrent", "1", *more, *FIXED]  # fmt: skip


def needs_ray() -> None:
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")


def search(line: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tuning" / "search.py"), *line], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def seen_from_outside(pid: int) -> tuple[set[int], set[str]]:
    """Priorities of the processes below one, and the addresses that they listen on."""
    nice, listening = set(), set()
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            nice.add(process.nice())
            sockets = process.net_connections("tcp")
            listening |= {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    return nice, listening


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_search_ends_with_a_file_that_repeats_its_best(tmp_path: Path, data: Path) -> None:
    """Three trials, a report, and best.yaml trains to the same PSNR bit for bit; again is free."""
    needs_ray()
    out = tmp_path / "study"
    line = words(data, out, "--steps", "12")
    first = search(line)
    told, _ = first.communicate()
    assert first.returncode == 0, told
    records = read_records(out)
    assert [r.status for r in records].count(DONE) >= 1 and len(records) == 3
    assert {r.status for r in records} <= {DONE, STOPPED}
    account = Ledger(out).account()
    assert not account.open() and all(account.of_trial(r.id) > 0 for r in records)
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["t0000", "t0001", "t0002"]
    page = (out / "report.html").read_text()
    assert "<polyline" in page and "data:image/png" in page and "http" not in page
    winner = max((r for r in records if r.status == DONE), key=lambda r: r.scores["psnr"])
    assert train(["--config", str(out / "best.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    again = json.loads((tmp_path / "runs" / "study-best" / "run.json").read_text())
    assert again["final"]["psnr"] == winner.scores["psnr"]
    assert not (out / "driver.json").exists() and not (out / "ray").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_killed_driver_loses_no_finished_trial(tmp_path: Path, data: Path) -> None:
    """Killed with -9 once a trial has finished: the same command keeps it, ends what was left
    behind, goes on with the budget that is left, and finishes. While it ran, nothing of it
    listened beyond this machine or ran at a lower priority."""
    needs_ray()
    out = tmp_path / "study"
    line = words(data, out, "--steps", "9", "--scheduler", "none", trials=2)
    driver = search(line)
    assert driver.stdout is not None
    for told in driver.stdout:
        if f"  {DONE}  " in told:
            break
    nice, listening = seen_from_outside(driver.pid)
    assert nice == {os.getpriority(os.PRIO_PROCESS, 0)}
    assert listening and all(address.endswith("127.0.0.1") for address in listening)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    known = {r.id: r for r in read_records(out) if r.status == DONE}
    before = {name: x for name, x in Ledger(out).account().leases.items() if x.ended}
    assert known and before
    left = json.loads((out / "driver.json").read_text())["left"]
    second = search(line)
    told, _ = second.communicate()
    assert second.returncode == 0, told
    records = {r.id: r for r in read_records(out)}
    assert {name: records[name] for name in known} == known
    assert [r.status for r in records.values()] == [DONE, DONE]
    account = Ledger(out).account()
    # What a lease held ahead it may have given back: its trial noticed that Ray was gone.
    assert {name: account.leases[name] for name in before} == before and not account.open()
    assert not any(processes.alive(processes.Process(*item)) for item in left)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_trial_is_judged_by_videos_it_never_saw(tmp_path: Path, vgg_file: Path) -> None:
    """Motion and consistency of held-out videos, as `trainer.evaluate` finds them again."""
    needs_ray()
    data = tiny_set(tmp_path, size=32, hold_out=(("red-disc", "turn"),))
    out, names = tmp_path / "study", ("unseen-mcs", "unseen-fcs")
    line = words(data, out, "--vgg", str(vgg_file), "--objective", *names, trials=1)
    done = search([*line, "--steps", "12"])
    told, _ = done.communicate()
    assert done.returncode == 0, told
    scores = read_records(out)[0].scores
    run = folder_of(out, read_records(out)[0].id)
    assert evaluate([str(run), "--vgg", str(vgg_file), "--fit", str(FIT_STEPS)]) == 0
    table = {s["name"]: s for s in json.loads((run / "evaluation.json").read_text())["scores"]}
    assert scores["unseen-mcs"] == table["MCS, unseen"]["value"]
    assert scores["unseen-fcs"] == table["FCS, unseen"]["distance"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--cpu-hours", "0"), "budget: 0 hours is empty"),
        (("--space", "SPACE"), r"latents.statc: no such setting; did you mean latents.static\?"),
        (("--gpus-per-trial", "1"), "the budget is of cores"),
        (("--trial-cap", "0.01"), "--trial-cap: 0.01 accelerator-seconds are less than the"),
        (("--objective", "exchange"), "held-out|identities"),
        (("--objective", "unseen-fcs"), "unseen-fcs needs .*/held-out; prepare"),
        (("--searcher", "pb2", "--scheduler", "asha"), "asha: pb2 ranks its members itself"),
        (("--searcher", "pb2", "--population", "1"), "--population: 1: at least 2 members"),
        (("--objective", "speed"), "'speed' is none of"),
        (("train.steps=3",), "the search sets train.steps itself"),
        (("--manifest", "/nowhere"), "no manifest|nowhere"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture, more: tuple[str, ...], said: str
) -> None:
    """Exit code 2 and one line, before anything is started or written."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("latents.statc: [1]\n")
    out = tmp_path / "study"
    more = tuple(str(wrong) if word == "SPACE" else word for word in more)
    assert main([*words(data, out), *more]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(said, told), told
    assert not out.exists()


def test_more_gpus_than_there_are(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    """Named before Ray starts."""
    line = words(data, tmp_path / "study")
    at = line.index("--cpu-hours")
    line[at : at + 2] = ["--gpu-hours", "1"]
    assert main([*line, "--gpus-per-trial", "4096"]) == 2
    assert "this machine has" in capsys.readouterr().err


def test_help_is_there_without_ray() -> None:
    """--help imports neither ray nor torch."""
    script = (
        "import sys; from tuning.search import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print({'ray', 'torch', 'optuna'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True,
                         text=True, check=False)  # fmt: skip
    assert run.stdout.endswith("set()\n"), run.stderr
