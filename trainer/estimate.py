"""What a run will take, before it starts: parameters, dictionary, memory of each rank, disk.

A promise: a training stays within it (`tests/trainer/test_estimate.py` measures real ones).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from data_shards.config import MOST_THREADS
from data_shards.memory import decoded_bytes
from data_shards.stream import OpenManifest
from trainer import footprint, setup
from trainer.config import Config
from trainer.footprint import FLOAT
from trainer.latents import LatentDictionary, Promise
from trainer.networks import parameter_counts
from trainer.parallel import DEEPSPEED
from trainer.room import Room, room_of
from trainer.schedule import pace
from trainer.shared import kinds_of

LATER = 80 << 20
"""Of the program: libraries that the first steps touch, their caches, and holes in the heap."""
CUDA_HOST, CUDA_DEVICE = 2 << 30, 600 << 20
"""What CUDA and its libraries take of a rank's memory and of its GPU. Assumed: no measurement."""
WORKER = 48 << 20
"""Of a loader process: what it does not share with the rank that it was forked from."""


class Estimate(NamedTuple):
    """Counts, and bytes of one rank by part."""

    theta: int
    gamma: int
    rows: dict[str, int]
    memory: dict[str, int]
    """What is held throughout, of host memory."""
    passing: dict[str, int]
    """What is taken on top, one after the other, so that the largest counts."""
    shared: int
    """Memory that the ranks of a machine share: once a machine."""
    device: dict[str, int]
    """GPU memory; empty without one, where everything is in `memory`."""
    disk: int
    """Of a rank, in `latents.scratch`."""
    room: Room
    """Of the run's folder."""
    ranks: int
    warning: str = ""
    """Of ranks without a clip; empty where each has one."""

    @property
    def private(self) -> int:
        """Host memory of a rank, without what ranks share."""
        return sum(self.memory.values()) + max(self.passing.values())

    def text(self, folder: str | Path = "the run folder") -> str:
        """Lines for people; `folder` is the run's."""
        tables = ", ".join(f"{count:,} {kind} rows" for kind, count in self.rows.items())
        most = max(self.passing, key=lambda name: self.passing[name])
        lines = [
            f"parameters: {self.theta + self.gamma:,} (theta {self.theta:,}, gamma {self.gamma:,})",
            f"dictionary: {tables}",
            f"memory of each of {self.ranks} ranks:",
            *(_line(name, size) for name, size in self.memory.items()),
            _line(f"at most, while {most}", self.passing[most]),
            _line("all", self.private),
        ]
        if self.shared:
            lines.append(_line("once for a machine's ranks", self.shared))
            lines.append(_line(f"{self.ranks} ranks together", self.machine))
        if self.device:
            lines.append("memory of each GPU:")
            lines += [_line(name, size) for name, size in self.device.items()]
            lines.append(_line("all", sum(self.device.values())))
        lines.append(f"disk of each rank, in latents.scratch: {self.disk / 2**20:.1f} MiB")
        lines.append(f"checkpoints: {self.room.text(folder)}")
        return "\n".join([*lines, f"warning: {self.warning}"] if self.warning else lines)

    @property
    def machine(self) -> int:
        """Host memory of all ranks, if they are on one machine."""
        return self.ranks * self.private + self.shared


def _line(name: str, size: int) -> str:
    return f"  {name:<36}{size / 2**20:>10.1f} MiB"


