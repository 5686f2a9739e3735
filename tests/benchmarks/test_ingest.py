"""The benchmark of preparing golf's archive: what it measures, and where its table goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ingest, pages


def test_an_archive_is_prepared_plain_and_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One video of three JPEGs: a line for each way, on the page and in the line of JSON, from
    which the model of cost takes the bytes of a stored clip."""
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("ingest")))
    monkeypatch.setattr(ingest, "SEGMENTS", 3)
    assert ingest.main(["--videos", "1", "--workers", "1", "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (told["benchmark"], [run["archive"] for run in told["runs"]]) == (
        "ingest", ["tar", "tar.bz2"]
    )  # fmt: skip
    assert told["clip_bytes"] == told["runs"][0]["clip_bytes"] > 1000
    for run in told["runs"]:
        assert f"| {run['archive']} | 1 | {run['clips_per_second']:.1f} |" in page.read_text()
    page.write_text("no marks\n")
    assert ingest.main(["--write", str(page)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {page}: has no place for the table")
