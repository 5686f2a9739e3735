"""Clips a second of `data_shards.prepare golf` from an archive, by number of processes.

    python -m benchmarks.ingest [--videos 70] [--workers 1 2] [--write docs/scaling.md]

Writes an archive as VGAN has it (folders of JPEGs of stacked 128x128 frames, noise with movement),
prepares it as a plain tar once per number of processes, whose start (one to two seconds) counts: an
archive of few videos shows that and nothing else. A part of it is packed with bzip2, read by
Python's reader and on all cores, and prepared by the most processes. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import bz2
import io
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import pages
from benchmarks.machine import line
from data_shards.manifest import read_manifest
from data_shards.options import Options
from data_shards.pool import cores
from data_shards.prepare import prepare
from data_shards.sources import bzip2

PIECE = 1 << 20
PACKED = 15
"""Videos of the archive that is packed: packing is slower than anything that is measured."""
SEGMENTS = 29
"""JPEGs of a video, as many as VGAN's have on average."""
SIZE, FRAMES = 128, 32


def write_archive(path: Path, *, videos: int) -> None:
    """A tar of `videos` folders of stacked JPEGs."""
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(videos * SEGMENTS):
            ground = draw.integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
            still = np.asarray(Image.fromarray(ground).resize((SIZE, SIZE)))
            stacked = np.concatenate([np.roll(still, frame, axis=1) for frame in range(FRAMES)])
            raw = io.BytesIO()
            Image.fromarray(stacked).save(raw, "jpeg", quality=90)
            video, segment = divmod(number, SEGMENTS)
            entry = tarfile.TarInfo(f"golf/{video:06d}/{segment:04d}.jpg")
            entry.size = raw.tell()
            raw.seek(0)
            archive.addfile(entry, raw)


def pack(archive: Path) -> Path:
    """The archive as `.tar.bz2`, beside it."""
    packed = archive.with_suffix(".tar.bz2")
    packed.write_bytes(bz2.compress(archive.read_bytes()))
    return packed


def bzip2_rates(packed: Path) -> dict[str, float]:
    """Compressed bytes read a second, by reader; the page cache is warm for each."""
    readers: dict[str, Any] = {"one core": partial(bz2.open, packed)}
    if bzip2.parallel():
        readers["all cores"] = partial(bzip2.open_parallel, packed)
    rates = {}
    for name, opened in readers.items():
        start = time.perf_counter()
        with opened() as file:
            while file.read(PIECE):
                pass
        rates[name] = packed.stat().st_size / (time.perf_counter() - start)
    return rates


def timed(archive: Path, out: Path, *, workers: int, codec: str) -> dict[str, Any]:
    """Prepare an archive; prints and returns what that took."""
    options = Options(
        source="golf", root=str(archive), frames=16, windows="each", height=SIZE, width=SIZE,
        codec=codec,
    )  # fmt: skip
    start = time.perf_counter()
    prepare(options, out=out, workers=workers)
    seconds = time.perf_counter() - start
    manifest, size = read_manifest(out), archive.stat().st_size
    stored = sum(shard.bytes for shard in manifest.shards) / manifest.clips
    kind = archive.name.partition(".")[2]
    print(f"{kind:8} {workers:7} {manifest.clips / seconds:8.1f} {size / seconds / 1e6:20.1f} "
          f"{stored / 1e3:10.1f}", flush=True)  # fmt: skip
    return {"archive": kind, "workers": workers, "clips_per_second": manifest.clips / seconds,
            "clip_bytes": stored, "bytes_per_second": size / seconds}  # fmt: skip


def table(runs: list[dict[str, Any]], rates: dict[str, float]) -> str:
    """Markdown of all figures."""
    head = ["archive", "processes", "clips/s", "MB of the archive a second", "KB a stored clip"]
    rows = [
        [run["archive"], run["workers"], f"{run['clips_per_second']:.1f}",
         f"{run['bytes_per_second'] / 1e6:.1f}", f"{run['clip_bytes'] / 1e3:.1f}"]
        for run in runs
    ]  # fmt: skip
    read = ", ".join(f"{rate / 1e6:.1f} MB/s on {name}" for name, rate in rates.items())
    return f"{pages.table(head, rows)}\n\nDecompressing the `.tar.bz2` alone: {read}."


def main(argv: list[str] | None = None) -> int:
    """Write, prepare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--videos", type=int, default=70)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, cores()}))
    parser.add_argument("--codec", default="jpg")
    pages.option(parser)
    args = parser.parse_args(argv)
    if not pages.ready(args.write, "ingest"):
        return 2
    images = args.videos * SEGMENTS
    minutes = (images * (0.01 + 0.01 * len(args.workers)) + 60) / 60
    print(f"about {minutes:.1f} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "golf.tar", Path(folder) / "part.tar"
        write_archive(whole, videos=args.videos)
        write_archive(part, videos=min(PACKED, args.videos))
        packed = pack(part)
        rates = bzip2_rates(packed)
        print("archive  workers  clips/s  MB/s of the archive  KB a clip")
        found = [
            timed(whole, Path(folder) / f"set-{workers}", workers=workers, codec=args.codec)
            for workers in args.workers
        ]
        most = max(args.workers)
        found.append(timed(packed, Path(folder) / "packed", workers=most, codec=args.codec))
    text = table(found, rates)
    print(text)
    pages.put(args.write, "ingest", text)
    print(line("ingest", clip_bytes=found[0]["clip_bytes"], bzip2=rates, runs=found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
