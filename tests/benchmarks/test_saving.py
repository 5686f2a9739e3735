"""The benchmark of saving: what it saves, and what it tells."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import pages, saving
from benchmarks.saving import HELD_UP, SAVES, main, measure
from trainer.checkpoint import CHECKPOINTS
from trainer.comm import Comm
from trainer.latents import LatentDictionary
from trainer.saved import Saved, damage_of

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@LINUX
def test_it_saves_rows_and_networks_three_times(tmp_path: Path) -> None:
    """Two whole checkpoints are left, with weights, two moments and an average, and every kind of
    step has been timed."""
    found = measure(
        Comm(), 300, "host", 16, 0.0, 1000, str(tmp_path / "rows"), str(tmp_path / "run"), True,
        False,
    )  # fmt: skip
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
@pytest.mark.parametrize("times", [0.0, 20.0])
def test_a_save_that_holds_training_up_is_told_by_the_exit_code(
    times: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A save whose snapshot lasts as long as twenty pauses breaks the limit; one that costs as good
    as nothing is judged by what was measured."""
    pause, snapshot = 0.05, LatentDictionary.snapshot

    def slow(self: LatentDictionary) -> Iterator:
        time.sleep(times * pause)
        return snapshot(self)

    monkeypatch.setattr(LatentDictionary, "snapshot", slow)
    monkeypatch.setattr(saving, "WORLD", 1)  # in this process
    words = ["--rows", "300", "--batch", "16", "--pause", f"{pause}", "--weights", "1000"]
    code = main([*words, "--out", str(tmp_path)])
    lines = capsys.readouterr().out.strip().splitlines()
    told = json.loads(lines[-1])
    longest = max(told[f"{kind}_ms"] for kind in ("begins", "longest", "commits", "after"))
    assert told["longest_whole_ms"] >= longest + 1e3 * pause
    assert told["held_up"] == pytest.approx(told["longest_whole_ms"] / told["usual_whole_ms"])
    assert code == (told["held_up"] > HELD_UP) == bool(told["broken"])
    assert told["longest_whole_ms"] >= 1e3 * (times + 1) * pause
    assert not times or code == 1
    judged = "more than the 2" if code else "within the 2"
    assert f"takes {told['held_up']:.2f} usual ones, {judged} of a save" in lines[-2]
    assert told["without_ms"] >= 1e3 * pause
    assert lines[-2].endswith(f"as many without a save takes {told['without']:.2f}.")


@LINUX
@pytest.mark.ranks
@pytest.mark.slow
def test_it_runs_and_ends_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks: a table for people and for a page, and a line of JSON; what was saved is gone
    again."""
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("saving-busy")))
    words = ["--rows", "300", "--batch", "16", "--pause", "0.02", "--weights", "1000", "--busy"]
    code = main([*words, "--out", str(tmp_path / "out"), "--write", str(page)])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["benchmark"] == "saving" and told["rows"] == 300 and told["cores"] > 0
    assert code == bool(told["broken"])
    assert told["begins_ms"] > 0 and list((tmp_path / "out").iterdir()) == []
    assert f"| the step that begins the save | {told['begins_ms']:.1f} |" in page.read_text()
    assert "1,000 weights, 2 ranks, 0.02 s of work between steps, the worst" in page.read_text()
    assert main(["--write", str(tmp_path / "none.md")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none.md: No such file or directory\n"
