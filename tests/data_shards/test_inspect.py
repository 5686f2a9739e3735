"""Inspecting: whole sets pass, every kind of damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from data_shards.inspect import main, verify
from data_shards.manifest import read_manifest
from data_shards.writer import BLOCK
from tests.support.footage import tiny_set


@pytest.mark.parametrize("codec", ["png", "jpg", "raw", "mp4"])
def test_whole_set(tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A set of any codec passes, is summed up, and its sheet has a row for each clip."""
    folder = tiny_set(tmp_path, identities=2, actions=2, codec=codec)
    assert main([str(folder), "--decode", "--sheet", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert "every checksum fits" in said and "2: red-disc, teal-chair" in said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 + 4 * 18, 2 + 4 * 18)


def test_default_sheet_is_in_the_folder(tmp_path: Path) -> None:
    """Without --sheet the sheet lies beside the manifest, and the set stays whole."""
    folder = tiny_set(tmp_path, identities=1, actions=1)
    assert main([str(folder)]) == 0 and (folder / "contact-sheet.png").exists()
    assert verify(folder / "manifest.json", decode=True) == []


def test_names_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each video, in the manifest's order; nothing is verified or written."""
    folder = tiny_set(tmp_path)
    capsys.readouterr()
    assert main([str(folder), "--names"]) == 0
    names = [video.name for video in read_manifest(folder).videos]
    assert capsys.readouterr().out.splitlines() == names and "gold-star/turn" in names
    assert not (folder / "contact-sheet.png").exists()
    assert main([str(tmp_path / "none"), "--names"]) == 2


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (0, "clip 4 (gold-star/turn) is altered"),
        (BLOCK + 9, "clip 4 (gold-star/turn) is altered"),
        (-1, "altered outside of its clips"),
    ],
)
def test_flipped_bit(
    tmp_path: Path, place: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit in a header, a payload or the end of a shard is found and the clip named."""
    folder = tiny_set(tmp_path)
    shard = folder / read_manifest(folder).shards[1].file
    data = bytearray(shard.read_bytes())
    data[place] ^= 4
    shard.write_bytes(data)
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {shard}: {reason}\n"
    assert not (folder / "contact-sheet.png").exists()


def test_missing_and_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard that is missing or cut, an altered clip table, a missing manifest: each by name."""
    folder = tiny_set(tmp_path)
    first, second = (folder / shard.file for shard in read_manifest(folder).shards)
    size = second.stat().st_size
    first.unlink()
    second.write_bytes(second.read_bytes()[:-512])
    assert verify(folder) == [
        f"{first}: missing; prepare the footage again",
        f"{second}: {size - 512} bytes instead of {size}",
    ]
    clips = folder / "clips.npy"
    clips.write_bytes(clips.read_bytes()[:-1])
    assert verify(folder) == [f"{clips}: missing or altered; prepare the footage again"]
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'manifest.json'}: no manifest (No such file or directory); run "
        "data_shards.prepare first\n"
    )


def test_the_manifest_itself_may_be_named(tmp_path: Path) -> None:
    """As `data.manifest` may: everything is verified and the sheet lies in the folder."""
    folder = tiny_set(tmp_path)
    assert main([str(folder / "manifest.json")]) == 0
    assert (folder / "contact-sheet.png").exists()
