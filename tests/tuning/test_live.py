"""What a search shows is shown by this process alone."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tuning import live
from tuning.ledger import Ledger
from tuning.records import (
    DONE,
    FAILED,
    RUNNING,
    Record,
    Settings,
    folder_of,
    read_records,
    write_record,
)

SETTINGS = Settings(
    manifest="", words=(), steps=9, rungs=(), objectives=("psnr",), workers=1, cpus=1, gpus=0,
    interval=1, seed=0, vgg="", space={},
)  # fmt: skip


def test_a_terminal_does_not_keep_ray_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray pickles its searcher, and with it whoever listens to it; a terminal's locks cannot be
    pickled, so they stay behind and all else goes along."""
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(live, "sys", terminal)
    shown = live.Live(tmp_path, SETTINGS)
    assert shown._screen is not None
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(shown._screen)
    assert shown.__getstate__() == {**vars(shown), "_screen": None}
    assert str(tmp_path.name).encode() in pickle.dumps(shown.change)


def test_the_table_shows_the_newest_trials_and_what_is_left(tmp_path: Path) -> None:
    """Scores of finished trials, the best of them in bold; in brackets what a running one had at
    its last rung; the last sixteen trials, and how much of the budget is spent."""
    ledger = Ledger(tmp_path)
    ledger.grant(60)
    assert ledger.hold("a", trial="t0000", width=1, until=12)
    values = {"latents.static": 8, "loss.margin": 0.123456}
    for number in range(18):
        done = number < 17
        record = Record(f"t{number:04d}", values, (), DONE if done else RUNNING, step=9)
        scores = {"psnr": 30.25 if number == 5 else 20.0} if done else {}
        rungs = () if done else ((1, 11.0), (3, 12.5))
        write_record(tmp_path, record._replace(scores=scores, rungs=rungs))
    out = io.StringIO()
    screen = Console(file=out, width=120, force_terminal=True, color_system="standard")
    screen.print(live.Live(tmp_path, SETTINGS).page())
    rows = [line for line in out.getvalue().splitlines() if "\u2502" in line]
    shown = [re.findall(r"t\d{4}", row) for row in rows]
    assert shown == [[f"t{number:04d}"] for number in range(2, 18)]
    (best,) = [row for row in rows if "\x1b[1m" in row]
    assert "t0005" in best and "30.25" in best and "static=8 margin=0.123" in best
    assert RUNNING in rows[-1] and "(12.50)" in rows[-1] and "(11" not in rows[-1]
    assert "why" not in out.getvalue()
    last = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()[-1]
    assert re.fullmatch("\u2501+.?\u2501+ 12 of 60 accelerator-seconds", last)


def test_a_running_trial_without_rungs_shows_how_far_it_is(tmp_path: Path) -> None:
    """By the last line that it has logged; its record only where that is further, and of what has
    ended its record alone."""
    shown = live.Live(tmp_path, SETTINGS)
    record = write_record(tmp_path, Record("t0000", {}, (), RUNNING, step=3))
    assert shown._step(record) == 3
    logged = folder_of(tmp_path, "t0000") / "metrics.jsonl"
    logged.write_text('{"step": 2, "psnr": 9.0}\n')
    assert shown._step(record) == 3
    logged.write_text('{"step": 2, "psnr": 9.0}\n{"step": 7, "psnr": 9.5}\n')
    assert shown._step(record) == 7
    assert shown._step(record._replace(status=DONE, step=6)) == 6


def test_what_runs_and_what_is_best_is_always_shown(tmp_path: Path) -> None:
    """An old trial that still runs and the best one stay in the table while newer ones come; why
    one has ended stands there, too."""
    Ledger(tmp_path).grant(60)
    for number in range(30):
        record = Record(f"t{number:04d}", {}, (), FAILED, reason="out of memory")
        if number in (1, 3):
            status = {1: RUNNING, 3: DONE}[number]
            record = record._replace(status=status, reason="", scores={"psnr": 20.0})
        write_record(tmp_path, record)
    records = read_records(tmp_path)
    shown = live.chosen(records, records[3])
    assert [r.id for r in shown] == ["t0001", "t0003", *(f"t{n:04d}" for n in range(16, 30))]
    out = io.StringIO()
    Console(file=out, width=120).print(live.Live(tmp_path, SETTINGS).page())
    assert "why" in out.getvalue() and out.getvalue().count("out of memory") == 14
