"""Damage: every cut and every flipped bit is found before its pixels go anywhere."""

from __future__ import annotations

import dataclasses
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.config import DataConfig
from data_shards.dataset import ClipReader, Damage, Request
from data_shards.errors import UserError
from data_shards.stream import DamagedShard, Stream, open_manifest
from tests.support.shards import pixels, write_set

FAIL = DataConfig(cache_mib=0, prefetch=1)
QUARANTINE = DataConfig(cache_mib=0, on_damage="quarantine")
SHARD = "shard-00000.tar"


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Three clips in one shard."""
    write_set(tmp_path, (3,), size=2)
    return tmp_path


def damaged_clips(reader: ClipReader) -> dict[int, str]:
    """Reasons by clip, of reading everything."""
    clip_B = np.arange(reader.opened.manifest.clips)
    found = reader.clips(clip_B)
    return {item.clip: item.reason for _, item, _ in found if isinstance(item, Damage)}


def test_every_flipped_byte_is_found(tiny):
    """Each byte of a shard, flipped: exactly the clip that owns it is damaged; the bytes of no clip
    are the tar's end blocks, which hold nothing but count for the shard's SHA-256."""
    reader = ClipReader(open_manifest(str(tiny), config=FAIL))
    table = reader.opened.table
    assert damaged_clips(reader) == {}
    data = (tiny / SHARD).read_bytes()
    end = int(table["offset"][-1] + table["size"][-1])
    owners = np.searchsorted(table["offset"], np.arange(end), side="right") - 1
    with (tiny / SHARD).open("r+b", buffering=0) as file:
        for position in range(len(data)):
            file.seek(position)
            file.write(bytes([data[position] ^ (1 << position % 8)]))
            expected = {int(owners[position])} if position < end else set()
            assert set(damaged_clips(reader)) == expected, position
            file.seek(position)
            file.write(data[position : position + 1])
    assert not any(data[end:])
    assert damaged_clips(reader) == {}


def test_every_truncation_is_found_at_the_start(tiny):
    """A shard of any other length is refused when the manifest is opened, by its name."""
    data = (tiny / SHARD).read_bytes()
    shards = open_manifest(str(tiny), config=FAIL).shards
    with (tiny / SHARD).open("r+b") as file:
        for length in [len(data) + 1, *reversed(range(len(data)))]:
            file.truncate(length)
            with pytest.raises(UserError, match=rf"{SHARD}: {length} bytes"):
                shards.check()
    with pytest.raises(UserError, match=rf"{SHARD}: 0 bytes"):
        open_manifest(str(tiny), config=FAIL)


def test_every_truncation_behind_our_back_is_found(tiny):
    """A shard cut short while it is being read: exactly the clips that lost bytes are damaged."""
    reader = ClipReader(open_manifest(str(tiny), config=FAIL))
    ends = reader.opened.table["offset"] + reader.opened.table["size"]
    with (tiny / SHARD).open("r+b") as file:
        for length in reversed(range(int(ends[-1]))):
            file.truncate(length)
            assert set(damaged_clips(reader)) == set(np.flatnonzero(ends > length)), length


@pytest.mark.parametrize("workers", [0, 1])
def test_fail_names_shard_clip_and_bytes(tiny, workers):
    """The policy `fail` ends the stream with one line, also out of a loader process."""
    config = DataConfig(cache_mib=0, workers=workers, prefetch=1)
    opened = open_manifest(str(tiny), config=config)
    flip(tiny / SHARD, int(opened.table["offset"][1]) + 600)
    with (
        Stream(opened, config, seed=0, batch=3) as stream,
        pytest.raises(DamagedShard, match=rf"{SHARD}: clip 1, bytes \d+\.\.\d+: ") as caught,
    ):
        next(stream)
    assert "\n" not in str(caught.value)


def test_fail_in_memory_stops_before_the_first_batch(tiny):
    """A set that is held in memory is verified as a whole when it is loaded."""
    opened = open_manifest(str(tiny))
    flip(tiny / SHARD, int(opened.table["offset"][2]))
    with pytest.raises(DamagedShard, match="clip 2"):
        Stream(opened, DataConfig(), seed=0, batch=2)


@pytest.mark.parametrize("config", [QUARANTINE, DataConfig(on_damage="quarantine")])
def test_quarantine_gives_damage_no_weight_and_takes_no_step_away(tiny, config):
    """The clip keeps its slot, as zeros that are not valid, and is listed once."""
    flip(tiny / SHARD, int(open_manifest(str(tiny)).table["offset"][1]) + 700)
    opened = open_manifest(str(tiny), config=config)
    with Stream(opened, config, seed=0, batch=4) as stream:
        for batch in itertools.islice(stream, 6):
            assert torch.equal(batch.valid_B, batch.clip_B != 1)
            for clip, frames_TCHW in zip(batch.clip_B.tolist(), batch.frames_BTCHW, strict=True):
                expected = pixels(clip, 2, 2).transpose(0, 3, 1, 2) * (clip != 1)
                np.testing.assert_array_equal(frames_TCHW, expected)
        assert [damage.clip for damage in stream.damaged] == [1]
        assert SHARD in stream.damaged[0].reason and stream.counters().damaged == 1


def test_quarantine_takes_what_is_left_of_a_short_shard(tiny):
    """Cut inside clip 1, clip 0 still trains."""
    table = open_manifest(str(tiny)).table
    with (tiny / SHARD).open("r+b") as file:
        file.truncate(int(table["offset"][1]) + 100)
    opened = open_manifest(str(tiny), config=QUARANTINE)
    with Stream(opened, QUARANTINE, seed=0, batch=3) as stream:
        batch = next(stream)
    assert batch.clip_B[batch.valid_B].tolist() == [0]
    assert all("cut short" in damage.reason for damage in stream.damaged)


def test_a_clip_under_another_s_name_is_found(tiny):
    """A table that points at whole, verified bytes of another member is refused by its header."""
    opened = open_manifest(str(tiny))
    swapped = np.array(opened.table)
    swapped[[0, 1]] = swapped[[1, 0]]
    reader = ClipReader(opened._replace(table=swapped))
    assert "tar header" in damaged_clips(reader)[0]


def test_a_payload_that_cannot_be_decoded_is_damage(tmp_path):
    """Bytes as written, yet no clip of the manifest's size: told, not raised."""
    manifest = write_set(tmp_path, (2,), codec="png")
    opened = open_manifest(str(tmp_path))
    odd = opened._replace(manifest=dataclasses.replace(manifest, height=5))
    part = ClipReader(odd)[Request(0, np.array([1]), np.array([0]))]
    assert not part.valid_B.any() and "cannot be decoded" in part.damages[0].reason


def test_shards_are_plain_tars(tiny):
    """The format under test is the documented one."""
    with tarfile.open(tiny / SHARD) as tar:
        assert tar.getnames() == ["00000000.raw", "00000001.raw", "00000002.raw"]


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))
