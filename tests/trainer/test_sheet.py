"""Sample sheets of a training under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.dataset import ClipReader, Part, Request
from tests.support.footage import tiny_set
from tests.support.training import train
from trainer import sheet


@pytest.mark.parametrize(("held", "times"), [(sheet.HELD, 1), (0, 3)])
def test_the_clips_of_all_sheets_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, times: int
) -> None:
    """Every sheet of a training shows the same clips: they are kept, unless they are large."""
    read: list[list[int]] = []

    class Counted(ClipReader):
        def __getitem__(self, request: Request) -> Part:
            read.append(request.clip_B.tolist())
            return super().__getitem__(request)

    monkeypatch.setattr(sheet, "ClipReader", Counted)
    monkeypatch.setattr(sheet, "HELD", held)
    data = tiny_set(tmp_path, identities=3, actions=2, frames=6, size=32)
    words = ("train.steps=3", "train.sample_minutes=0.000001", "train.pictures=false")
    assert train(tmp_path, data, *words) == 0
    assert len(list((tmp_path / "run" / "samples").glob("step-*.png"))) == 3
    assert read == [list(range(6))] * times
