"""How long work is told of."""

from __future__ import annotations

import pytest
import rich.progress  # noqa: F401  # else it keeps the clock of the test

from trainer import progress


def test_without_a_terminal_a_line_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every half minute and no more often; short work says nothing."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    for _ in progress.progress(range(5), label="short"):
        clock[0] += 5
    assert capsys.readouterr().err == ""
    for _ in progress.progress(range(10), label="long"):
        clock[0] += 10
    assert capsys.readouterr().err.splitlines() == [
        "long: 4 of 10, 60 s left", "long: 8 of 10, 20 s left"
    ]  # fmt: skip
