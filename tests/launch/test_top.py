"""The terminal view says what the files say, whatever state they are in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from launch import top
from launch.runs import read_run
from tests.support.run_folder import HOSTILE, write_run


def shown(folder: Path, *, width: int = 100) -> str:
    console = Console(width=width, record=True, file=(folder / "screen").open("w"))
    console.print(top.view(read_run(folder), width=width))
    return console.export_text()


def test_a_look_at_a_run(tmp_path: Path):
    """Status, step, PSNR, phases and events are on it."""
    text = shown(write_run(tmp_path / "demo", samples=False))
    for part in ("demo", "done", "step 590", "59 s", "PSNR", "clips/s", "backward", "lost rank"):
        assert part in text


def test_a_run_that_goes_on_shows_what_is_left(tmp_path: Path):
    """Share done by the limit of minutes: 59 s of 4 minutes."""
    folder = write_run(tmp_path / "demo", status="running", samples=False)
    done, seconds = top.remaining(read_run(folder)) or (0, 0)
    assert done == pytest.approx(59 / 240)
    assert seconds == pytest.approx(59 * (1 - done) / done)
    assert "25 %" in shown(folder)


def test_a_run_of_passes_shows_what_is_left(tmp_path: Path):
    """Its settings give neither steps nor minutes: run.json has what they come to."""
    folder = write_run(tmp_path / "demo", status="running", samples=False)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"] |= {"minutes": None, "steps": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert top.remaining(read_run(folder)) is None
    info = json.loads((folder / "run.json").read_text())
    info["starts"] = [{**start, "steps": 1180} for start in info["starts"]]
    (folder / "run.json").write_text(json.dumps(info))
    done, seconds = top.remaining(read_run(folder)) or (0, 0)
    assert done == pytest.approx(590 / 1180) and seconds == pytest.approx(59)


def test_a_run_without_metrics(tmp_path: Path):
    """It has only just started."""
    folder = write_run(tmp_path / "demo", samples=False)
    (folder / "metrics.jsonl").unlink()
    assert "no metrics" in shown(folder)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_every_terminal(tmp_path: Path, width: int):
    """No line is wider than the terminal."""
    text = shown(write_run(tmp_path / "demo", samples=False), width=width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_markup_in_texts_is_shown_and_not_obeyed(tmp_path: Path):
    """Texts of events may come from anywhere."""
    folder = write_run(tmp_path / "demo", samples=False)
    info = json.loads((folder / "run.json").read_text())
    info["events"] = [{"time": 1e12, "kind": "fault", "text": f"[red]{HOSTILE[0]}[/nope]"}]
    (folder / "run.json").write_text(json.dumps(info))
    assert "[red]<img" in shown(folder, width=160)


def test_a_sparkline_spans_the_blocks():
    """Lowest and highest value take the lowest and highest block; equal values are flat."""
    assert top.sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == top.BLOCKS
    assert top.sparkline([5.0] * 4, width=8) == "▁▁▁▁"
    assert len(top.sparkline(list(range(1000)), width=30)) == 30


def test_the_entry_point_prints_once_and_refuses_other_folders(tmp_path: Path, capsys):
    """Not a terminal: one look. Not a run folder: one line, exit code 2."""
    assert top.main([str(write_run(tmp_path / "demo", samples=False)), "--once"]) == 0
    assert "demo" in capsys.readouterr().out
    assert top.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
