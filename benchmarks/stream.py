"""Clips per second of the stream beside a plain webdataset loader, over the same shards.

Run: make bench-stream [ARGS="--clips 4096 --rounds 2 --workers 0 2 --write docs/data.md"]

Both loaders decode with the same function and give uint8 batches; ours also verifies every byte,
and its shuffle is as wide as the other's buffer. Rounds alternate in several fresh processes, each
begins by draining what was read ahead, and the ratio is the median over pairs of rounds. Beside it:
the clips/s that reading the shards alone would allow. Then the share of time that two processes
wait for data is measured: in a loop of matrix products, and in a training of `preset=golf` on the
same set, started as users start it. With NAVSYNTH_FOOTAGE the clips are real ones. Exit code 1
where a ratio is below 0.95, or two processes wait for more than 2 % of the time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset

from benchmarks import pages
from benchmarks.machine import line
from benchmarks.stream_sets import FRAMES, read_limit, source_clips, write_set
from benchmarks.waiting import PREFETCH, Loop, Waited, loop_share, training_share
from data_shards.payloads import decode
from data_shards.stream import DataConfig, Stream, open_manifest
from trainer.parallel import keep_freed_memory

CODECS = ("png", "jpg", "raw", "mp4")
BLOCK = 1024
RATIO, WAIT = 0.95, 0.02
"""The least of a plain loader's clips/s, and the largest share of time that training waits."""


class Pair(NamedTuple):
    """Clips a second of both loaders in rounds that follow each other."""

    ours: float
    plain: float


class Row(NamedTuple):
    """Figures of one storage format and number of loader processes."""

    codec: str
    workers: int
    kib_per_clip: float
    ours: float
    webdataset: float
    ratio: float
    disk: float
    page_cache: float


class _Decode:
    """Decodes a webdataset sample as the stream does; picklable, for loader processes."""

    def __init__(self, codec: str, size: int) -> None:
        self.codec, self.size = codec, size

    def __call__(self, sample: dict[str, Any]) -> torch.Tensor:
        size = {"frames": FRAMES, "height": self.size, "width": self.size}
        frames_THWC = decode(sample[self.codec], self.codec, **size)
        return torch.from_numpy(np.ascontiguousarray(frames_THWC.transpose(0, 3, 1, 2)))


def plain_loader(folder: Path, *, codec: str, size: int, batch: int, workers: int) -> Iterator:
    """webdataset as its documentation has it: shuffle, decode, batch, loader processes.

    Shards never end and the buffer is filled before the first clip: one that fills while clips are
    taken, and empties when shards end, reads two clips for one at first and none at last, and a
    round would show which of these it was in.
    """
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(  # type: ignore[attr-defined]
        urls, shardshuffle=False, resampled=True
    )
    data = data.shuffle(BLOCK, initial=BLOCK).map(_Decode(codec, size))
    data = data.batched(batch, collation_fn=torch.stack)
    ahead = PREFETCH if workers else None
    loader = webdataset.WebLoader(  # type: ignore[attr-defined]
        data, batch_size=None, num_workers=workers, prefetch_factor=ahead
    )
    return iter(loader)


def clips_per_second(batches: Iterator, *, batch: int, seconds: float, drain: int) -> float:
    """Rate over at least `seconds`, after `drain` batches that do not count."""
    for _ in range(drain):
        next(batches)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(batches)
        done += batch
    return done / (time.perf_counter() - started)


