"""Shards: what their bytes are, when they are full, and that a resume keeps what fits."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from data_shards.manifest import CLIP_RECORD, digest_of
from data_shards.writer import PARTIAL, Clip, Result, SetWriter, member_span


def video(number: int, sizes: list[int]) -> Result:
    clips = [Clip(8 * i, 8, bytes([number + i]) * size, number) for i, size in enumerate(sizes)]
    reject = "" if clips else "too short"
    return Result(f"v{number}", "someone", "", 8 * len(sizes), tuple(clips), reject)


def fill(
    out: Path, videos: list[Result], *, clips: int, size: int, stop: int = 1 << 30
) -> SetWriter:
    """Add the videos from where an earlier writer stopped; `stop` leaves after so many. The number
    of rejects is told right at every moment."""
    writer = SetWriter(out, codec="png", shard_clips=clips, shard_bytes=size)
    done, skip = writer.resume(), writer.skip_clips
    assert writer.rejected == len(writer.rejects)
    for result in videos[done:stop]:
        writer.add(result, skip=skip)
        skip = 0
        assert writer.rejected == len(writer.rejects)
    if stop >= len(videos):
        writer.close()
        writer.join_records()
    writer.abandon()
    return writer


def files(writer: SetWriter) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in writer.partial.iterdir()}


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 3000), max_size=4), min_size=1, max_size=5),
    clips=st.integers(2, 5),
    size=st.integers(1500, 9000),
    stop=st.integers(0, 5),
)
def test_rollover_and_resume(sizes: list[list[int]], clips: int, size: int, stop: int) -> None:
    """Every clip is in one shard, once, in order, where its record says; a shard is closed by the
    clip that fills it; and stopping anywhere and going on makes the same bytes and tables."""
    videos = [video(number, lengths) for number, lengths in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        whole = fill(Path(folder, "a"), videos, clips=clips, size=size)
        fill(Path(folder, "b"), videos, clips=clips, size=size, stop=stop)
        again = fill(Path(folder, "b"), videos, clips=clips, size=size)
        assert files(again) == files(whole)
        assert (again.videos, again.rejects) == (whole.videos, whole.rejects)
        assert whole.rejects == [[v.name, "too short"] for v in videos if not v.clips]
        records = np.load(whole.partial / "clips.npy", allow_pickle=False)
        _check_records(whole, records, [clip for v in videos for clip in v.clips])
        for entry in whole.entries[:-1]:
            spans = records["size"][records["shard"] == whole.entries.index(entry)]
            assert entry.shard.clips == clips or spans.sum() >= size > spans[:-1].sum()


def _check_records(writer: SetWriter, records: np.ndarray, clips: list[Clip]) -> None:
    assert records.dtype == CLIP_RECORD and len(records) == len(clips)
    for number, (record, clip) in enumerate(zip(records, clips, strict=True)):
        shard = (writer.partial / writer.entries[record["shard"]].shard.file).read_bytes()
        span = shard[record["offset"] : record["offset"] + record["size"]]
        assert span == member_span(f"{number:08d}.png", clip.payload)
        assert digest_of(span) == record["digest"].tobytes()
        assert (record["start"], record["content"]) == (clip.start, clip.content)
        assert writer.videos[record["video"]][0] == f"v{clip.content}"


def test_shards_are_plain_tars(tmp_path: Path) -> None:
    """tarfile and webdataset read what was written; times, owners and modes tell nothing."""
    writer = fill(tmp_path, [video(0, [700, 0, 512])], clips=9, size=1 << 20)
    path = writer.partial / "shard-00000.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [(m.name, m.size, m.mtime, m.uid, m.uname) for m in members] == [
        ("00000000.png", 700, 0, 0, ""),
        ("00000001.png", 0, 0, 0, ""),
        ("00000002.png", 512, 0, 0, ""),
    ]
    samples = list(WebDataset([str(path)], shardshuffle=False))
    assert [len(sample["png"]) for sample in samples] == [700, 0, 512]


def test_altered_shard_is_made_again(tmp_path: Path) -> None:
    """A kept shard whose SHA-256 does not fit is dropped with all after it."""
    videos = [video(number, [600]) for number in range(5)]
    want = files(fill(tmp_path / "a", videos, clips=1, size=1 << 20))
    fill(tmp_path / "b", videos, clips=1, size=1 << 20, stop=4)
    shard = tmp_path / "b" / PARTIAL / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    writer = SetWriter(tmp_path / "b", codec="png", shard_clips=1, shard_bytes=1 << 20)
    assert writer.resume() == 1
    assert files(fill(tmp_path / "b", videos, clips=1, size=1 << 20)) == want


def test_torn_journal_line_is_ignored(tmp_path: Path) -> None:
    """A journal line that was being written when the power went is as if never begun."""
    videos = [video(number, [600]) for number in range(4)]
    want = files(fill(tmp_path / "a", videos, clips=1, size=1 << 20))
    fill(tmp_path / "b", videos, clips=1, size=1 << 20, stop=3)
    journal = tmp_path / "b" / PARTIAL / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert files(fill(tmp_path / "b", videos, clips=1, size=1 << 20)) == want
