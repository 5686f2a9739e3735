"""What a run will take, before it starts: parameters, dictionary, memory of each rank."""

from __future__ import annotations

import resource
from typing import NamedTuple

from data_shards.keys import row_keys
from data_shards.memory import decoded_bytes
from data_shards.stream import OpenManifest
from trainer import setup
from trainer.config import Config
from trainer.latents import LatentDictionary
from trainer.networks import parameter_counts
from trainer.schedule import pace

FLOAT = 4


class Estimate(NamedTuple):
    """Counts, and bytes of one rank by part."""

    theta: int
    gamma: int
    rows: dict[str, int]
    memory: dict[str, int]
    disk: int
    ranks: int

    def text(self) -> str:
        """Lines for people."""
        mib = 2**20
        parts = "\n".join(
            f"  {name:<28}{size / mib:>10.1f} MiB" for name, size in self.memory.items()
        )
        tables = ", ".join(f"{count:,} {kind} rows" for kind, count in self.rows.items())
        return (
            f"parameters: {self.theta + self.gamma:,} (theta {self.theta:,}, "
            f"gamma {self.gamma:,})\n"
            f"dictionary: {tables}\n"
            f"memory of each of {self.ranks} ranks:\n{parts}\n"
            f"  {'all':<28}{sum(self.memory.values()) / mib:>10.1f} MiB\n"
            f"disk of each rank: {self.disk / mib:.1f} MiB"
        )


def estimate(config: Config, opened: OpenManifest, *, ranks: int = 1) -> Estimate:
    """Sizes of a run on `ranks` processes, from the same tables that the run is built from."""
    manifest, latents = opened.manifest, config.latents
    setup.require_size(manifest)
    counts = parameter_counts(
        config.networks, static=latents.static, transient=latents.transient, size=manifest.height,
        labels=setup.labels_of(config, manifest),
    )  # fmt: skip
    for kind in (latents.static_key, latents.transient_key):
        row_keys(manifest, opened.table, kind)  # refuses footage without the labels
    rows = {
        "static": manifest.rows(latents.static_key),
        "transient": manifest.rows(latents.transient_key),
    }
    clips = pace(config.schedule).clips
    promise = LatentDictionary.promise_bytes(
        latents,
        static_rows=rows["static"],
        transient_rows=rows["transient"],
        frames=manifest.frames,
        world=ranks,
        batch=clips,
    )
    parameters = counts["theta"] + counts["gamma"]
    copies = 4 + bool(config.train.average) + (ranks > 1)  # weight, gradient, two moments, ...
    decoded = decoded_bytes(opened)
    clip = manifest.frames * 3 * manifest.height * manifest.width
    footage = decoded if decoded <= config.data.cache_mib * 2**20 else (
        clip * -(-clips // ranks) * config.data.prefetch * max(1, config.data.workers))  # fmt: skip
    memory = {
        "program": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "networks and optimiser": parameters * FLOAT * copies,
        "dictionary": promise.device + promise.host,
        "footage": footage,
        "activations": _activations(config, manifest.height, frames=manifest.frames, ranks=ranks),
    }
    return Estimate(counts["theta"], counts["gamma"], rows, memory, promise.disk, ranks)


def _activations(config: Config, size: int, *, frames: int, ranks: int) -> int:
    """Generator activations kept for the backward pass: three copies of each hidden layer."""
    speed = pace(config.schedule)
    drawn = -(-speed.clips // ranks) * (speed.frames or frames)
    widest = config.networks.channels * size * size // 4
    # Each layer towards the latents has twice the channels and a quarter of the pixels.
    return int(3 * FLOAT * drawn * (2 * widest + 4 * 3 * size * size))
