"""Progress: a bar with counts on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from data_shards.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("unit", "count"), [("videos", "7/7"), ("bytes", "7/7 bytes")])
def test_terminal(unit: str, count: str) -> None:
    """The bar ends with its title, its note and everything done."""
    stream = Terminal()
    with bar("prepare demo", 7, unit=unit, stream=stream) as shown:
        shown.at(3, "1 shards full")
        shown.say("a [line] above")
        shown.at(7, "2 shards full")
    said = stream.getvalue()
    assert all(part in said for part in ("prepare demo", count, "2 shards full", "a [line] above"))


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a line is written every ten seconds, with the time left."""
    clock = iter([0.0, 4.0, 12.0, 12.0, 12.0, 15.0])
    monkeypatch.setattr("data_shards.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with bar("prepare demo", 8, unit="videos", stream=stream) as shown:
        shown.at(1, "0 shards full")
        shown.at(4, "1 shards full")
        shown.at(5, "1 shards full")
    assert stream.getvalue() == "4 of 8 videos 1 shards full, 12 s left\n"
