"""What strangers' footage, sets and stores cannot do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards import inspect
from data_shards.cache import NodeCache
from data_shards.errors import UserError
from data_shards.footage import UnusableError
from data_shards.frames import open_video
from data_shards.images import MOST_FRAMES, split_strip
from data_shards.manifest import CLIPS, MANIFEST, read_manifest
from data_shards.sources.golf_archive import MOST_REMARK, _Header
from data_shards.sources.tree import Tree
from data_shards.store import Store
from data_shards.stream import open_manifest
from tests.data_shards.test_cache import shard, writes
from tests.support.footage import tiny_set
from tests.support.raw_footage import write_video
from tests.support.shards import write_set

EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "shard elsewhere": (
        lambda m: m["shards"][0].update(file="../shard-00000.tar"), "is not a plain file name"
    ),
    "shard absolute": (
        lambda m: m["shards"][0].update(file="/etc/passwd"), "is not a plain file name"
    ),
    "copy elsewhere": (
        lambda m: m["shards"][0].update(sha256="/home/somebody/backup"), "SHA-256"
    ),
    "table elsewhere": (lambda m: m.update(clips_sha256="../x"), "is no SHA-256"),
    "empty shard": (lambda m: m["shards"][0].update(clips=0), "is empty"),
    "no shards": (lambda m: m.update(shards=[]), "no shards"),
    "no size": (lambda m: m.update(height=0), "must be positive"),
    "endless clips": (lambda m: m.update(frames=1_000_000_000), "larger than 2 GiB"),
    "endless frames": (lambda m: m.update(height=100_000, frames=1), "8192 pixels a side"),
    "identity": (lambda m: m["videos"][0].update(identity=99), "an identity that is not in the"),
    "action": (lambda m: m["videos"][0].update(action=-2), "an action that is not in the table"),
    "name": (lambda m: m.update(name="../runs"), "is not a plain one"),
    "format": (lambda m: m.update(format="other/1"), "not a manifest of format"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(EDITS))
def test_facts_of_a_manifest_that_cannot_be(tmp_path: Path, what: str) -> None:
    """One line that names the file, before anything else of the set is opened."""
    folder = tiny_set(tmp_path, identities=2, actions=1)
    facts = json.loads((folder / MANIFEST).read_text())
    edit, said = EDITS[what]
    edit(facts)
    (folder / MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(UserError) as caught:
        read_manifest(folder)
    told = str(caught.value)
    assert MANIFEST in told and said in told and "\n" not in told


TABLES: dict[str, tuple[Callable[[np.ndarray], object], str]] = {
    "order": (lambda t: t["shard"].__setitem__(0, 2), "not in the order of"),
    "far": (lambda t: t["offset"].__setitem__(0, 1 << 40), "a clip lies outside its shard"),
    "before": (lambda t: t["offset"].__setitem__(0, -512), "a clip lies outside its shard"),
    "small": (lambda t: t["size"].__setitem__(0, 1), "a clip lies outside its shard"),
    "frames": (lambda t: t["frames"].__setitem__(0, 0), "a clip has fewer than"),
    "video": (lambda t: t["video"].__setitem__(0, 99), "a clip of an unknown video"),
}


@pytest.mark.parametrize("what", list(TABLES))
def test_a_clip_table_that_cannot_be(tmp_path: Path, what: str) -> None:
    """Whoever can write a set can write a digest that fits: places are looked at, too."""
    write_set(tmp_path, (5, 4, 3))
    edit, said = TABLES[what]
    table = np.load(tmp_path / CLIPS)
    edit(table)
    np.save(tmp_path / CLIPS, table)
    facts = json.loads((tmp_path / MANIFEST).read_text())
    facts["clips_sha256"] = hashlib.sha256((tmp_path / CLIPS).read_bytes()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=said):
        assert len(open_manifest(str(tmp_path)).table)


def test_a_cache_counts_and_drops_its_own_copies_alone(tmp_path: Path) -> None:
    """Somebody has archives in the folder that they gave: these stay, however small the limit."""
    theirs = ("backup.tar", "film.mp4.part", "table.npy", "x.damaged")
    for name in theirs:
        (tmp_path / name).write_bytes(b"x" * 500)
    cache = NodeCache(tmp_path, limit=100, timeout=5, keep_damaged=False)
    for letter in "ab":
        item, data = shard(letter, 100)
        cache.ensure(item, writes(data))
    assert cache.bytes() == 100
    assert all((tmp_path / name).stat().st_size == 500 for name in theirs)


def test_a_path_is_never_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called `http:` is a folder, and `file:/x.mp4` no file of the root."""
    place = tmp_path / "http:" / "a.mp4"
    write_video(place, np.zeros((3, 32, 32, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert len(list(open_video(Path("http:/a.mp4")).frames)) == 3
    (tmp_path / "file:").mkdir()
    with pytest.raises(UnusableError):
        open_video(Path("file:") / place.relative_to("/"))


def test_a_long_remark_in_an_archive_is_not_read() -> None:
    """A member that only names the next one may claim any size: a few bytes would fill memory."""
    for size in (MOST_REMARK - 1000, MOST_REMARK + 1):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo("x" * size))
        packed.seek(0)
        reads = partial(tarfile.open, fileobj=packed, mode="r:", tarinfo=_Header)
        if size < MOST_REMARK:
            with reads() as archive:
                assert archive.getnames() == ["x" * size]
        else:  # while it is opened, the first member is looked for
            with pytest.raises(tarfile.ReadError, match="a name or remark of 1048578 bytes"):
                reads()


def test_a_thin_picture_is_no_strip() -> None:
    """One pixel high and very wide: a view for every pixel would take minutes and gigabytes."""
    with pytest.raises(UnusableError, match="it has 65,537 frames; at most 65,536 are taken"):
        split_strip(np.zeros((1, MOST_FRAMES + 1, 3), np.uint8), stacked=False)
    assert len(split_strip(np.zeros((5, 1, 3), np.uint8), stacked=True)) == 5


def test_a_pipe_is_no_footage(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"")
    tree = Tree(tmp_path, (".mp4",))
    assert tree.files == ["b.mp4"]
    assert [item.name for item in tree.refused] == ["a.mp4"]


def test_an_address_with_a_password_is_refused() -> None:
    """It would stand in configs, reports and trackers; the line does not repeat it."""
    with pytest.raises(
        UserError, match=r"^data\.manifest: https:// with a user or password"
    ) as told:
        Store("https://me:secret@host/set")
    assert "secret" not in str(told.value)
    assert Store("s3://bucket/a@b").where == "s3://bucket/a@b"


def test_a_sheet_does_not_follow_a_link(tmp_path: Path) -> None:
    """A set brings links under the names that `inspect` writes: what they lead to stays."""
    folder = tiny_set(tmp_path / "set", identities=1, actions=1)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("contact-sheet.png", ".contact-sheet.png.part"):
        (folder / name).symlink_to(precious)
    assert inspect.main([str(folder)]) == 0
    assert precious.read_text() == "mine"
    sheet = folder / "contact-sheet.png"
    assert not sheet.is_symlink() and sheet.read_bytes().startswith(b"\x89PNG")
