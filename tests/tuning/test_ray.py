"""What a real local Ray gives back: of trials stopped at rungs, of killed workers and raylets; and
trials of several workers, which best.yaml repeats through accelerate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.tuning_kills import parent_of, raylet_below, steps, until
from data_shards.cores import cores
from tests.support.footage import tiny_set
from tests.support.training import CONFIG, ROOT, SMALL, environment
from tests.tuning.test_search import needs_ray, search, words
from trainer.main import main as train
from tuning import processes
from tuning.ledger import Ledger
from tuning.nursery import AVAILABLE
from tuning.records import DONE, STOPPED, read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"), identities=3, actions=2, frames=4, size=32)


COUNTED = """
import json, sys, threading, time
from pathlib import Path
from tuning import engine, processes, search
from tuning.records import read_records

ray = engine.import_ray(local=True)
from ray.util import placement_group_table

file, line = Path(sys.argv[1]), sys.argv[2:]
out = Path(line[line.index("--out") + 1])
over, seen, shutdown = threading.Event(), [], ray.shutdown

def count():
    groups = [group["state"] for group in placement_group_table().values()]
    known = [processes.Process(*record.process) for record in read_records(out) if record.process]
    return sum(state != "REMOVED" for state in groups), sum(map(processes.alive, known))

def watch():
    while not over.wait(0.2):
        if (out / engine.DRIVER).exists():  # Ray is connected
            seen.append(count())

def last():
    over.set()
    thread.join()
    end = time.monotonic() + 30
    while any(count()) and time.monotonic() < end:
        time.sleep(0.1)
    file.write_text(json.dumps({"seen": seen, "left": count()}))
    shutdown()

ray.shutdown = last
thread = threading.Thread(target=watch, daemon=True)
thread.start()
sys.exit(search.main(line))
"""


def test_a_trial_stopped_at_a_rung_gives_back_all_that_it_held(tmp_path: Path, data: Path) -> None:
    """A grid of one good rate, the one given, and three at which nothing is learnt: those
    are stopped at their first rung. One trial runs at a time, so there is one training at any
    moment, no more than its placement group and that of its successor, and nothing in the end."""
    needs_ray()
    space, out, counted = tmp_path / "space.yaml", tmp_path / "study", tmp_path / "counted"
    space.write_text("optim.gamma_rate: [0.005, 0.3, 0.25, 0.2]\n")
    line = ["--manifest", str(data), "--cpu-hours", "1", "--space", str(space), "--out", str(out),
            "--searcher", "grid", "--max-concurrent", "1", "--steps", "360", "--interval", "1",
            *SMALL]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(counted), *line], env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records, account = read_records(out), Ledger(out).account()
    assert [record.status for record in records] == [DONE, *[STOPPED] * 3], done.stdout
    for record in records[1:]:
        assert record.reason == "stopped at a rung" and record.rungs[0][0] == 40
        assert record.step < 360 and account.of_trial(record.id) > 0
    found = json.loads(counted.read_text())
    groups, trainings = zip(*found["seen"], strict=True)
    assert 1 <= max(groups) <= 2 and max(trainings) == 1
    assert found["left"] == [0, 0] and not account.open()


@pytest.mark.ranks
@pytest.mark.skipif(cores() < 2, reason="two workers need two cores")
def test_a_trial_of_two_workers_is_repeated_through_accelerate(tmp_path: Path, data: Path) -> None:
    """A data-parallel training like any other: the command in the head of best.yaml trains to its
    PSNR bit for bit."""
    needs_ray()
    out = tmp_path / "study"
    line = words(data, out, "--workers", "2", "--cpus-per-trial", "2", "--steps", "9", trials=1)
    first = search(line)
    told, _ = first.communicate()
    assert first.returncode == 0, told
    (record,) = read_records(out)
    assert record.status == DONE and not Ledger(out).account().open()
    assert starts(out / "trials" / "t0000") == [2]
    head = (out / "best.yaml").read_text().splitlines()[1]
    assert head == (
        "# accelerate launch --config_file accelerate_config.yaml --num_processes 2 "
        "trainer/main.py --config best.yaml"
    )
    again = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file",
         str(CONFIG), "--num_processes", "2", "--main_process_port", "0",
         str(ROOT / "trainer" / "main.py"), "--config", str(out / "best.yaml"), "--runs",
         str(tmp_path / "runs")],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    run = tmp_path / "runs" / "study-t0000"
    assert starts(run) == [2]
    final = json.loads((run / "run.json").read_text())["final"]
    assert final["psnr"] == record.scores["psnr"]


def starts(run: Path) -> list[int]:
    """Processes of each life of a run."""
    return [start["world"] for start in json.loads((run / "run.json").read_text())["starts"]]


def training(study: Path, *, other_than: processes.Process | None = None) -> processes.Process:
    """The study's training, once it takes steps."""

    def found() -> processes.Process | None:
        for record in read_records(study):
            known = processes.Process(*record.process) if record.process else None
            at_work = known and processes.alive(known) and steps(study, record.id)
            if at_work and known != other_than:
                return known
        return None

    return until(found, "a training at work")


