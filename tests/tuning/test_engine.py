"""What a dead search has left behind is ended, and has time for what it still has to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuning import processes
from tuning.engine import DRIVER, clear_up
from tuning.records import RUNNING, Record, write_record


def test_trainings_of_a_dead_search_have_time_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as a trial gives them; Ray's own processes have nothing to save."""
    training, raylet = ("here", 7, 1), ("here", 8, 1)
    asked = []

    def end(known: list[processes.Process], *, patience: float) -> list[processes.Process]:
        asked.append((known, patience))
        return []

    monkeypatch.setattr(processes, "end", end)
    write_record(tmp_path, Record("t0000", {}, (), RUNNING, process=training))
    (tmp_path / DRIVER).write_text(json.dumps({"pid": 6, "left": [raylet]}))
    assert clear_up(tmp_path) == []
    assert asked == [
        ([processes.Process(*training)], processes.PATIENCE),
        ([processes.Process(*raylet)], 2.0),
    ]
    assert not (tmp_path / DRIVER).exists()
