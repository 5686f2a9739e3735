"""128x128 clips, as golf has them, through the whole line."""

from __future__ import annotations

from pathlib import Path

from tests.support.footage import tiny_set
from tests.support.training import train
from trainer.generate import main as generate


def test_clips_of_128_pixels_are_prepared_trained_on_and_generated(tmp_path: Path) -> None:
    """Shards, two steps in two micro-batches, sheets and a sample of 128x128 pixels."""
    data = tiny_set(tmp_path / "data", identities=2, actions=2, frames=4, size=128, codec="jpg")
    words = ("preset=golf", "networks.channels=4", "networks.group_channels=4", "train.steps=2")
    assert train(tmp_path, data, *words, "train.accumulate=2") == 0
    assert (tmp_path / "run" / "samples" / "sheet.png").exists()
    out = tmp_path / "made"
    assert generate([str(tmp_path / "run"), "--out", str(out), "sample", "--count", "2"]) == 0
    assert [path for path in out.rglob("*") if path.is_file()]
