"""Goodput by cause, faults and restarts, from a run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import report
from launch.goodput import goodput, troubles
from launch.runs import read_run
from tests.support.run_folder import write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two lives, the first of which met a value that is not finite."""
    folder = write_run(tmp_path / "run", samples=False)
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {"goodput/training": 8.0, "goodput/data": 1.5, "goodput/idle": 0.5}
    lines[0]["goodput/restart"] = 100.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = json.loads((folder / "run.json").read_text())
    state["starts"] = [{"time": 1, "world": 2}, {"time": 9, "world": 2}]
    state["events"] = [{"time": 5, "kind": "non-finite", "step": 3, "text": "step 3"}]
    (folder / "run.json").write_text(json.dumps(state))
    return folder


def test_time_is_added_up_by_cause(folder: Path) -> None:
    """Sums over all lines, largest first, shares of the whole."""
    run = read_run(folder)
    count = len(run.metrics)
    found = goodput(run)
    assert [cause.name for cause in found] == ["training", "restart", "data", "idle"]
    assert [cause.seconds for cause in found] == [8.0 * count, 100.0, 1.5 * count, 0.5 * count]
    assert sum(cause.share for cause in found) == pytest.approx(100)
    assert troubles(run) == (1, 1, 100.0)


def test_the_report_shows_it(folder: Path, tmp_path: Path) -> None:
    """A card for goodput with the restarts; no curves of it; nothing for a run that kept none."""
    text = report.write_report([folder]).read_text()
    assert "Where the run's time went" in text and "1 restart, 1 fault" in text
    assert ">goodput/training" not in text
    bare = write_run(tmp_path / "bare", samples=False)
    assert goodput(read_run(bare)) == []
    assert "Where the run's time went" not in report.write_report([bare]).read_text()