def alternate(folder: Path, codec: str, workers: int, args: argparse.Namespace) -> list[Pair]:
    """Rates of both loaders over one set, in alternating rounds of this process."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training on CPUs begins; for both loaders
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    config = DataConfig(
        cache_mib=0, workers=workers, threads=1, prefetch=PREFETCH, shuffle_block=BLOCK
    )
    drain = PREFETCH * max(1, workers) + 2
    plain = plain_loader(folder, codec=codec, size=args.size, batch=args.batch, workers=workers)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    with Stream(open_manifest(str(folder)), config, seed=0, batch=args.batch) as stream:
        for turn in range(args.rounds + 1):
            sides = [("ours", stream), ("plain", plain)]
            for name, batches in sides if turn % 2 else sides[::-1]:
                seconds = args.seconds if turn else 0.0
                rate = clips_per_second(batches, batch=args.batch, seconds=seconds, drain=drain)
                if turn:
                    rates[name].append(rate)
    del plain, sides, batches  # the last of them ends its loader processes
    return list(map(Pair, rates["ours"], rates["plain"]))


def compare(folder: Path, *, codec: str, workers: int, bytes: int, args: argparse.Namespace) -> Row:
    """One row of the table. Every process lays its memory out in another way, by which a decoder
    that runs in it is up to a fifth faster or slower: several of them take part."""
    pairs: list[Pair] = []
    for _ in range(args.processes):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            pairs += fresh.submit(alternate, folder, codec, workers, args).result()
    clip = bytes / args.clips
    disk, cache = (read_limit(folder, cold=cold) / clip for cold in (True, False))
    ours, other = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(pair.ours / pair.plain for pair in pairs)
    return Row(codec, workers, clip / 1024, ours, other, ratio, disk, cache)


def table(rows: list[Row], loops: list[float], trained: Waited, args: argparse.Namespace) -> str:
    """Markdown of all figures; the loop's share is the middle one of several loops'."""
    loop, least, most = (100 * share(loops) for share in (statistics.median, min, max))
    head = ["format", "loader processes", "KiB/clip", "navsynth", "webdataset", "ratio",
            "disk limit", "page cache limit"]  # fmt: skip
    lines = [
        [row.codec, f"{row.workers}", f"{row.kib_per_clip:.1f}", f"{row.ours:.0f}",
         f"{row.webdataset:.0f}", f"{row.ratio:.2f}", f"{row.disk:.0f}", f"{row.page_cache:.0f}"]
        for row in rows
    ]  # fmt: skip
    told = [*broken_limits(rows, loop / 100, trained)] or ["all within the targets"]
    return (
        f"Clips of {FRAMES} frames at {args.size}x{args.size}, batches of {args.batch}; clips/s.\n"
        f"\n{pages.table(head, lines)}\n\n"
        f"Two processes in a loop of matrix products waited for data {loop:.2f} % of the "
        f"time (the middle one of {len(loops)} loops, {least:.2f} to {most:.2f}; "
        f"{args.train_codec}, {args.step_ms:g} ms of work a step). In a training with two "
        f"processes (`preset=golf data.cache_mib=0`, {args.train_codec}, "
        f"{trained.clips_per_second:.0f} clips/s) it was {100 * trained.queue:.2f} % in the steady "
        f"state until a batch was there, {100 * trained.data:.2f} % in the phase `data`, in which "
        f"threads that decode take their turn on the same cores.\n\n"
        f"Targets: ratios of at least {RATIO}, waiting for at most {100 * WAIT:g} % of the time: "
        f"{'; '.join(told)}."
    )


def broken_limits(rows: list[Row], loop: float, trained: Waited) -> list[str]:
    """What is slower than a plain loader or waited for, in words."""
    slow = [
        f"{row.codec} with {row.workers} loader processes has a ratio of {row.ratio:.4f}"
        for row in rows
        if row.ratio < RATIO
    ]
    shares = {"the loop": loop, "the training": trained.data}
    return slow + [
        f"{name} waited for {100 * share:.2f} %" for name, share in shares.items() if share > WAIT
    ]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", default=[], help="settings of the training, a.b=c")
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="clips of a batch of one loader")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), choices=CODECS)
    parser.add_argument("--processes", type=int, default=6, help="fresh ones for each row")
    parser.add_argument("--rounds", type=int, default=2, help="of each process")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--steps", type=int, default=150, help="of the training-like loop")
    parser.add_argument("--loops", type=int, default=5, help="of which the middle one counts")
    parser.add_argument("--step-ms", type=float, default=100.0, help="work of a step")
    parser.add_argument("--train-seconds", type=float, default=40.0, help="of the training")
    parser.add_argument("--train-codec", default="png", choices=CODECS, help="of loop and training")
    parser.add_argument("--folder", type=Path, help="where the shards go (default: temporary)")
    pages.option(parser)
    args = parser.parse_intermixed_args(argv)
    if args.train_codec not in args.codecs:
        parser.error(f"--train-codec {args.train_codec}: is none of --codecs")
    return args


def minutes(args: argparse.Namespace) -> float:
    """A guess for 2 cores. What is decoded while nothing is measured (to drain what was read ahead,
    to score the training) and written grows with the pixels."""
    pixels = (args.size / 64) ** 2
    each = args.processes * (args.rounds * 2 * args.seconds + 4 + 2 * pixels) + 3
    rows = len(args.codecs) * (len(args.workers) * each + 8 * pixels)
    waits = (
        args.loops * (args.steps * args.step_ms / 1000 + 8) + args.train_seconds + 20 + 40 * pixels
    )
    return (rows + waits + 10) / 60


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, judge, and end with one line of JSON."""
    args = parse(argv)
    if not pages.ready(args.write, "stream"):
        return 2
    print(f"takes about {minutes(args):.1f} minutes on 2 cores", flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    footage = os.environ.get("NAVSYNTH_FOOTAGE")
    strips = Path(footage) / "weizmann_strips" if footage else None
    clips, rows = source_clips(strips, size=args.size), []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for codec in args.codecs:
            place = folder / codec
            size = write_set(place, clips, codec=codec, count=args.clips, shards=args.shards)
            for workers in args.workers:
                rows.append(compare(place, codec=codec, workers=workers, bytes=size, args=args))
                print(*(f"{v:.4g}" if isinstance(v, float) else v for v in rows[-1]), flush=True)
        trained_on = folder / args.train_codec
        loop = Loop(args.batch, args.steps, args.step_ms)
        loops = [loop_share(trained_on, loop) for _ in range(args.loops)]
        trained = training_share(
            trained_on, folder / "runs", seconds=args.train_seconds, words=args.words
        )
    torch.set_num_threads(threads)
    text, wait = table(rows, loops, trained, args), statistics.median(loops)
    print(text)
    pages.put(args.write, "stream", text)
    broken = broken_limits(rows, wait, trained)
    jpg = [row.ours for row in rows if row.codec == "jpg"]
    print(line(
        "stream", footage="weizmann_strips" if strips else "synthetic", size=args.size,
        lowest_ratio=min(row.ratio for row in rows), wait_share=wait, wait_shares=loops,
        training_wait_share=trained.data, training=trained._asdict(),
        loader=max(jpg, default=None), rows=[row._asdict() for row in rows], broken=broken,
    ))  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
