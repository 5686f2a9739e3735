"""One set's shards: written one after another, journalled, published all at once.

Everything is written below `OUT/.partial`. A full shard is fsynced and renamed; then one line of
`journal.jsonl` tells which videos it completes, so the journal says where to go on, whatever is
killed whenever. `publish` moves the files to `OUT`, the manifest last: a folder without
`manifest.json` is not prepared. The bytes depend on the clips and the options only.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards import disk
from data_shards.errors import UserError
from data_shards.manifest import CLIP_RECORD, Shard, digest_of

PARTIAL = ".partial"
JOURNAL = "journal.jsonl"
BLOCK = 512


class Clip(NamedTuple):
    """One encoded clip of a video."""

    start: int
    frames: int
    payload: bytes
    content: int


class Result(NamedTuple):
    """What became of one video: its clips, or the reason why there are none."""

    name: str
    identity: str
    action: str
    frames: int
    clips: tuple[Clip, ...]
    reject: str


class Entry(NamedTuple):
    """A line of the journal: one shard, and how far it brings the set."""

    shard: Shard
    items: int
    """Videos that are done with, rejected ones too."""
    clips: int
    """Clips of the next video that are in this or earlier shards."""
    videos: list[list]
    """[name, identity, action, frames] of those that begin in this shard."""
    rejects: list[list]
    """[name, reason] since the shard before."""


def member_span(name: str, payload: bytes) -> bytes:
    """A tar member as it stands in a shard: ustar header, payload, padding."""
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    header = info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    return header + payload + bytes(-len(payload) % BLOCK)


class SetWriter:
    """Owns the shards of one set and knows how far they are."""

    def __init__(self, out: Path, *, codec: str, shard_clips: int, shard_bytes: int) -> None:
        self.out, self.partial = out, out / PARTIAL
        self._codec, self._most_clips, self._most_bytes = codec, shard_clips, shard_bytes
        self.entries: list[Entry] = []
        self._file: io.BufferedWriter | None = None
        self._open_entry()

    def resume(self) -> int:
        """Take up what an earlier run left, keeping the shards whose SHA-256 fits.

        Returns:
            How many videos are done with; the next one is partly done where `skip_clips` > 0.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        self.entries = list(self._kept())
        kept = {entry.shard.file for entry in self.entries}
        for folder in (self.partial, self.out):
            for path in folder.glob("shard-*"):
                if path.with_suffix(".tar").name not in kept:
                    path.unlink()
        lines = b"".join(disk.dump(entry) for entry in self.entries)
        disk.write_whole(self.partial / JOURNAL, lines)
        self._open_entry()
        return self.items

    @property
    def skip_clips(self) -> int:
        """Clips of the next video that are in finished shards."""
        return self.entries[-1].clips if self.entries else 0

    def _kept(self) -> Iterator[Entry]:
        journal = self.partial / JOURNAL
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        for line in lines:
            try:
                raw = json.loads(line)
                entry = Entry(Shard(*raw[0]), *raw[1:])
            except (ValueError, TypeError):
                return
            if _sha256(self._find(entry.shard.file)) != entry.shard.sha256:
                return
            if not self._records(entry.shard.file).exists():
                return
            yield entry

    def _find(self, file: str) -> Path:
        moved = self.out / file
        return moved if moved.exists() else self.partial / file

    def _records(self, file: str) -> Path:
        return (self.partial / file).with_suffix(".npy")

    def _open_entry(self) -> None:
        # `items` counts the videos done with, rejected ones too.
        self.items = self.entries[-1].items if self.entries else 0
        self._row = sum(len(entry.videos) for entry in self.entries)
        self._clip = sum(entry.shard.clips for entry in self.entries)
        self._rejected = sum(len(entry.rejects) for entry in self.entries)
        self._videos: list[list] = []
        self._rejects: list[list] = []
        self._rows: list[tuple] = []
        self._bytes = 0

    def add(self, result: Result, *, skip: int = 0) -> None:
        """Append a video's clips but for the first `skip`, or its rejection.

        Raises:
            UserError: the disk refuses.
        """
        with disk.disk_errors(self.out):
            if result.reject:
                self._rejects.append([result.name, result.reject])
            elif not skip:
                self._videos.append([result.name, result.identity, result.action, result.frames])
            row = self._row + len(self._videos) - 1
            for number, clip in enumerate(result.clips[skip:], start=skip + 1):
                self._append(clip, row)
                last = number == len(result.clips)
                if len(self._rows) >= self._most_clips or self._bytes >= self._most_bytes:
                    self.items += last
                    self._close_shard(0 if last else number)
                    row = self._row - 1
                    if last:
                        return
            self.items += 1

    def _append(self, clip: Clip, row: int) -> None:
        if self._file is None:
            self._sha = hashlib.sha256()
            self._file = (self.partial / f"{self._shard_name()}.tmp").open("wb")
        span = member_span(f"{self._clip:08d}.{self._codec}", clip.payload)
        shard, place = len(self.entries), (self._bytes, len(span))
        digest = np.void(digest_of(span))
        self._rows.append((row, clip.start, clip.frames, shard, *place, digest, clip.content))
        self._put(span)
        self._clip += 1

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._sha.update(data)
        self._bytes += len(data)

    def _shard_name(self) -> str:
        return f"shard-{len(self.entries):05d}.tar"

    def _close_shard(self, clips: int) -> None:
        assert self._file is not None
        name = self._shard_name()
        self._put(bytes(2 * BLOCK))
        with self._file as file:
            disk.sync(file)
        self._file = None
        with self._records(name).open("wb") as file:
            np.save(file, np.array(self._rows, CLIP_RECORD), allow_pickle=False)
            disk.sync(file)
        (self.partial / f"{name}.tmp").replace(self.partial / name)
        disk.sync_folder(self.partial)
        shard = Shard(name, len(self._rows), self._bytes, self._sha.hexdigest())
        entry = Entry(shard, self.items, clips, self._videos, self._rejects)
        with (self.partial / JOURNAL).open("ab") as file:
            file.write(disk.dump(entry))
            disk.sync(file)
        self.entries.append(entry)
        self._open_entry()

    def close(self) -> None:
        """Finish the last shard; videos rejected after it stay in memory only."""
        with disk.disk_errors(self.out):
            if self._rows:
                self._close_shard(0)

    def abandon(self) -> None:
        """Drop the shard at hand, unwritten bytes too: a full disk would refuse them again."""
        if self._file is not None:
            self._file.raw.close()

    @property
    def videos(self) -> list[list]:
        """[name, identity, action, frames] of every video with clips."""
        return [video for entry in self.entries for video in entry.videos] + self._videos

    @property
    def rejected(self) -> int:
        """How many videos have no clips; told after each video, where `rejects` would be slow."""
        return self._rejected + len(self._rejects)

    @property
    def rejects(self) -> list[list]:
        """[name, reason] of every video without."""
        return [reject for entry in self.entries for reject in entry.rejects] + self._rejects

    def join_records(self) -> str:
        """Write `clips.npy` from the shards' records; returns its SHA-256."""
        path = self.partial / "clips.npy"
        total = sum(entry.shard.clips for entry in self.entries)
        with path.open("wb") as file:
            descr = np.lib.format.dtype_to_descr(CLIP_RECORD)
            header = {"descr": descr, "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
            for entry in self.entries:
                piece = np.load(self._records(entry.shard.file), allow_pickle=False)
                file.write(piece.tobytes())
            disk.sync(file)
        return _sha256(path)

    def publish(self, files: dict[str, bytes], *, manifest: str) -> None:
        """Move the shards and `clips.npy` to `out`, write `files`, and `manifest` last of all.

        May be interrupted and done again.

        Raises:
            UserError: the disk refuses.
        """
        with disk.disk_errors(self.out):
            for entry in self.entries:
                disk.move(self.partial / entry.shard.file, self.out / entry.shard.file)
            disk.move(self.partial / "clips.npy", self.out / "clips.npy")
            for name, data in files.items():
                if name != manifest:
                    disk.write_whole(self.out / name, data)
            disk.sync_folder(self.out)
            disk.write_whole(self.out / manifest, files[manifest])

    def clean(self) -> None:
        """Remove `.partial`; the set is published."""
        shutil.rmtree(self.partial, ignore_errors=False)


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something else than a preparation (UserError)."""
    with disk.disk_errors(out):
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: not a folder; choose another --out")
        if out.is_dir() and any(out.iterdir()) and not (out / PARTIAL).is_dir():
            raise UserError(f"{out}: not empty and not prepared footage; choose another --out")
