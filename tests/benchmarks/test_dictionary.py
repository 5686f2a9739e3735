"""The benchmark of the dictionary: what its steps do, and what it calls a broken limit."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dictionary import MOST, arguments, broken_limits, growth, main, over_rounds
from benchmarks.dictionary_steps import BLOCK, WAYS, measure
from trainer.comm import Comm
from trainer.latents import LatentDictionary
from trainer.residence import Store

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@LINUX
@pytest.mark.parametrize("name", list(WAYS))
def test_a_way_is_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold ways have the system's cache dropped before every block, and only those that fetch ahead
    do; each rank's figures come out."""
    dropped, fetched = [], []
    forget, ahead = Store.forget, LatentDictionary.fetch_ahead

    def seen_forget(self: Store) -> None:
        dropped.append(self.residence)
        forget(self)

    def seen_ahead(self: LatentDictionary, *rows: Any) -> None:
        fetched.append(rows)
        ahead(self, *rows)

    monkeypatch.setattr(Store, "forget", seen_forget)
    monkeypatch.setattr(LatentDictionary, "fetch_ahead", seen_ahead)
    steps = 2 * BLOCK
    found = measure(Comm(), 300, name, steps, 16, str(tmp_path), False, 0.0)
    assert dropped == (["disk"] * 2 if WAYS[name].cold else [])
    assert len(fetched) == 1 + (steps if WAYS[name].ahead else 0)  # one to load what is loaded once
    assert found["milliseconds"] > 0 and found["promised_mib"] > 0
    assert (found["rows"], found["residence"]) == (300, name)


def figures(name: str, rows: int, milliseconds: float, mib: float) -> dict[str, Any]:
    return {
        "rows": rows, "residence": name, "milliseconds": milliseconds, "read_kib": 1.0,
        "resident_mib": mib, "promised_mib": 100.0,
    }  # fmt: skip


def test_growth_is_the_median_of_ratios_within_a_round_and_is_judged() -> None:
    """A drift between rounds does not count; cold steps may take what a disk takes, and no way may
    take more memory."""
    cold = "disk, cold"
    rounds = [
        [figures("host", 5, t, 90), figures("host", 9, r * t, 105), figures(cold, 5, 9, 90),
         figures(cold, 9, 99, 90)]
        for t, r in ((1.0, 1.0), (2.0, 1.05), (4.0, 1.3))
    ]  # fmt: skip
    found = growth(rounds)
    assert found["host"] == {"step_time_ratio": 1.05, "memory_over_promise": 1.05}
    assert found[cold] == {"step_time_ratio": 11.0, "memory_over_promise": 0.9}
    assert broken_limits(found) == []
    found["host"]["step_time_ratio"] = found[cold]["memory_over_promise"] = MOST + 0.001
    assert broken_limits(found) == [
        "host: step_time_ratio 1.101", "disk, cold: memory_over_promise 1.101"
    ]  # fmt: skip
    one = over_rounds([sizes[0] for sizes in rounds])
    assert one["milliseconds"] == statistics.median((1.0, 2.0, 4.0))
    assert (one["least"], one["most"], one["resident_mib"]) == (1.0, 4.0, 90)


def test_cold_ways_are_asked_for() -> None:
    """Only with --cold, and of a disk."""
    assert arguments([]).ways == ["host", "disk"]
    assert arguments(["--cold"]).ways == ["host", "disk", "disk, cold", "disk, cold, not fetched"]
    assert arguments(["--cold", "--residences", "host"]).ways == ["host"]


@LINUX
@pytest.mark.ranks
@pytest.mark.slow
def test_it_runs_and_ends_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks, two small tables on disk, one round: a line of JSON, a picture, and no judgement
    of sizes that are not the default ones."""
    words = ["--rows", "200", "400", "--steps", "20", "--rounds", "1", "--residences", "disk"]
    assert main([*words, "--low-rank-rows", "100", "--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["benchmark"] == "dictionary" and told["broken"] is None
    assert [(size["residence"], size["rows"]) for size in told["sizes"]] == [
        ("disk", 200), ("disk", 400)
    ]  # fmt: skip
    assert {row["method"] for row in told["low_rank"]} == {"gather", "gram", "tsqr"}
    assert [path.name for path in tmp_path.iterdir()] == ["dictionary.png"]
