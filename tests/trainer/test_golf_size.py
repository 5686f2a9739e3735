"""128x128 clips, as golf has them, through the whole line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_shards.manifest import read_manifest
from data_shards.prepare import main as prepare
from tests.support.raw_footage import moving, pack, stacked, write_image
from tests.support.training import train
from trainer.evaluate import main as evaluate
from trainer.fit import main as fit
from trainer.fitted import read_fitted
from trainer.generate import main as generate
from trainer.run import open_run

SEGMENTS = (17, 9, 16)
"""Frames of a video's JPEGs; the second one is too short for a clip."""


def archive(folder: Path, *, videos: range) -> Path:
    """An archive as VGAN has it, of 128x128 frames."""
    for video in videos:
        for segment, frames in enumerate(SEGMENTS):
            clip = moving(frames, height=128, width=128, shade=20 * video + 5 * segment)
            path = folder / "golf" / f"{video:06d}" / f"{segment:04d}.jpg"
            write_image(path, stacked(clip))
    return pack(folder, folder.with_suffix(".tar"))


def prepared(folder: Path, *, videos: range) -> Path:
    """A clip of each segment, as for the full set."""
    out = folder.with_name(f"{folder.name}-set")
    words = ["golf", "--root", str(archive(folder, videos=videos)), "--out", str(out)]
    cut = ["--windows", "each", "--size", "128", "--codec", "jpg", "--workers", "1"]
    assert prepare([*words, *cut]) == 0
    return out


@pytest.mark.slow
def test_an_archive_of_128_pixels_goes_through_the_whole_line(tmp_path: Path) -> None:
    """Two videos are prepared from a `.tar`, trained on in two micro-batches, scored, sampled from,
    and a third one is fitted: clips of 16 frames of 128x128 pixels, a row for each."""
    data = prepared(tmp_path / "golf", videos=range(2))
    facts = read_manifest(data)
    assert (facts.clips, facts.frames, facts.height, facts.width) == (4, 16, 128, 128)
    words = ("preset=golf", "networks.channels=4", "networks.group_channels=4", "train.steps=3")
    assert train(tmp_path, data, *words, "schedule.clips=4", "train.accumulate=2") == 0
    home = tmp_path / "run"
    run = open_run(home)
    static_BS, transient_BTM = run.latents(torch.zeros(4, dtype=torch.int64), torch.arange(4))
    assert transient_BTM.shape[:2] == (4, 16) and len(transient_BTM.unique(dim=0)) == 4
    assert len(static_BS.unique(dim=0)) == 1
    assert (home / "samples" / "sheet.png").exists()
    assert evaluate([str(home), "--no-mcs"]) == 0
    judged = json.loads((home / "evaluation.json").read_text())
    assert [video["name"] for video in judged["videos"]] == ["golf/000000", "golf/000001"]
    assert all(video["psnr"] > 5 for video in judged["videos"])
    out = tmp_path / "made"
    assert generate([str(home), "--out", str(out), "sample", "--count", "2"]) == 0
    with Image.open(next(out.rglob("*.gif"))) as image:
        assert image.size[0] >= 2 * 128 and getattr(image, "n_frames", 1) == 16
    new = prepared(tmp_path / "new", videos=range(5, 6))
    assert fit([str(home), str(new), "--name", "new", "--steps", "4", "--check", "2"]) == 0
    fitted = read_fitted(run, "new")
    assert fitted.transient_VTM.shape[:2] == (1, 16)
    assert [video["name"] for video in fitted.facts["videos"]] == ["golf/000005"]
