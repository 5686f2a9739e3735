"""The benchmark of saving: what it saves, and what it tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.saving import SAVES, main, measure
from trainer.checkpoint import CHECKPOINTS
from trainer.comm import Comm
from trainer.saved import Saved, damage_of

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@LINUX
def test_it_saves_rows_and_networks_three_times(tmp_path: Path) -> None:
    """Two whole checkpoints are left, with weights, two moments and an average, and every kind of
    step has been timed."""
    found = measure(
        Comm(), 300, "host", 16, 0.0, 1000, str(tmp_path / "rows"), str(tmp_path / "run")
    )
    left = sorted((tmp_path / "run" / CHECKPOINTS).iterdir())
    assert [path.name for path in left] == [f"step-{SAVES - 1:08d}", f"step-{SAVES:08d}"]
    for path in left:
        assert damage_of(path) is None
        saved = Saved(path)
        sizes = {name: sum(t.numel() for t in saved.common(name).values())
                 for name in ("networks", "optimiser", "average")}  # fmt: skip
        assert sizes == {"networks": 1000, "optimiser": 2000, "average": 1000}
        assert len([name for name in saved.names if name.startswith("transient.value")]) == 64
    for kind in ("usual", "begins", "commits", "after"):
        assert found[f"{kind}_ms"] > 0
    assert found["gib"] * 2**30 > 300 * 16 * 200 * 8 and found["promised_mib"] > 0


@LINUX
@pytest.mark.ranks
@pytest.mark.slow
def test_it_runs_and_ends_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks: a table for people and a line of JSON; what was saved is gone again."""
    words = ["--rows", "300", "--batch", "16", "--pause", "0", "--weights", "1000"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["benchmark"] == "saving" and told["rows"] == 300
    assert told["begins_ms"] > 0 and list(tmp_path.iterdir()) == []
