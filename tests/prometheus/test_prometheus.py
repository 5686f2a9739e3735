"""A real Prometheus beside a real training of two processes: all figures arrive, and for every
alert of the shipped rules a fault makes it fire and the fault's end makes it resolve.

The tests go through the life of one run, in order.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launch import prometheus as shipped
from tests.prometheus.conftest import Training
from tests.support.footage import tiny_set
from tests.support.prometheus import SECONDS, Prometheus, faster, until
from tests.support.training import SMALL
from trainer.metrics import METRICS, series
from tuning.command import watched
from tuning.ledger import Ledger
from tuning.records import Record, Settings, write_record
from tuning.trial import Trial

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]
NOT_HERE = {"navsynth_gpu_utilisation_ratio", "navsynth_nonfinite_timestamp_seconds"}
"""Metrics that a healthy run on a CPU does not have."""
RULES = (Path(shipped.__file__).parent / "rules.yml").read_text()
TRIED = {
    "NoProgress", "RankLost", "Straggler", "DataBound", "DiskAlmostFull", "CheckpointFailed",
    "CheckpointTooOld", "DamagedShards", "NonFinite", "BudgetAlmostSpent",
}  # fmt: skip
"""Alerts that the tests below see fire and resolve."""


def test_every_alert_is_tried_and_only_time_differs() -> None:
    """The rules are the shipped ones, with durations and numbers of seconds divided; each of their
    alerts has a fault below."""
    groups = yaml.safe_load(RULES)["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {r["alert"].removeprefix("Navsynth") for r in rules if "alert" in r} == TRIED
    assert {n for r in rules for n in SECONDS.findall(r["expr"])} == {"600", "1800"}
    same = yaml.safe_load(faster(RULES, speed=1))["groups"]
    assert [r["expr"] for g in same for r in g["rules"] if "[" not in r["expr"]] == [
        r["expr"] for r in rules if "[" not in r["expr"]
    ]
    quick = faster(RULES, speed=120)
    assert "> 5)" in quick and "[2500ms]" in quick and "for: 5000ms" in quick
    assert "rate5m" in quick and not re.search(r"\[\d+[mh]\]|for: \d+[mh]\b", quick)


def test_every_metric_arrives_with_a_plausible_value(server: Prometheus, run: Training) -> None:
    """All that a CPU run has is scraped from one endpoint, for both ranks where ranks matter."""
    wanted = {name for m in METRICS if m.name not in NOT_HERE for name in series(m)}
    missing = lambda: wanted - set(server.get("label/__name__/values") or ())  # noqa: E731
    until(lambda: not missing(), "every metric")
    plausible = {
        "navsynth_ranks": (2, 2),
        "count(navsynth_rank_step_seconds)": (2, 2),
        "count(navsynth_memory_bytes)": (2, 2),
        "min(navsynth_memory_bytes)": (1e7, 1e11),
        "navsynth_straggler_ratio": (1, 1e4),
        "navsynth_steps_total": (1, 1e6),
        "navsynth_clips_total / navsynth_steps_total": (3, 3),
        "navsynth_psnr_decibels": (1, 60),
        'navsynth_evaluation{score="psnr_sample"}': (1, 60),
        'navsynth_communication_bytes_total{kind="gradients"}': (1e3, 1e12),
        'navsynth_rows_touched_total{table="static"}': (1, 1e9),
        'navsynth_latent_norm{table="static",stat="max"}': (0, 1.0001),
        "navsynth_rank_energy_ratio": (0.1, 1.0001),
        'navsynth_checkpoints_total{outcome="committed"}': (1, 1e6),
        "navsynth_checkpoint_bytes": (1e3, 1e9),
        "navsynth:checkpoint_age:seconds": (-1, 1e4),
        "navsynth:disk_free:ratio": (0, 1),
        "sum(navsynth_goodput_seconds_total)": (1, 1e5),
        "navsynth_budget_spent_ratio": (0, 0.5),
        'count(navsynth_run_info{name="run",world="2",run="run"})': (1, 1),
    }
    for query, (low, high) in plausible.items():
        value = until(lambda query=query: [v] if (v := server.value(query)) else None, query)[0]
        assert low <= value <= high, f"{query}: {value}"
    assert len(run.record()["metrics"]["endpoints"]) == 1
    rules = server.get("rules")["groups"]
    assert all(rule["health"] in ("ok", "unknown") for group in rules for rule in group["rules"])
    server.until_quiet()


def test_a_stopped_process_raises_alarm_until_it_goes_on(server: Prometheus, run: Training) -> None:
    """A rank 0 that stands still is no progress and a lost node; when it goes on both resolve."""
    first = run.ranks()[0]
    first.send_signal(signal.SIGSTOP)
    try:
        server.until_firing("NoProgress", "RankLost")
    finally:
        first.send_signal(signal.SIGCONT)
    server.until_quiet("NoProgress", "RankLost")
    assert run.alive


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """A disk without a free byte while the body lasts: what the run frees is taken at once."""
    over, block = threading.Event(), bytes(1 << 20)

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            while not over.wait(0.05):
                with contextlib.suppress(OSError):  # no space left
                    while file.write(block):
                        pass

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        (disk / "filler").unlink()


def test_slowness_and_a_full_disk_raise_alarm_until_they_end(
    server: Prometheus, run: Training, disk: Path
) -> None:
    """No room on the disk: it is almost full, checkpoints fail and grow old, and training goes on.
    Meanwhile one rank is slow, then the data of all. With room and speed all is quiet again."""
    if not os.path.ismount(disk):
        pytest.skip("mounting a small disk needs root")
    server.until_quiet()
    with full(disk):
        with run.fault("slow-rank"):
            server.until_firing("Straggler")
        with run.fault("slow-data"):
            server.until_quiet("Straggler")
            server.until_firing("DataBound")
        server.until_firing("DiskAlmostFull", "CheckpointFailed", "CheckpointTooOld")
    server.until_quiet()
    assert run.alive


def spoil(shard: Path) -> bytes:
    """Flip a byte in the middle of a shard, in place; returns what it was."""
    whole = shard.read_bytes()
    with shard.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    return whole


def test_damage_and_a_nan_raise_alarm_until_the_run_goes_on_without(
    server: Prometheus, run: Training
) -> None:
    """A flipped byte on the disk leaves clips out; a loss that is no number ends the run. The same
    command on repaired shards goes on, and no alarm is left."""
    server.until_quiet()
    shard = sorted(run.data.glob("*.tar"))[0]
    whole = spoil(shard)
    server.until_firing("DamagedShards")
    with run.fault("not-finite"):
        server.until_firing("NonFinite")
        run.wait()
    assert run.record()["status"] == "non-finite" and run.targets.exists()
    server.until_firing("RankLost")
    shard.write_bytes(whole)
    run.start("telemetry.budget_seconds=0.5")
    up = "navsynth_shards_quarantined == 0 and navsynth_restarts_total == 1"
    until(lambda: server.value(up) is not None, "the second life is scraped")
    server.until_quiet(*TRIED - {"BudgetAlmostSpent"})
    assert server.value("navsynth_nonfinite_total") == 1


def test_a_spent_budget_raises_alarm_until_the_run_ends(server: Prometheus, run: Training) -> None:
    """The alarm comes with the last of the budget and goes with the run, which is a target no
    more: it was asked to stop and has saved."""
    server.until_firing("BudgetAlmostSpent")
    for process in run.ranks():
        process.send_signal(signal.SIGTERM)
    until(lambda: not run.targets.exists(), "the run is no target any more")
    run.wait()
    server.until_quiet()
    assert run.record()["status"] == "preempted"


def test_a_trial_of_a_search_has_the_same_names_with_a_label(
    server: Prometheus, tmp_path: Path
) -> None:
    """A trial is scraped while it runs, under its study's and its own label, and then no more."""
    targets = server.folder / "targets"
    data = tiny_set(tmp_path / "set", identities=2, actions=2, frames=4, size=32)
    words = (*SMALL, f"data.manifest={data}", "train.steps=1000000", "train.log_steps=1",
             "name=t0000")  # fmt: skip
    settings = Settings(
        manifest=str(data), words=(), steps=1000000, rungs=(), objectives=("psnr",), workers=1,
        cpus=1, gpus=0, interval=60, seed=0, vgg="", space={},
    )  # fmt: skip
    study = tmp_path / "study"
    write_record(study, Record("t0000", {}, words))
    Ledger(study).grant(1e6)
    more = watched(study, "t0000", str(targets))
    trial = Trial(study, settings, "t0000", more=more)
    try:
        assert trial.start()
        here = '{study="study",trial="t0000",run="study-t0000"}'
        step = until(lambda: server.value(f"navsynth_step{here}"), "the trial's step")
        assert step >= 1
        assert until(lambda: server.value(f"navsynth_psnr_decibels{here}"), "its PSNR") > 1
    finally:
        trial.stop()
    assert not (targets / "study-t0000.json").exists()
