"""Trackers through Accelerate's interface, and pushes to a gateway."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker, register_tracker_class

from data_shards.errors import UserError
from tests.support.cluster import wait_for
from tests.support.footage import tiny_set
from tests.support.gateway import gateway
from tests.support.training import launch
from trainer import endpoint
from trainer.telemetry import Telemetry, TelemetryConfig


class FileTracker(GeneralTracker):
    """A tracker of our own, as Accelerate lets anyone register one: JSON lines in a file."""

    name = "file"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: Path, **_: Any) -> None:
        super().__init__()
        logging_dir.mkdir(parents=True, exist_ok=True)
        self._file = (logging_dir / f"{run_name}.jsonl").open("w")

    @property
    def tracker(self) -> Any:
        return self._file

    def store_init_configuration(self, values: dict) -> None:
        self._file.write(json.dumps(values) + "\n")

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        if values["psnr"] > 90:
            raise RuntimeError("the server said no")
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self) -> None:
        self._file.close()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    register_tracker_class(FileTracker)
    yield
    LOGGER_TYPE_TO_CLASS.pop("file", None)  # type: ignore[call-overload]


def test_a_tracker_gets_settings_and_figures(tmp_path: Path, registered: None) -> None:
    """One line of config hands every logged step to a tracker, settings first and flat."""
    config = TelemetryConfig(log="none", endpoint=False, trackers="file")
    info = {"run": "demo"}
    telemetry = Telemetry(tmp_path, config, info=info, settings={"train": {"steps": 9, "x": None}})
    for step in (1, 2):
        telemetry.step(step, {"psnr": 20.0 + step}, seconds=step, done=step / 2)
    telemetry.close()
    lines = (tmp_path / "trackers" / "demo.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"train.steps": 9, "train.x": "None"}, {"step": 1, "psnr": 21.0}, {"step": 2, "psnr": 22.0},
    ]  # fmt: skip


def test_a_tracker_that_fails_costs_a_warning(
    tmp_path: Path, registered: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Training and its own log go on when a tracker's server does not."""
    config = TelemetryConfig(log="none", endpoint=False, trackers="file")
    telemetry = Telemetry(tmp_path, config)
    for step in (1, 2):
        telemetry.step(step, {"psnr": 99.0}, seconds=step, done=step / 2)
    telemetry.close()
    assert "the server said no" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path) -> None:
    """An unknown tracker is refused with the settings, one that is not installed with the run."""
    with pytest.raises(UserError, match=r"telemetry\.trackers: 'tensorbored' is none of"):
        TelemetryConfig(trackers="tensorbored")
    if importlib.util.find_spec("comet_ml") is None:
        config = TelemetryConfig(trackers="comet_ml", log="none", endpoint=False)
        with pytest.raises(UserError, match="comet_ml is not installed"):
            Telemetry(tmp_path, config)


def kept_by_tensorboard(folder: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run")).Reload()
    return {event.step: event.value for event in events.Scalars("psnr")}


def kept_by_mlflow(folder: Path) -> dict[int, float]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return dict(database.execute("select step, value from metrics where key = 'psnr'"))


KEPT = {"tensorboard": kept_by_tensorboard, "mlflow": kept_by_mlflow}
"""What each tracker has on the disk: PSNR by step."""
HERE = [name for name in KEPT if name == "tensorboard" or importlib.util.find_spec(name)]
"""TensorBoard comes with the extra `dev`; MLflow is tried where it is installed."""


@pytest.mark.parametrize("name", HERE)
def test_a_training_is_kept_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A tracker holds every logged step of a real run, in its folder, without network."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = tiny_set(tmp_path / "set", frames=6, size=32)
    words = ("train.steps=6", "train.log_steps=2", f"telemetry.trackers={name}")
    ended = launch(tmp_path, data, *words)
    assert ended.returncode == 0 and "telemetry.trackers" not in ended.stderr, ended.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    told = {line["step"]: line["psnr"] for line in map(json.loads, lines) if "psnr" in line}
    assert set(told) == {2, 4, 6}
    assert KEPT[name](tmp_path / "run" / "trackers") == pytest.approx(told)


def test_a_short_job_shows_its_figures_at_a_gateway(tmp_path: Path) -> None:
    """The last values are pushed when the run ends, under its name, and a good end takes that very
    group away again."""
    with gateway() as server:
        telemetry = Telemetry(
            tmp_path,
            TelemetryConfig(log="none", endpoint=False, push=server.url),
            info={"run": "short"},
        )
        telemetry.step(3, {"psnr": 20.0}, seconds=1, done=1)
        telemetry.close()
        path, text = server.last
    assert "/job/navsynth/" in path and "/run/short" in path
    assert "navsynth_step 3.0" in text
    assert server.deleted == [path]


def test_a_long_job_shows_its_figures_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are pushed again and again, each time as they are by then, and not at the end alone."""
    monkeypatch.setattr(endpoint, "PUSH_EVERY", 0.05)
    with gateway() as server:
        config = TelemetryConfig(log="none", endpoint=False, push=server.url)
        telemetry = Telemetry(tmp_path, config, info={"run": "long"})
        try:
            wait_for(lambda: server.last[1], "a first push", seconds=60)
            assert "navsynth_step 3.0" not in server.last[1]
            telemetry.step(3, {"psnr": 20.0}, seconds=1, done=0.5)
            wait_for(lambda: "navsynth_step 3.0" in server.last[1], "another", seconds=60)
            assert "/run/long" in server.last[0] and not server.deleted
        finally:
            telemetry.close()


def test_a_gateway_that_is_gone_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens: the run is told once and ends as it would have."""
    config = TelemetryConfig(log="none", endpoint=False, push="http://127.0.0.1:9")
    telemetry = Telemetry(tmp_path, config)
    telemetry.close()
    assert caplog.text.count("telemetry.push") == 1