@contextmanager
def side_by_side(study: Path, *, over: Callable[[], object]) -> Iterator[list[processes.Process]]:
    """Two trainings of a study that run at the same time. Each is held (SIGSTOP) as soon as it is
    seen, until both are: the first might be through before there is room for the second. Fewer than
    two where the search is `over`, or after three minutes."""
    held: list[processes.Process] = []
    end = time.monotonic() + 180
    try:
        while len(held) < 2 and not over() and time.monotonic() < end:
            for record in read_records(study):
                known = processes.Process(*record.process) if record.process else None
                if known and known not in held and processes.alive(known):
                    os.kill(known.pid, signal.SIGSTOP)
                    held.append(known)
            time.sleep(0.1)
        yield held
    finally:
        for known in held:
            with suppress(ProcessLookupError):
                os.kill(known.pid, signal.SIGCONT)


@pytest.mark.skipif(not AVAILABLE, reason="who started a training: needs Linux")
def test_a_killed_worker_and_a_killed_raylet_cost_no_trial(tmp_path: Path, data: Path) -> None:
    """Killed with -9. After the worker its trial goes on with another one. Without its raylet the
    search ends in a line, its training ends, and what there is is written down; the same command
    finishes the trial, and no lease stays open. best.yaml, which is trained at one go, comes to the
    same PSNR bit for bit."""
    needs_ray()
    out = tmp_path / "study"
    line = words(data, out, "--steps", "700", "--scheduler", "none", "--interval", "1", trials=1)
    driver = search(line)
    try:
        first = training(out)
        os.kill(parent_of(parent_of(first.pid)), signal.SIGKILL)
        second = training(out, other_than=first)
        assert not processes.alive(first)
        os.kill(raylet_below(driver.pid), signal.SIGKILL)
        told, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 1, told
    assert "error: Ray lost its raylet; the same command goes on\n" in told
    assert not processes.alive(second) and not Ledger(out).account().open()
    assert (out / "trials.csv").is_file() and (out / "report.html").is_file()
    again = search(line)
    told, _ = again.communicate()
    assert again.returncode == 0, told
    (record,) = read_records(out)
    assert (record.status, record.step) == (DONE, 700)
    assert len(starts(out / "trials" / "t0000")) >= 3
    account = Ledger(out).account()
    assert len(account.leases) >= 3 and not account.open()
    assert not (out / "driver.json").exists()
    assert train(["--config", str(out / "best.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    run = tmp_path / "runs" / "study-t0000"
    assert len(starts(run)) == 1
    final = json.loads((run / "run.json").read_text())["final"]
    assert final["psnr"] == record.scores["psnr"]


NARROW = """
import os
from tuning import engine
from tuning.records import Settings

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ray = engine.import_ray(local=True)
settings = Settings(manifest="", words=(), steps=9, rungs=(), objectives=(), workers=1, cpus=1,
                    gpus=0, interval=1, seed=0, vgg="", space={})
engine._connect(ray, settings, engine.Way())
print(ray.cluster_resources()["CPU"])
"""


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_a_local_ray_has_the_cores_that_the_search_may_use() -> None:
    """One of them, as in an allocation of one core on a larger machine: one trial at a time."""
    needs_ray()
    done = subprocess.run([sys.executable, "-c", NARROW], env=environment(), capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["1.0"], done.stderr
