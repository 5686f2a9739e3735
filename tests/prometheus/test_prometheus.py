"""A real Prometheus beside a real training of two processes: figures and alerts arrive."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from launch.prometheus.__main__ import write
from tests.support.footage import tiny_set
from tests.support.training import SMALL, command, environment
from trainer.leaving import ExitCode
from trainer.metrics import METRICS, series
from tuning.command import watched
from tuning.ledger import Ledger
from tuning.records import Record, Settings, write_record
from tuning.trial import Trial

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]
PATIENCE = 120.0
WORDS = (
    "train.steps=1000000",
    "train.log_steps=2",
    "train.sample_minutes=0.01",
    "checkpoint.steps=40",
    "latents.low_rank.rank=4",
    "latents.low_rank.scope=dictionary",
    "latents.low_rank.every=20",
    "telemetry.endpoint=true",
    "telemetry.budget_seconds=0.5",
)
NOT_HERE = {"navsynth_gpu_utilisation_ratio", "navsynth_nonfinite_timestamp_seconds"}
"""Metrics that a healthy run on a CPU does not have."""


class Service(NamedTuple):
    """A Prometheus server."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """Data of an answer of the HTTP API; None while there is none."""
        where = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(where, timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, query: str) -> float | None:
        """Value of the only series of an instant query; None where there is no series."""
        found = (self.get("query", query=query) or {}).get("result") or []
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = (self.get("alerts") or {}).get("alerts", [])
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}


class Run(NamedTuple):
    """A training under way."""

    folder: Path
    launcher: subprocess.Popen
    targets: Path


def until(condition: Callable[[], object], what: str) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")


def free_port() -> int:
    """A port below the range that others get by chance."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def impatient(folder: Path) -> None:
    """Scrape every second, and let alerts fire as soon as they are true."""
    path = folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text())
    config["global"] = {
        "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s",
    }  # fmt: skip
    config["scrape_configs"] = config["scrape_configs"][:1]
    config["scrape_configs"][0]["file_sd_configs"][0]["refresh_interval"] = "1s"
    path.write_text(yaml.safe_dump(config))
    path = folder / "rules.yml"
    rules = yaml.safe_load(path.read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        rule.pop("for", None)
        rule["expr"] = rule["expr"].replace("> 600", "> 5")
    path.write_text(yaml.safe_dump(rules))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    folder = tmp_path_factory.mktemp("prometheus")
    write(folder)
    impatient(folder)
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        found = Service(f"http://{address}")
        until(lambda: found.get("status/config"), "Prometheus answers")
        yield found, folder
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def run(service: tuple[Service, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_set(folder / "set", identities=3, actions=2, frames=6, size=32)
    targets = service[1] / "targets" / "run.json"
    words = command(folder, data, *WORDS, f"telemetry.targets={targets}", ranks=2)
    with (folder / "log").open("w") as log:
        launcher = subprocess.Popen(words, env=environment(), stdout=log, stderr=log)
    try:
        until(lambda: targets.exists() or launcher.poll() is not None, "the run is a target")
        assert launcher.poll() is None, (folder / "log").read_text()
        yield Run(folder / "run", launcher, targets)
    finally:
        left = ranks_of(launcher)
        launcher.kill()
        launcher.wait()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def ranks_of(launcher: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train, by rank."""
    if launcher.poll() is not None:
        return []
    children = psutil.Process(launcher.pid).children(recursive=True)
    found = [child for child in children if "RANK" in child.environ() and "main.py" in
             " ".join(child.cmdline())]  # fmt: skip
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def test_every_metric_arrives_with_a_plausible_value(
    service: tuple[Service, Path], run: Run
) -> None:
    """All that a CPU run has is scraped from one endpoint, for both ranks where ranks matter."""
    prometheus = service[0]
    wanted = {name for m in METRICS if m.name not in NOT_HERE for name in series(m)}
    missing = lambda: wanted - set(prometheus.get("label/__name__/values") or wanted | {""})  # noqa: E731
    until(lambda: prometheus.get("label/__name__/values") and not missing(), "every metric")
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
        'count(navsynth_run_info{name="run",world="2",run="run"})': (1, 1),
    }
    for query, (low, high) in plausible.items():
        value = until(lambda query=query: [v] if (v := prometheus.value(query)) else None, query)[0]
        assert low <= value <= high, f"{query}: {value}"
    said = json.loads((run.folder / "run.json").read_text())["metrics"]
    assert len(said["endpoints"]) == 1
    rules = prometheus.get("rules")["groups"]
    assert all(rule["health"] in ("ok", "unknown") for group in rules for rule in group["rules"])


def test_a_stopped_process_raises_alarm_until_it_goes_on(
    service: tuple[Service, Path], run: Run
) -> None:
    """A rank 0 that stands still is no progress and a lost node; when it goes on both resolve."""
    prometheus, both = service[0], {"NavsynthNoProgress", "NavsynthRankLost"}
    first = ranks_of(run.launcher)[0]
    until(lambda: not both & prometheus.firing(), "no alarm before the fault")
    first.send_signal(signal.SIGSTOP)
    try:
        until(lambda: both <= prometheus.firing(), "alarm while rank 0 stands still")
    finally:
        first.send_signal(signal.SIGCONT)
    until(lambda: not both & prometheus.firing(), "no alarm once it goes on")
    assert run.launcher.poll() is None


def test_a_spent_budget_raises_alarm_until_the_run_ends(
    service: tuple[Service, Path], run: Run
) -> None:
    """The alarm comes with the last of the budget and goes with the run, which is a target no
    more: it was asked to stop and has saved."""
    prometheus = service[0]
    until(lambda: "NavsynthBudgetAlmostSpent" in prometheus.firing(), "the budget is spent")
    for process in ranks_of(run.launcher):
        os.kill(process.pid, signal.SIGTERM)
    until(lambda: not run.targets.exists(), "the run is no target any more")
    until(lambda: not prometheus.firing(), "no alarm after the run")
    run.launcher.wait(PATIENCE)
    status = json.loads((run.folder / "run.json").read_text())
    assert status["status"] == "preempted" and ExitCode.PREEMPTED == 6


def test_a_trial_of_a_search_has_the_same_names_with_a_label(
    service: tuple[Service, Path], tmp_path: Path
) -> None:
    """A trial is scraped while it runs, under its study's and its own label, and then no more."""
    prometheus, targets = service[0], service[1] / "targets"
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
        step = until(lambda: prometheus.value(f"navsynth_step{here}"), "the trial's step")
        assert step >= 1
        assert until(lambda: prometheus.value(f"navsynth_psnr_decibels{here}"), "its PSNR") > 1
    finally:
        trial.stop()
    assert not (targets / "study-t0000.json").exists()
