"""The benchmark of tables that every rank holds: what it compares, and where its table goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.replication import build, main, rows_of
from trainer.comm import Comm


@pytest.mark.parametrize("kind", ["static", "transient"])
def test_a_table_has_the_size_that_is_named(kind: str) -> None:
    """Its values take the KiB that were asked for, to within a row, and the other table has one
    row."""
    dictionary = build(Comm(), kind, 64, held=False)
    rows = dictionary.tables[kind].count
    size = rows * 4 * 200 * (16 if kind == "transient" else 1)
    assert rows == rows_of(kind, 64) and 0 <= 64 * 1024 - size < size / rows
    assert dictionary.tables["transient" if kind == "static" else "static"].count == 1


@pytest.mark.ranks
def test_both_ways_are_timed_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks, one size, both kinds of codes: figures of both ways on the page and in the line of
    JSON."""
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("replication")))
    words = ["--kib", "32", "--steps", "5", "--rounds", "2", "--batch", "8"]
    assert main([*words, "--write", str(page)]) == 0
    sizes = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["sizes"]
    assert [(one["kind"], one["rows"]) for one in sizes] == [("static", 40), ("transient", 2)]
    for one in sizes:
        assert one["held_ms"] > 0 and one["sharded_ms"] > 0
        told = f"| `{one['kind']}` | 32 | {one['rows']} | {one['sharded_ms']:.2f} |"
        assert told in page.read_text()
    assert main(["--write", str(tmp_path / "none.md")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["--kib", "64", "8"])
    assert "--kib: 8 is below 16, what a single row takes" in capsys.readouterr().err
