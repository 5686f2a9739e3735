"""Clips per second of the stream beside a plain webdataset loader, over the same shards.

Run: make bench-stream [ARGS="--clips 4096 --rounds 2 --workers 0 2 --write docs/data.md"]

Both loaders decode with the same function and give uint8 batches; ours also verifies every byte,
and its shuffle is as wide as the other's buffer. Rounds alternate in several fresh processes, each
begins by draining what was read ahead, and the ratio is the median over pairs of rounds. Beside it:
the clips/s that reading the shards alone would allow. Then two processes run a training-like loop
and the share of time that they wait for data is measured. With NAVSYNTH_FOOTAGE the clips are real
ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
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

from benchmarks.machine import describe
from benchmarks.stream_sets import FRAMES, read_limit, source_clips, write_set
from data_shards.payloads import decode
from data_shards.stream import DataConfig, Stream, open_manifest
from trainer.parallel import keep_freed_memory

CODECS = ("png", "jpg", "raw", "mp4")
PREFETCH = 4
BLOCK = 1024
BEGIN, END = "<!-- bench-stream: begin -->", "<!-- bench-stream: end -->"


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
    """webdataset as its documentation has it: shuffle, decode, batch, loader processes."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls))  # type: ignore[attr-defined]
    data = data.shuffle(BLOCK).map(_Decode(codec, size)).batched(batch, collation_fn=torch.stack)
    ahead = PREFETCH if workers else None
    loader = webdataset.WebLoader(  # type: ignore[attr-defined]
        data.repeat(), batch_size=None, num_workers=workers, prefetch_factor=ahead
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


def rank_loop(rank: int, folder: str, args: argparse.Namespace, gate: Any, found: Any) -> None:
    """A training-like rank: wait for a batch, work, meet the other; tells its waiting share."""
    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    started = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    products = max(1, int(args.step_ms / 1000 * 20 / (time.perf_counter() - started)))
    config = DataConfig(cache_mib=0, prefetch=PREFETCH, threads=1)
    with Stream(
        open_manifest(folder), config, seed=0, batch=2 * args.batch, rank=rank, world=2
    ) as stream:
        waited = total = 0.0
        for step, _ in enumerate(itertools.islice(stream, args.steps + 10)):
            for _ in range(products):
                torch.mm(a, a)
            gate.wait()
            if step == 9:
                waited, total = stream.wait_seconds, time.perf_counter()
        found.put((stream.wait_seconds - waited) / (time.perf_counter() - total))


def waiting_share(folder: Path, args: argparse.Namespace) -> float:
    """Largest share of time that one of two ranks waits for data."""
    context = multiprocessing.get_context("spawn")
    gate, found = context.Barrier(2), context.Queue()
    ranks = [
        context.Process(target=rank_loop, args=(rank, str(folder), args, gate, found))
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    shares = [found.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    return max(shares)


def table(rows: list[Row], share: float, args: argparse.Namespace) -> str:
    """Markdown of all figures."""
    lines = [
        f"Clips of {FRAMES} frames at {args.size}x{args.size}, batches of {args.batch}; clips/s.",
        "",
        "| format | loader processes | KiB/clip | navsynth | webdataset | ratio | disk limit"
        " | page cache limit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.codec} | {row.workers} | {row.kib_per_clip:.1f} | {row.ours:.0f}"
        f" | {row.webdataset:.0f} | {row.ratio:.2f} | {row.disk:.0f} | {row.page_cache:.0f} |"
        for row in rows
    ]
    wait = f"Two training-like processes waited for data {100 * share:.2f} % of the time"
    return "\n".join([*lines, "", f"{wait} (png, {args.step_ms:g} ms of work a step)."])


def write_into(path: Path, text: str) -> None:
    """Put the table between the marks of a page."""
    page = path.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="clips of a batch of one loader")
    parser.add_argument("--processes", type=int, default=6, help="fresh ones for each row")
    parser.add_argument("--rounds", type=int, default=2, help="of each process")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--steps", type=int, default=150, help="of the training-like loop")
    parser.add_argument("--step-ms", type=float, default=100.0, help="work of a step")
    parser.add_argument("--folder", type=Path, help="where the shards go (default: temporary)")
    parser.add_argument("--write", type=Path, help="page to put the table in, between its marks")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, and end with one line of JSON."""
    args = parse(argv)
    each = args.processes * (args.rounds * 2 * args.seconds + 6) + 3
    minutes = (len(CODECS) * len(args.workers) * each + args.steps * args.step_ms / 400 + 10) / 60
    print(f"takes about {minutes:.1f} minutes on 2 cores", flush=True)
    torch.set_num_threads(1)
    footage = os.environ.get("NAVSYNTH_FOOTAGE")
    strips = Path(footage) / "weizmann_strips" if footage else None
    clips = source_clips(strips, size=args.size)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for codec in CODECS:
            place = Path(folder) / codec
            size = write_set(place, clips, codec=codec, count=args.clips, shards=args.shards)
            for workers in args.workers:
                rows.append(compare(place, codec=codec, workers=workers, bytes=size, args=args))
                print(*(f"{v:.4g}" if isinstance(v, float) else v for v in rows[-1]), flush=True)
        share = waiting_share(Path(folder) / "png", args)
    text = table(rows, share, args)
    print(text)
    if args.write:
        write_into(args.write, text)
    figures = {
        "benchmark": "stream",
        "footage": "weizmann_strips" if strips else "synthetic",
        "lowest_ratio": min(row.ratio for row in rows),
        "wait_share": share,
        "loader": max(row.ours for row in rows if row.codec == "jpg"),
        "rows": [row._asdict() for row in rows],
        **describe(),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
