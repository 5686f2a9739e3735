"""Steps of a dictionary alone, as `benchmarks.dictionary` and `benchmarks.saving` time them."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.comm import Comm
from trainer.config import resolve
from trainer.latents import LatentDictionary, Latents, LatentsConfig
from trainer.lowrank import LowRankConfig, find_basis
from trainer.networks import NavSynth
from trainer.spread import Spread, spread_over

FRAMES, WIDTH, WORLD, RANK = 16, 200, 2, 10
CLIPS = 512
"""Of a step of the full golf set on many GPUs (docs/scaling.md); a pass is rows / clips steps."""
BLOCK = 16
"""Steps after which what they stored is written back; the first of them is not timed."""


Networks = Callable[[Latents], None]
"""Gives latents their gradients."""
Step = Callable[[torch.Tensor], None]
"""Does something with the rows (B,) of a global batch."""


class Way(NamedTuple):
    """Where rows are, and how a step finds them."""

    residence: str
    cold: bool = False
    ahead: bool = True


WAYS = {
    "device": Way("device"),
    "host": Way("host"),
    "disk": Way("disk"),
    "disk, cold": Way("disk", cold=True),
    "disk, cold, not fetched": Way("disk", cold=True, ahead=False),
}


def resident_bytes(*, trim: bool = False) -> int:
    """Memory of this process that is in RAM now (Linux), without pages of libraries' files, which
    the system drops and reads again as it likes; `trim` gives freed memory back before.

    Without it what the heap keeps of an earlier stage would count as the next one's.
    """
    if trim:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def read_from_disk() -> int:
    """Bytes that this process had fetched from disks: what the system's cache did not have."""
    path = Path("/proc/self/io")
    lines = dict(line.split(": ") for line in path.read_text().splitlines())
    return int(lines["read_bytes"])


def build(
    comm: Comm, rows: int, where: str, scratch: str, *, written: bool = True
) -> LatentDictionary:
    """A dictionary whose transient rows have all been written once, or never (`written`): those
    are drawn again whenever all are read, as in the first pass of a run."""
    config = LatentsConfig(
        static_key="dataset", optimiser="momentum", residence=where, scratch=scratch
    )
    keys = {"static": np.zeros(1, dtype=np.int64), "transient": np.arange(rows)}
    dictionary = LatentDictionary(config, frames=FRAMES, keys=keys, comm=comm)
    table = dictionary.tables["transient"]
    for part in table.owned(torch.arange(rows)).split(64) if written else ():
        slots = table.slots(part)
        table.write_(slots, table.read(slots))
    os.sync()  # the system is not to write the filling back while steps are timed
    comm.barrier()
    return dictionary


def free_gradients(latents: Latents) -> None:
    """Gradients that cost nothing, in the place of networks."""
    latents.static_BS.grad = torch.full_like(latents.static_BS, 1e-3)
    latents.transient_BTM.grad = torch.full_like(latents.transient_BTM, 1e-3)


