"""bzip2 on all cores: the same bytes, and every cut and flipped bit found."""

from __future__ import annotations

import bz2
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import UserError
from data_shards.options import Options
from data_shards.sources import bzip2
from tests.data_shards.test_sources import listing_of
from tests.support import raw_footage as raw

DRAW = np.random.default_rng(0)
PLAIN = DRAW.bytes(250_000)
PACKED = bz2.compress(PLAIN, 1)
"""Three blocks."""


@pytest.fixture(autouse=True)
def library() -> None:
    pytest.importorskip("rapidgzip", reason="bzip2 on all cores: pip install 'navsynth[golf]'")


def read(path: Path) -> bytes:
    with bzip2.open_parallel(path) as file:
        return b"".join(iter(lambda: file.read(10_240), b""))


def test_bytes_are_those_of_the_plain_reader(tmp_path: Path) -> None:
    """One stream, and two behind one another, as pbzip2 writes them."""
    path = tmp_path / "file.bz2"
    for packed, plain in ((PACKED, PLAIN), (PACKED + PACKED, PLAIN + PLAIN)):
        path.write_bytes(packed)
        assert read(path) == plain == bz2.decompress(packed)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Headers, the end, and bytes all over three blocks: never other bytes without an error."""
    path = tmp_path / "file.bz2"
    size = len(PACKED)
    places = [*range(24), *range(size - 12, size), *DRAW.integers(0, size, 60).tolist()]
    for place in places:
        changed = bytearray(PACKED)
        changed[place] ^= 1 << int(DRAW.integers(8))
        path.write_bytes(changed)
        with pytest.raises((RuntimeError, ValueError)):
            read(path)


def test_every_cut_is_found(tmp_path: Path) -> None:
    """A file that ends early is an error, also where only its last bytes are missing."""
    path = tmp_path / "file.bz2"
    for size in (*range(len(PACKED) - 12, len(PACKED)), *range(1, len(PACKED), 9_973)):
        path.write_bytes(PACKED[:size])
        with pytest.raises((RuntimeError, ValueError)):
            read(path)


@pytest.mark.parametrize("cores", ["all", "one"])
def test_a_damaged_archive_is_told_with_the_last_video(
    cores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos before the damage come whole (all cores read some blocks ahead and may stop so much
    earlier), then one line with the archive's name."""
    monkeypatch.setattr(bzip2, "parallel", lambda: cores == "all")
    plain = tmp_path / "golf.tar"
    with tarfile.open(plain, "w") as tar:
        for video in range(40):
            raw.add_member(tar, f"golf/{video:04d}/0000.jpg", DRAW.bytes(20_000))
    packed = bytearray(bz2.compress(plain.read_bytes(), 1))
    packed[len(packed) * 3 // 4] ^= 16
    path = tmp_path / "golf.tar.bz2"
    path.write_bytes(packed)
    seen = []
    listing = listing_of(Options(source="golf", root=str(path)))
    where = {"all": "(after golf/00..|at its start)", "one": "after golf/00.."}[cores]
    with pytest.raises(UserError, match=f"{path.name}: damaged or cut off {where}"):
        for item in listing.items:
            assert item.load is not None
            seen.append(len(item.load()["0000.jpg"]))
            assert listing.position and 0 < listing.position() <= listing.total
    assert len(seen) < 40 and set(seen) <= {20_000}
    assert cores == "all" or len(seen) >= 20
