"""Verify prepared footage and show what it holds.

    python -m data_shards.inspect DIR [--sheet FILE] [--decode]
    python -m data_shards.inspect DIR --names

Reads every byte of every shard, compares the checksums of shards and clips, prints the summary and
writes a contact sheet. `--decode` decodes every clip as well. `--names` prints the videos' names
instead, a line each.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_shards import payloads, summary
from data_shards.disk import disk_errors
from data_shards.ending import ended
from data_shards.errors import UserError
from data_shards.images import contact_sheet
from data_shards.manifest import (
    CLIP_RECORD,
    CLIPS,
    Manifest,
    content_of,
    digest_of,
    read_manifest,
)
from data_shards.progress import Bar, bar
from data_shards.writer import BLOCK

SHEET = "contact-sheet.png"
_SHEET_CLIPS = 16


def verify(folder: str | Path, *, decode: bool = False) -> list[str]:
    """What is wrong with a prepared set: one line for each damaged file or clip; empty if whole.

    With `decode` every clip is decoded too, and compared with its content hash where the codec is
    exact.

    Raises:
        UserError: no manifest, or a damaged one.
    """
    folder = Path(folder)
    folder = folder if folder.is_dir() else folder.parent
    manifest = read_manifest(folder)
    path = folder / CLIPS
    if not path.is_file() or _sha256(path) != manifest.clips_sha256:
        return [f"{path}: missing or altered; prepare the footage again"]
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    if records.dtype != CLIP_RECORD or len(records) != manifest.clips:
        return [f"{path}: does not fit to the manifest; prepare the footage again"]
    total = sum(shard.bytes for shard in manifest.shards)
    with bar(f"inspect {manifest.name}", total, unit="bytes") as shown:
        return list(_damages(folder, manifest, records, shown, decode=decode))


def _damages(
    folder: Path, manifest: Manifest, records: np.ndarray, shown: Bar, *, decode: bool
) -> Iterator[str]:
    done = clip = 0
    for number, shard in enumerate(manifest.shards):
        mine = records[clip : clip + shard.clips]
        path = folder / shard.file
        if not path.is_file():
            yield f"{path}: missing; prepare the footage again"
        elif path.stat().st_size != shard.bytes:
            yield f"{path}: {path.stat().st_size} bytes instead of {shard.bytes}"
        elif not (mine["shard"] == number).all():
            yield f"{path}: its clips are not those of {CLIPS}"
        else:
            bad = list(_bad_clips(path, manifest, mine, clip, decode=decode))
            whole = _sha256(path) == shard.sha256
            yield from bad
            if not whole and not bad:
                yield f"{path}: altered outside of its clips"
        clip, done = clip + shard.clips, done + shard.bytes
        shown.at(done, shard.file)


def _bad_clips(
    path: Path, manifest: Manifest, records: np.ndarray, first: int, *, decode: bool
) -> Iterator[str]:
    with path.open("rb") as file:
        for clip, record in enumerate(records, start=first):
            name = manifest.videos[int(record["video"])].name
            span = _span(file, record)
            if digest_of(span) != record["digest"].tobytes():
                yield f"{path}: clip {clip} ({name}) is altered"
            elif decode and (reason := _undecodable(span, manifest, record)):
                yield f"{path}: clip {clip} ({name}) {reason}"


def _span(file, record: np.void) -> bytes:
    file.seek(int(record["offset"]))
    return file.read(int(record["size"]))


def _undecodable(span: bytes, manifest: Manifest, record: np.void) -> str:
    try:
        frames_THWC = _pixels(span, manifest, record)
    except ValueError as error:
        return str(error)
    exact = payloads.CODECS[manifest.codec].exact
    return "has other pixels" if exact and content_of(frames_THWC) != record["content"] else ""


def _pixels(span: bytes, manifest: Manifest, record: np.void) -> np.ndarray:
    size = int(span[124:135], 8)
    return payloads.decode(
        span[BLOCK : BLOCK + size],
        manifest.codec,
        frames=int(record["frames"]),
        height=manifest.height,
        width=manifest.width,
    )


def read_clip(folder: Path, manifest: Manifest, record: np.void) -> np.ndarray:
    """Pixels of one clip of a local set, uint8 (T, H, W, 3).

    Raises:
        ValueError: its bytes are damaged.
    """
    with (folder / manifest.shards[int(record["shard"])].file).open("rb") as file:
        span = _span(file, record)
    if digest_of(span) != record["digest"].tobytes():
        raise ValueError("altered bytes")
    return _pixels(span, manifest, record)


def write_sheet(folder: Path, path: Path) -> None:
    """Write a contact sheet of up to 16 clips, spread evenly over the set."""
    manifest = read_manifest(folder)
    records = np.load(folder / CLIPS, mmap_mode="r", allow_pickle=False)
    picks = np.linspace(0, len(records) - 1, min(_SHEET_CLIPS, len(records))).round().astype(int)
    clips = [read_clip(folder, manifest, records[pick]) for pick in picks]
    part = path.with_name(f".{path.name}.part")
    with disk_errors(path.parent):
        part.unlink(missing_ok=True)  # whatever lies there, a link out of the folder too
        contact_sheet(clips).save(part, "PNG")
        part.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@ended
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 where something is damaged or missing."""
    parser = argparse.ArgumentParser(
        prog="python -m data_shards.inspect",
        description="Verify the checksums of prepared footage, print what it holds, write a sheet.",
    )
    parser.add_argument("dir", type=Path, help="folder with manifest.json")
    parser.add_argument("--sheet", type=Path, help=f"contact sheet (default: DIR/{SHEET})")
    parser.add_argument("--decode", action="store_true", help="decode every clip as well")
    parser.add_argument("--names", action="store_true", help="print the videos' names, no more")
    words = parser.parse_args(argv)
    try:
        if words.names:
            print("\n".join(video.name for video in read_manifest(words.dir).videos))
            return 0
        if words.sheet and (words.sheet.is_dir() or not words.sheet.parent.is_dir()):
            raise UserError(f"--sheet: {words.sheet}: no file in a folder that is there")
        damages = verify(words.dir, decode=words.decode)
        for line in damages:
            print(f"error: {line}", file=sys.stderr)
        if damages:
            return 2
        folder = words.dir if words.dir.is_dir() else words.dir.parent  # the manifest was named
        summary.show(folder, stream=sys.stdout)
        sheet = words.sheet or folder / SHEET
        write_sheet(folder, sheet)
        print(f"every checksum fits; contact sheet: {sheet}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