def networks_of(dictionary: LatentDictionary) -> Networks:
    """The golf preset's networks on this dictionary's latents, one frame of 64x64 of each clip;
    what they make is pulled to zero. They do not move, nor do ranks add up their gradients."""
    config, width = resolve(["preset=golf"]).networks, dictionary.config
    networks = NavSynth(config, static=width.static, transient=width.transient, size=64)
    networks.to(dictionary.comm.device)

    def gradients(latents: Latents) -> None:
        middle_B1 = torch.full((len(latents.static_BS), 1), FRAMES // 2)
        middle_B1 = middle_B1.to(latents.static_BS.device)
        images = networks(latents.static_BS, latents.transient_BTM, middle_B1).images_BFCHW
        images.square().mean().backward()

    return gradients


def one_step(
    dictionary: LatentDictionary, comm: Comm, rows: torch.Tensor,
    networks: Networks = free_gradients,
) -> None:  # fmt: skip
    """A step on this rank's share of the global batch."""
    batch = len(rows)
    mine = rows[comm.rank * batch // comm.world : (comm.rank + 1) * batch // comm.world]
    latents = dictionary.gather(torch.zeros_like(mine), mine)
    networks(latents)
    dictionary.accumulate(latents)
    dictionary.step(0.1)
    dictionary.project_()


def rows_alone(dictionary: LatentDictionary, rows: torch.Tensor) -> None:
    """What memory or the system's cache take of a step: values of this rank's rows are read for
    their clips, then all of the rows, which are written."""
    table = dictionary.tables["transient"]
    slots = table.slots(table.owned(rows))
    table.store.read(slots, ("value",))
    table.store.write_(slots, table.store.read(slots))


def timed_steps(
    dictionary: LatentDictionary, comm: Comm, batches: list[torch.Tensor], way: Way, pause: float,
    step: Step,
) -> tuple[list[float], int]:  # fmt: skip
    """Seconds of the steps, without the first of each block, and the most memory."""
    seconds, peak, none = [], 0, torch.zeros(1, dtype=torch.int64)
    for number, (now, ahead) in enumerate(pairwise(batches)):
        if number % BLOCK == 0:
            comm.barrier()  # nobody is at work any more on what is written back
            os.sync()
            if way.cold:
                dictionary.tables["transient"].store.forget()
        time.sleep(pause if way.cold else 0.0)
        comm.barrier()
        start = time.perf_counter()
        if way.ahead:
            dictionary.fetch_ahead(none, ahead)
        step(now)
        if comm.device.type == "cuda":
            torch.cuda.synchronize()
        if number % BLOCK:
            seconds.append(time.perf_counter() - start)
        peak = max(peak, resident_bytes())
    return seconds, peak


def measure(
    comm: Comm, rows: int, name: str, settle: int, steps: int, batch: int, scratch: str, gpu: bool,
    pause: float, whole: int,
) -> dict[str, Any]:  # fmt: skip
    """Median milliseconds of a step and the growth of memory, on one rank, behind `settle` steps
    that do not count; after that, of as many in which rows are read and written and no more, and of
    `whole` steps with networks."""
    way = WAYS[name]
    comm = Comm(device="cuda") if gpu else comm
    warm = build(comm, 500, way.residence, scratch)  # load what is loaded once
    warm.fetch_ahead(torch.zeros(1, dtype=torch.int64), torch.arange(batch))
    one_step(warm, comm, torch.arange(batch))
    warm.close()
    del warm
    before = resident_bytes(trim=True)
    dictionary = build(comm, rows, way.residence, scratch)
    resident_bytes(trim=True)  # what the filling leaves is not the dictionary's
    # Not permutations of all rows, whose freed memory would count as the dictionary's.
    draw = np.random.default_rng(1)
    asked = [
        torch.from_numpy(draw.choice(rows, batch, replace=False))
        for _ in range(settle + 2 * steps + whole + 1)
    ]  # fmt: skip
    step = partial(one_step, dictionary, comm)
    _, first_peak = timed_steps(dictionary, comm, asked[: settle + 1], way, pause, step)
    asked, on_disk = asked[settle:], read_from_disk()
    seconds, peak = timed_steps(dictionary, comm, asked[: steps + 1], way, pause, step)
    on_disk = read_from_disk() - on_disk
    alone = partial(rows_alone, dictionary)
    of_rows, _ = timed_steps(dictionary, comm, asked[steps : 2 * steps + 1], way, pause, alone)
    # Nothing is cold beside networks: there are too few of these steps to fill a disk's queue.
    step = partial(step, networks=networks_of(dictionary))
    of_whole, _ = timed_steps(
        dictionary, comm, asked[2 * steps :], way._replace(cold=False), 0, step
    )
    promise = LatentDictionary.promise_bytes(
        dictionary.config, static_rows=1, transient_rows=rows, frames=FRAMES,
        world=comm.world, batch=batch, gpu=gpu,
    )  # fmt: skip
    dictionary.close()
    return {
        "rows": rows,
        "residence": name,
        "milliseconds": 1e3 * statistics.median(seconds),
        "rows_ms": 1e3 * statistics.median(of_rows),
        "whole_ms": 1e3 * statistics.median(of_whole),
        "read_kib": on_disk / 1024 / steps,
        "resident_mib": (max(first_peak, peak) - before) / 2**20,
        "promised_mib": (promise.host + (0 if gpu else promise.device)) / 2**20,
    }


def measure_low_rank(comm: Comm, rows: int, methods: list[str]) -> list[dict[str, Any]]:
    """Bytes sent and seconds of each way to find the dictionary's directions, on one rank: once
    all rows are written, and before any is; and what a step of it takes where it is spread."""
    found = [{"method": method, "rows": rows} for method in methods]
    for key, written in (("seconds", True), ("first_seconds", False)):
        for facts in found:
            dictionary = build(comm, rows, "host", "", written=written)
            comm.barrier()
            method = str(facts["method"])
            basis = find_basis(dictionary.tables["transient"], rank=RANK, method=method)
            facts |= {"mib": basis.bytes_sent / 2**20, key: basis.seconds}
            if written:
                facts |= measure_spread(comm, dictionary, method)
            dictionary.close()
            del dictionary  # two large tables at once are more than memory takes
            gc.collect()
    return found


def measure_spread(comm: Comm, dictionary: LatentDictionary, method: str) -> dict[str, float]:
    """Milliseconds of a search's share of one step of `CLIPS` clips, until all ranks have read
    theirs, over a whole pass; and of its end. Nothing where such a search reads all at once."""
    table = dictionary.tables["transient"]
    low = LowRankConfig(rank=RANK, scope="dictionary", method=method)
    if not spread_over(low, table.count):
        return {}
    period, seconds = low.period(rows=table.count, clips=CLIPS), []
    search = Spread(table, method=method, period=period)
    for step in range(1, period + 1):
        comm.barrier()
        start = time.perf_counter()
        search.read(step)
        comm.barrier()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    search.finish(rank=RANK)
    return {
        "step_ms": 1e3 * statistics.median(seconds), "longest_ms": 1e3 * max(seconds),
        "end_ms": 1e3 * (time.perf_counter() - start),
    }  # fmt: skip
