"""Clips a second of `data_shards.prepare golf` from a tar, by number of processes.

    python -m benchmarks.ingest [--videos 2000] [--workers 1 2]

Writes an archive as VGAN has it (videos as JPEGs of stacked 128x128 frames, noise with movement),
reads a part of it as `.tar.bz2` with Python's reader and on all cores, then prepares it once per
number of processes, whose start (one to two seconds) counts: an archive of few videos shows that
and nothing else. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from data_shards.manifest import read_manifest
from data_shards.options import Options
from data_shards.pool import cores
from data_shards.prepare import prepare
from data_shards.sources import bzip2

PIECE = 1 << 20
PACKED = 300
"""Videos of the archive that is packed: packing is slower than anything that is measured."""
SIZE, FRAMES = 128, 32


def write_archive(path: Path, *, videos: int) -> int:
    """A tar of `videos` stacked JPEGs; returns its size in bytes."""
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for video in range(videos):
            ground = draw.integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
            still = np.asarray(Image.fromarray(ground).resize((SIZE, SIZE)))
            stacked = np.concatenate([np.roll(still, frame, axis=1) for frame in range(FRAMES)])
            raw = io.BytesIO()
            Image.fromarray(stacked).save(raw, "jpeg", quality=90)
            entry = tarfile.TarInfo(f"golf/{video % 50:04d}/{video:06d}.jpg")
            entry.size = raw.tell()
            raw.seek(0)
            archive.addfile(entry, raw)
    return path.stat().st_size


def bzip2_rates(archive: Path) -> dict[str, float]:
    """Compressed bytes read a second, by reader; the page cache is warm for each."""
    packed = archive.with_suffix(".tar.bz2")
    packed.write_bytes(bz2.compress(archive.read_bytes()))
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


def main(argv: list[str] | None = None) -> int:
    """Write, prepare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, cores()}))
    parser.add_argument("--codec", default="jpg")
    args = parser.parse_args(argv)
    print(f"about {(args.videos * (0.01 + 0.01 * len(args.workers)) + 30) / 60:.1f} minutes")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        size = write_archive(Path(folder) / "golf.tar", videos=args.videos)
        options = Options(
            source="golf", root=f"{folder}/golf.tar", frames=16, windows="all", height=SIZE,
            width=SIZE, codec=args.codec,
        )  # fmt: skip
        write_archive(Path(folder) / "part.tar", videos=min(PACKED, args.videos))
        rates = bzip2_rates(Path(folder) / "part.tar")
        for name, rate in rates.items():
            print(f"bzip2, {name}: {rate / 1e6:.1f} MB/s")
        print("workers  clips/s  MB/s of the archive  KB a clip")
        for workers in args.workers:
            out = Path(folder) / f"set-{workers}"
            start = time.perf_counter()
            prepare(options, out=out, workers=workers)
            seconds = time.perf_counter() - start
            manifest = read_manifest(out)
            stored = sum(shard.bytes for shard in manifest.shards) / manifest.clips
            found.append({"workers": workers, "clips_per_second": manifest.clips / seconds,
                          "clip_bytes": stored, "bytes_per_second": size / seconds})  # fmt: skip
            print(f"{workers:7} {manifest.clips / seconds:8.1f} {size / seconds / 1e6:20.1f} "
                  f"{stored / 1e3:10.1f}", flush=True)  # fmt: skip
    told = {"clip_bytes": found[-1]["clip_bytes"], "bzip2": rates, "runs": found}
    print(json.dumps({"benchmark": "ingest", **describe(), **told}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
