"""The benchmark of scaling: what each way to add up gradients is predicted to take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.constants import GOLF, Machine
from benchmarks.cost import bytes_per_step
from benchmarks.scaling import WORDS, Row, fit, main, predict, table, ways_of
from data_shards.cores import cores
from trainer.config import resolve

FOOTAGE = GOLF._replace(clips=64, size=64)
BEGIN, END = pages.marks("scaling")
MACHINE = Machine(flops=1e12, link=1e8, latency=0.0, loader=1e9, overhead=0.0, copy=1e9)


def test_what_is_not_sent_takes_no_time_on_the_link() -> None:
    """Two ranks: as a ring, all gradients cross the link; in memory half of them are written and
    half read, whatever the link does."""
    config = resolve(list(WORDS))
    sent = bytes_per_step(config, FOOTAGE, ranks=2)
    handed = bytes_per_step(config, FOOTAGE, ranks=2, gradients="memory")
    assert handed["gradients"] == sent["handed over"] == 0
    assert handed["handed over"] == sent["gradients"] / 2 > 0
    assert handed["rows"] == sent["rows"]
    slow, fast = MACHINE._replace(link=1e7), MACHINE._replace(copy=2e9)

    def seconds(machine: Machine, gradients: str) -> float:
        return predict(config, FOOTAGE, machine, world=2, gradients=gradients, moving=0.0)

    ring = seconds(slow, "send") - seconds(MACHINE, "send")
    rest = seconds(slow, "memory") - seconds(MACHINE, "memory")
    assert ring - rest == pytest.approx(sent["gradients"] * (1 / 1e7 - 1 / 1e8))
    assert seconds(MACHINE, "send") == seconds(fast, "send")
    saved = seconds(MACHINE, "memory") - seconds(fast, "memory")
    assert saved == pytest.approx(2 * handed["handed over"] * (1 / 1e9 - 1 / 2e9))


def test_weights_are_moved_by_all_or_shared_out() -> None:
    """Of 50 ms that nothing changes, 30 move weights: processes that each move all of them on the
    same cores take them in turns, and those that share take them once."""
    config, machine = resolve(list(WORDS)), MACHINE._replace(overhead=0.05)
    idle = MACHINE._replace(overhead=0.0)
    for world in (1, 2, 4):
        turns = max(1.0, world / cores())
        for way, times in (("send", world), ("memory", 1)):
            took, without = (
                predict(config, FOOTAGE, each, world=world, gradients=way, moving=0.03)
                for each in (machine, idle)
            )
            assert took - without == pytest.approx(0.02 * turns + 0.03 * times)


def test_a_line_through_two_batches_is_found_again() -> None:
    """What a clip costs and what a step costs in any case."""
    config = resolve(list(WORDS))
    rate, fixed = fit(config, FOOTAGE, {4: 0.01 + 4 * 0.002, 32: 0.01 + 32 * 0.002})
    again, none = fit(config, FOOTAGE, {4: 4 * 0.002, 32: 32 * 0.002})
    assert fixed == pytest.approx(0.01) and none == pytest.approx(0.0, abs=1e-9)
    assert rate == pytest.approx(again)


def test_the_table_has_a_place_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors are signed, what stands around the table stays, and a page without a place is refused
    before anything is measured."""
    rows = [Row(1, "alone", 20.0, 21.0, 0.05, 0.8), Row(2, "send", 10.0, 7.0, -0.3, 1.6)]
    assert table(rows).splitlines()[2:] == [
        "| 1 | alone | 20.0 | 21.0 | +5 % | 800.0 |", "| 2 | send | 10.0 | 7.0 | -30 % | 1600.0 |"
    ]  # fmt: skip
    assert ways_of([1, 2, 4])[:3] == [(1, "alone"), (2, "send"), (2, "memory")]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    pages.put(page, "scaling", "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("no marks\n")
    assert main(["--write", str(page)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {page}: has no place for the table")


@pytest.mark.ranks
@pytest.mark.slow
def test_it_measures_each_way_and_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One and two processes with little networks: every line is on the page, and the JSON has each
    way's worst error."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    words = ["networks.channels=4", "networks.group_channels=4", "networks.hidden=8"]
    sizes = ["--steps", "2", "--ranks", "1", "2", "--size", "32", "--link-floats", "300000"]
    assert main([*words, *sizes, "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = [Row(**row) for row in told["worlds"]]
    assert [(row.ranks, row.gradients) for row in rows] == ways_of([1, 2])
    assert page.read_text() == f"before\n{BEGIN}\n{table(rows)}\n{END}\nafter\n"
    for row in rows[1:]:
        assert told["worst_error"][row.gradients] == abs(row.error)
        assert row.clips_per_second == pytest.approx(16 / row.seconds)