def estimate(
    config: Config, opened: OpenManifest, *, ranks: int = 1, gpu: bool | None = None
) -> Estimate:
    """Sizes of a run on `ranks` processes, from the same tables that the run is built from.

    Args:
        gpu: whether each process has a GPU; None: whether this one has.
    """
    gpu = torch.cuda.is_available() if gpu is None else gpu
    manifest, latents = opened.manifest, config.latents
    setup.require_size(manifest)
    setup.require_labels(config, opened)
    setup.require_memory(config, opened)
    counts = parameter_counts(
        config.networks, static=latents.static, transient=latents.transient, size=manifest.height,
        labels=setup.labels_of(config, manifest),
    )  # fmt: skip
    keys = {"static": latents.static_key, "transient": latents.transient_key}
    rows = {name: manifest.rows(kind) for name, kind in keys.items()}
    promise = LatentDictionary.promise_bytes(
        latents, static_rows=rows["static"], transient_rows=rows["transient"],
        frames=manifest.frames, world=ranks, batch=pace(config.schedule).clips,
        gpu=gpu,
    )  # fmt: skip
    weights = FLOAT * (counts["theta"] + counts["gamma"])
    together = ranks > 1 and not gpu and shares_memory(config)
    # Weight, gradient, two moments, average; DistributedDataParallel has buckets of gradients.
    copies = 1 if together else 4 + bool(config.train.average) + (ranks > 1)
    working = _working(config, opened, ranks=ranks, weights=weights, rows=rows, promise=promise)
    placed = {"networks and optimiser": weights * copies, "dictionary": promise.device}
    memory = {"program": resident_bytes() + LATER}
    footage, common = _footage(config, opened, ranks=ranks, gpu=gpu)
    if gpu:
        memory |= {"CUDA (assumed)": CUDA_HOST, "dictionary": promise.host}
        placed |= _on_gpu(config, opened, working)
    else:
        memory |= placed | {"dictionary": placed["dictionary"] + promise.host}
    begin = footprint.begin(config, manifest, decoded=decoded_bytes(opened), rows=rows)
    # Footage is read for training when the beginning is over.
    working["looking at the footage first"] = max(0, begin - footage)
    if config.checkpoint.beside:
        memory["a save beside training"] = working.pop("saving")
    return Estimate(
        counts["theta"], counts["gamma"], rows, memory | {"footage": footage}, working,
        common + (weights * len(kinds_of(ranks)) if together else 0), placed if gpu else {},
        promise.disk, room_of(config, manifest, parameters=counts["theta"] + counts["gamma"]),
        ranks, setup.without_clips(config, ranks),
    )  # fmt: skip


def _on_gpu(config: Config, opened: OpenManifest, working: dict[str, int]) -> dict[str, int]:
    """What a GPU holds beside networks and rows, with the largest of what it computes; `working`
    keeps what that takes of host memory."""
    resident = decoded_bytes(opened)
    pictures = footprint.pictures(config, opened.manifest)
    there = {"taking a step": working.pop("taking a step"),
             "showing clips": working["showing clips"] - pictures}  # fmt: skip
    working["showing clips"] = pictures
    most = max(there, key=lambda name: there[name])
    return {
        "footage, where it fits": resident if resident <= config.data.cache_mib * 2**20 else 0,
        "CUDA (assumed)": CUDA_DEVICE,
        f"at most, while {most}": there[most],
    }


def shares_memory(config: Config) -> bool:
    """Whether several ranks would train weights in common memory (see `trainer.shared`)."""
    zero = os.environ.get(DEEPSPEED, "").lower() in ("1", "true")
    return one_memory() and not zero and config.train.gradients != "send"


def one_memory() -> bool:
    """Whether ranks share memory (see `trainer.segment`): without GPUs, and on one machine, which
    is taken for granted unless a launcher tells otherwise."""
    local, world = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return sys.platform == "linux" and not torch.cuda.is_available() and local == world


def resident_bytes() -> int:
    """Memory of this process now; `footprint` has imported everything that a training does."""
    status = Path("/proc/self/status")
    if status.exists():
        facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(facts["VmRSS"].split()[0]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _working(
    config: Config, opened: OpenManifest, *, ranks: int, weights: int, rows: dict[str, int],
    promise: Promise,
) -> dict[str, int]:  # fmt: skip
    """What is taken for a while, by what the run does then."""
    manifest, parameters = opened.manifest, weights // FLOAT
    return {
        "taking a step": footprint.step(config, manifest, ranks=ranks),
        "showing clips": footprint.showing(config, manifest, parameters=parameters),
        "saving": footprint.saving(config, parameters=parameters, promise=promise),
        "finding directions": footprint.searching(config, manifest, rows=rows["transient"]),
    }


def _footage(config: Config, opened: OpenManifest, *, ranks: int, gpu: bool) -> tuple[int, int]:
    """Footage in memory: all of it, or what is read ahead; of a rank, and once for a machine."""
    data, decoded = config.data, decoded_bytes(opened)
    if decoded <= data.cache_mib * 2**20:
        return (0, decoded) if ranks > 1 and not gpu and one_memory() else (decoded, 0)
    clips = -(-pace(config.schedule).clips // ranks)
    stored = clips * (decoded // opened.manifest.clips)
    if data.workers:
        # A loader process decodes clips and lays them into its batch.
        return data.workers * (WORKER + (data.prefetch + 2) * stored), 0
    # Where the GPU is elsewhere, its machine's cores are not known.
    elsewhere = gpu and not torch.cuda.is_available() and not data.threads
    threads = MOST_THREADS if elsewhere else data.decoding_threads()
    return (data.prefetch + threads + 1) * stored, 0
