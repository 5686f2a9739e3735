"""The benchmark of the dictionary: what its steps do, and what it calls a broken limit."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages
from benchmarks.dictionary import (
    MOST,
    arguments,
    broken_limits,
    growth,
    low_rank_table,
    main,
    methods,
    over_rounds,
)
from benchmarks.dictionary_steps import BLOCK, WAYS, build, measure, measure_spread
from trainer.comm import Comm
from trainer.latents import LatentDictionary
from trainer.residence import Store
from trainer.spread import AT_ONCE

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
    found = measure(Comm(), 300, name, BLOCK, steps, 4, str(tmp_path), False, 0.0, 2)
    assert dropped == (["disk"] * 5 if WAYS[name].cold else [])
    # One to load what is loaded once, a block to settle, as many of rows alone, two with networks.
    assert len(fetched) == 1 + (BLOCK + 2 * steps + 2 if WAYS[name].ahead else 0)
    assert found["whole_ms"] > found["milliseconds"] > 0 and found["promised_mib"] > 0
    assert found["whole_ms"] > found["rows_ms"] > 0
    assert (found["rows"], found["residence"]) == (300, name)


def figures(name: str, rows: int, milliseconds: float, mib: float) -> dict[str, Any]:
    return {
        "rows": rows, "residence": name, "milliseconds": milliseconds, "read_kib": 1.0,
        "whole_ms": 100 + milliseconds, "rows_ms": milliseconds / 4,
        "resident_mib": mib, "promised_mib": 100.0,
    }  # fmt: skip


def test_growth_is_the_median_of_ratios_within_a_round_and_is_judged() -> None:
    """A drift between rounds does not count; the dictionary's cold steps may take what a disk
    takes, no whole step may, and no way may take more memory."""
    cold = "disk, cold"
    rounds = [
        [figures("host", 5, t, 90), figures("host", 9, r * t, 105), figures(cold, 5, 9, 90),
         figures(cold, 9, 99, 90)]
        for t, r in ((1.0, 1.0), (2.0, 1.05), (4.0, 1.3))
    ]  # fmt: skip
    found = growth(rounds)
    assert found["host"] == {"whole_step_ratio": pytest.approx(102.1 / 102),
                             "step_time_ratio": 1.05, "memory_over_promise": 1.05,
                             "added_ms": pytest.approx(0.1),
                             "added_rows_ms": pytest.approx(0.025)}  # fmt: skip
    assert found[cold] == {"whole_step_ratio": pytest.approx(199 / 109), "step_time_ratio": 11.0,
                           "memory_over_promise": 0.9, "added_ms": 90,
                           "added_rows_ms": 22.5}  # fmt: skip
    assert broken_limits(found) == ["disk, cold: whole_step_ratio 1.826"]
    found[cold] |= {"whole_step_ratio": MOST, "memory_over_promise": MOST + 0.001}
    found["host"]["step_time_ratio"] = MOST + 0.001
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


def test_gather_is_left_out_of_tables_that_are_too_large_for_it() -> None:
    """Methods that were asked for; whole doubles of 20,268 rows fit, of 583,508 they do not."""
    asked = arguments([])
    assert methods(asked, 20_268) == ["gather", "gram", "tsqr"]
    assert methods(asked, 583_508) == ["gram", "tsqr"]
    assert methods(arguments(["--methods", "gather", "tsqr"]), 583_508) == ["tsqr"]


def test_the_table_of_methods_says_what_was_not_measured() -> None:
    """A table without the full golf set says so; one with it does not."""
    small = {"method": "gram", "rows": 20_268, "mib": 0.31, "seconds": 0.28,
             "first_seconds": 0.5}  # fmt: skip
    lines = low_rank_table([small], 2).splitlines()
    assert lines[2] == "| `gram` | 20,268 | 0.31 | 0.28 | 0.50 | at once | at once | at once |"
    spread = {**small, "step_ms": 3.14, "longest_ms": 5.0, "end_ms": 12.25}
    assert "| 0.50 | 3.1 | 5.0 | 12.2 |" in low_rank_table([spread], 2)
    assert lines[-1].endswith("Not measured: 583,508 rows, those of the full golf set.")
    assert "Not measured" not in low_rank_table([small, {**small, "rows": 583_508}], 2)


@LINUX
@pytest.mark.ranks
@pytest.mark.slow
def test_it_runs_and_ends_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks, two small tables on disk, one round, two methods: a line of JSON, a picture, both
    tables on a page, and no judgement of sizes that are not the default ones."""
    page, out = tmp_path / "page.md", tmp_path / "out"
    places = [*pages.marks("dictionary"), "between", *pages.marks("low-rank"), "after"]
    page.write_text("\n".join(places))
    words = ["--rows", "200", "400", "--steps", "20", "--whole", "2", "--rounds", "1",
             "--residences", "disk", "--batch", "4"]  # fmt: skip
    low = ["--low-rank-rows", "100", "300", "--methods", "gram", "gather", "--write", str(page)]
    assert main([*words, *low, "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["benchmark"] == "dictionary" and told["broken"] is None and told["cores"] > 0
    assert [(size["residence"], size["rows"]) for size in told["sizes"]] == [
        ("disk", 200), ("disk", 400)
    ]  # fmt: skip
    assert [(row["rows"], row["method"]) for row in told["low_rank"]] == [
        (100, "gram"), (100, "gather"), (300, "gram"), (300, "gather")
    ]  # fmt: skip
    assert (tmp_path / "dictionary.png").is_file() and not list(out.iterdir())
    assert "](dictionary.png)" in page.read_text()
    first, second = page.read_text().split("between")
    large = told["sizes"][1]
    assert f"| `disk` | 400 | {large['whole_ms']:.0f} | {large['milliseconds']:.2f} (" in first
    assert "not of the default sizes, and so not judged" in first
    assert f"| `gather` | 300 | {told['low_rank'][3]['mib']:.2f} |" in second


def test_what_a_spread_search_takes_is_measured_over_a_whole_pass() -> None:
    """A table that is spread gives figures of its steps and its end; a small one gives none, since
    it is read at once."""
    rows = AT_ONCE + 1
    large, small = build(Comm(), rows, "host", "", written=False), build(Comm(), 64, "host", "")
    found = measure_spread(Comm(), large, "gram")
    assert 0 < found["step_ms"] <= found["longest_ms"] and found["end_ms"] > 0
    assert measure_spread(Comm(), small, "gram") == {}
    for dictionary in (large, small):
        dictionary.close()


@LINUX
@pytest.mark.ranks
def test_methods_alone_leave_the_other_figures_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--rows` without a number: one method is measured, and what stood in the place of the sizes
    stays. Nothing at all to measure is refused."""
    page = tmp_path / "page.md"
    begin, end = pages.marks("dictionary")
    page.write_text("\n".join([begin, "old", end, *pages.marks("low-rank")]))
    words = ["--rows", "--low-rank-rows", "100", "--methods", "tsqr", "--out", str(tmp_path)]
    assert main([*words, "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (told["sizes"], told["growth"], told["broken"]) == ([], {}, None)
    assert page.read_text().startswith(f"{begin}\nold\n{end}\n")
    assert f"| `tsqr` | 100 | {told['low_rank'][0]['mib']:.2f} |" in page.read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["--rows", "--low-rank-rows"])
    assert "--rows, --low-rank-rows: nothing is left to measure" in capsys.readouterr().err
