"""Whole searches: a real local Ray, real trainings of a second or two, a driver killed with -9."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from data_shards.footage import SourceOptions
from data_shards.options import Options
from data_shards.prepare import prepare
from tests.support.footage import tiny_set
from tests.support.training import ROOT, SMALL, environment
from trainer.cards import CELLS
from trainer.config import resolve
from trainer.main import main as train
from tuning import processes
from tuning.ledger import Ledger
from tuning.objectives import OBJECTIVES, scores_of
from tuning.records import BUDGET, DONE, FAILED, STOPPED, Record, read_records
from tuning.search import main, without_winner

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


def unlabelled(folder: Path) -> Path:
    """A set whose videos have neither identity nor action; cells are held out beside it."""
    about = SourceOptions(identities=2, actions=2, length=4, size=16)
    options = Options(source="synthetic", frames=4, height=16, width=16, labels="none", about=about)
    prepare(options, out=folder)
    (folder / "held-out").mkdir()
    return folder


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
def test_a_spent_budget_is_extended_and_ends_with_a_file_that_repeats_its_best(
    tmp_path: Path, data: Path
) -> None:
    """Two core-seconds are no training: the trial is cut short, and overspends by an interval at
    most. With a larger budget the same one goes on: three trials, a report, and best.yaml trains to
    the same PSNR bit for bit."""
    needs_ray()
    out = tmp_path / "study"
    line = words(data, out, "--steps", "60", "--interval", "1")
    at = line.index("--cpu-hours") + 1
    first = search([*line[:at], "0.0006", *line[at + 1 :]])
    told, _ = first.communicate()
    assert first.returncode == 1 and "no trial has finished; give a larger budget" in told, told
    (cut,), account = read_records(out), Ledger(out).account()
    assert cut.status == BUDGET and cut.reason.startswith("the budget is spent"), told
    assert not account.open() and account.budget == pytest.approx(2.16)
    assert account.spent <= account.budget + 1
    second = search(line)
    told, _ = second.communicate()
    assert second.returncode == 0, told
    records = read_records(out)
    assert [r.status for r in records].count(DONE) >= 1 and len(records) == 3
    assert records[0].id == cut.id and records[0].status == DONE
    assert {r.status for r in records} <= {DONE, STOPPED}
    before, account = account, Ledger(out).account()
    assert account.budget == 3600 and before.leases.items() <= account.leases.items()
    assert not account.open() and all(account.of_trial(r.id) > 0 for r in records)
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["t0000", "t0001", "t0002"]
    page = (out / "report.html").read_text()
    assert "<polyline" in page and "data:image/png" in page and "http" not in page
    winner = max((r for r in records if r.status == DONE), key=lambda r: r.scores["psnr"])
    assert train(["--config", str(out / "best.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    again = json.loads((tmp_path / "runs" / f"study-{winner.id}" / "run.json").read_text())
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


def by_hand(run: Path) -> dict[str, float]:
    """Every objective of a run on five videos of four frames, each with rows of its own, from
    its files."""
    found = json.loads((run / "evaluation.json").read_text())
    scores = {score["name"]: score for score in found["scores"]}
    (cell,) = found["held_out"]["cells"]
    named = {
        f"{before}{name.lower()}": scores[f"{name}{after}"]
        for before, after in (("", ""), ("unseen-", ", unseen"))
        for name in ("MCS", "FCS") if f"{name}{after}" in scores
    }  # fmt: skip
    read = {name: x["value" if "mcs" in name else "distance"] for name, x in named.items()}
    (networks,) = (run / "checkpoints").glob("step-*12/common-networks.safetensors")
    static = resolve(file=str(run / "config.yaml")).latents.static
    return {
        **read, "psnr": json.loads((run / "run.json").read_text())["final"]["psnr"],
        "exchange": cell["psnr"], "unseen": scores["PSNR, unseen"]["value"],
        "bytes": networks.stat().st_size / 5 + 4 * (static + 4 * 10),
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_trial_is_judged_by_every_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, but for motion where there are no VGG16 weights: a finished trial's figures are
    those of its own files, and best.yaml trains to a run which the command in its head gives the
    very same ones."""
    needs_ray()
    data = tiny_set(tmp_path, size=32, hold_out=(("red-disc", "turn"),))
    vgg = os.environ.get("NAVSYNTH_VGG16", "")
    out = tmp_path / "study"
    names = tuple(name for name in OBJECTIVES if vgg or not name.endswith("mcs"))
    line = words(data, out, "--vgg", vgg, "--objective", *names, trials=1)
    done = search([*line, "--steps", "12"])
    told, _ = done.communicate()
    assert done.returncode == 0, told
    scores = read_records(out)[0].scores
    assert scores == {name: by_hand(out / "trials" / "t0000")[name] for name in names}
    monkeypatch.chdir(tmp_path)
    head = [row[2:] for row in (out / "best.yaml").read_text().splitlines() if row[:2] == "# "]
    assert head[1].endswith("--num_processes 1 trainer/main.py --config best.yaml")
    assert train(["--config", str(out / "best.yaml")]) == 0
    threads, python, *program = shlex.split(head[3])
    assert (threads, python, *program[:2]) == (
        "OMP_NUM_THREADS=1", "python", "-m", "trainer.evaluate",
    )  # fmt: skip
    judged = subprocess.run(
        [sys.executable, *program], env=environment(), capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stderr
    again = Path("runs", "study-t0000")
    assert {name: OBJECTIVES[name].read(again, str(data)) for name in names} == scores


BROKEN = """
import sys
from tuning import engine, search

def broken():
    from ray import tune
    class Broken(tune.Trainable):
        def setup(self, config):
            raise RuntimeError("no such device")
    return Broken

engine.make_trainable, engine.RETRIES = broken, 0
sys.exit(search.main(sys.argv[1:]))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_search_whose_workers_never_start_ends(tmp_path: Path, data: Path) -> None:
    """Each trial is recorded with what its worker raised, none has cost anything, and after five
    the search says so in a line instead of drawing trials for ever."""
    needs_ray()
    out = tmp_path / "study"
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *words(data, out, trials=0)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    why = "its Ray worker failed: RuntimeError: no such device"
    line = f"5 trials in a row failed before they had cost an accelerator-second; t0004: {why}"
    assert f"error: {line}\n" in done.stderr and "larger budget" not in done.stdout
    records = read_records(out)
    assert [(r.status, r.reason) for r in records] == [(FAILED, why)] * 5
    assert Ledger(out).account().spent == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--cpu-hours", "0"), "budget: 0 hours is empty"),
        (("--space", "SPACE"), r"latents.statc: no such setting; did you mean latents.static\?"),
        (("--gpus-per-trial", "1"), "the budget is of cores"),
        (("--trial-cap", "0.01"), "--trial-cap: 0.01 accelerator-seconds are less than the"),
        (("--objective", "exchange"), "exchange needs .*/held-out on a disk; prepare"),
        (
            ("--manifest", "UNLABELLED", "--objective", "exchange"),
            "exchange needs footage with identities and actions; .*/unlabelled has none$",
        ),
        (
            ("--workers", "4"),
            "--workers: 4 processes, and a trial is charged 1 core; give --cpus-per-trial 4$",
        ),
        (
            ("--cpus-per-trial", "2.5", "--workers", "3"),
            "--workers: 3 processes, and a trial is charged 2.5 cores; give --cpus-per-trial 3$",
        ),
        (
            ("--manifest", "HELD_OUT", "--objective", "exchange", "latents.static_key=dataset"),
            "latents.static_key: dataset: all videos share one row",
        ),
        (("--objective", "unseen-fcs"), "unseen-fcs needs .*/held-out on a disk; prepare"),
        (("--searcher", "pb2", "--scheduler", "asha"), "asha: pb2 ranks its members itself"),
        (("--searcher", "pb2", "--population", "1"), "--population: 1: at least 2 members"),
        (("--objective", "speed"), "'speed' is none of"),
        (("--objective", "psnr", "bytes", "psnr"), "psnr, bytes, psnr names one twice$"),
        (("--steps", "2"), "--steps: 2 is below 3$"),
        (("--searcher", "pb2", "--steps", "3"), "--steps: 3: pb2 needs at least 4$"),
        (("--trials", "-1"), "--trials: -1 is below 0$"),
        (("--interval", "nan"), "--interval: nan is not above 0$"),
        (
            ("--objective", "mcs", "--vgg", "/no/such.safetensors"),
            r"error: /no/such\.safetensors: not a readable safetensors file of VGG16 weights",
        ),
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
    places = {"SPACE": str(wrong)}
    if "UNLABELLED" in more:
        places["UNLABELLED"] = str(unlabelled(tmp_path / "unlabelled"))
    if "HELD_OUT" in more:
        places["HELD_OUT"] = str(tiny_set(tmp_path, size=32, hold_out=(("red-disc", "turn"),)))
    more = tuple(places.get(word, word) for word in more)
    capsys.readouterr()
    assert main([*words(data, out), *more]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(said, told), told
    assert not out.exists()


@pytest.mark.parametrize("key", ["latents.static_key", "latents.transient_key"])
def test_every_choice_of_a_layout_has_its_labels(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture, key: str
) -> None:
    """Not the first choice alone: trials of the others would fail one by one."""
    space = tmp_path / "layouts.yaml"
    kind = "identity" if key == "latents.static_key" else "action"
    space.write_text(f"{key}: [video, {kind}]\n")
    plain = str(unlabelled(tmp_path / "unlabelled"))
    line = ["--manifest", plain, "--space", str(space)]
    capsys.readouterr()
    assert main([*words(data, tmp_path / "study"), *line]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {key}: {plain} has no {kind} labels; use video or clip\n"


def test_more_gpus_than_there_are(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    """Named before Ray starts."""
    line = words(data, tmp_path / "study")
    at = line.index("--cpu-hours")
    line[at : at + 2] = ["--gpu-hours", "1"]
    assert main([*line, "--gpus-per-trial", "4096"]) == 2
    assert "this machine has" in capsys.readouterr().err


def test_a_search_without_a_winner_says_what_helps() -> None:
    """A larger budget where a trial can go on; else the commonest reason."""
    capped = Record("t0000", {}, (), STOPPED, reason="over its cap of 4 accelerator-seconds")
    lost = Record("t0002", {}, (), FAILED, reason="out of memory")
    assert without_winner([capped, lost, capped]) == (
        "no trial has finished: 2 of 3: over its cap of 4 accelerator-seconds"
    )
    open_ = [], [capped, Record("t0001", {}, (), BUDGET, reason="the budget is spent; saved")]
    for records in open_:
        assert "give a larger budget" in without_winner(records)


def test_an_exchange_without_cells_fails_with_its_reason(tmp_path: Path) -> None:
    """What the evaluation left out, and why, and no Python message."""
    told = {"scores": [], "held_out": None, "left_out": [{"name": CELLS, "why": "no new pair"}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"^exchange: no new pair$"):
        scores_of(("exchange",), tmp_path, "")


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
