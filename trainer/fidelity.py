"""PSNR over all training videos as shown: clamped, 8 bits, averaged weights; by all ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from data_shards.dataset import ClipReader, Part, Request, problem_of
from data_shards.errors import UserError
from data_shards.manifest import Manifest
from data_shards.rows import rows_of
from data_shards.stream import OpenManifest
from trainer.engine import Engine

CHUNK = 4
"""Clips of a rank generated at a time."""
LARGEST = 1024
"""Clips of a larger set that are looked at: about that many."""
SHARDS = 64
"""Shards of a larger set that they lie in, if these have clips enough: evenly spread over the whole
set, each would lie in a shard of its own."""


class Fidelity(NamedTuple):
    """PSNR in dB."""

    psnr: float
    """Mean over clips of each clip's PSNR."""
    worst: float
    clips: int


def looked_at(manifest: Manifest) -> np.ndarray:
    """Numbers of the clips that are looked at, ascending: all, or some evenly spread over shards
    that are evenly spread over the set."""
    if manifest.clips <= LARGEST:
        return np.arange(manifest.clips)
    counts = np.array([shard.clips for shard in manifest.shards])
    first = counts.cumsum() - counts
    shards = _spread(len(counts), max(SHARDS, -(-LARGEST * len(counts) // manifest.clips)))
    each = -(-LARGEST // len(shards))
    return np.concatenate([first[shard] + _spread(int(counts[shard]), each) for shard in shards])


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` of 0..total-1, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(int))


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Generated images as they are shown: [-1, 1] clamped to 0..255."""
    return images.add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


@torch.no_grad()
def fidelity(engine: Engine, opened: OpenManifest) -> Fidelity:
    """PSNR of the training clips' reconstructions.

    Raises:
        UserError: a clip cannot be read.
    """
    comm, config = engine.ranks.comm, engine.config
    clips_N = looked_at(opened.manifest)
    mine = clips_N[comm.rank :: comm.world]
    rounds = -(-len(clips_N) // (CHUNK * comm.world))
    total = torch.zeros(2, dtype=torch.float64)
    worst, problem = float("inf"), ""
    reader = ClipReader(opened)
    engine.networks.eval()
    with engine.average.shown():
        for index in range(rounds):
            chunk = mine[index * CHUNK : (index + 1) * CHUNK]
            part = reader[Request(0, chunk, np.zeros(len(chunk), np.int64))]
            problem = problem or problem_of(part, on_damage=config.data.on_damage)
            psnr_B = _psnr_of(engine, opened, part)
            total += torch.tensor([psnr_B.sum(), len(psnr_B)], dtype=torch.float64)
            worst = min([worst, *psnr_B.tolist()])
    engine.networks.train()
    problem = next((told for told in comm.gather_json(problem) if told), "")
    if problem:
        raise UserError(problem)
    comm.sum_(total)
    comm.max_(least := torch.tensor([-worst], dtype=torch.float64))
    return Fidelity(float(total[0] / total[1]), -float(least), int(total[1]))


def _psnr_of(engine: Engine, opened: OpenManifest, part: Part) -> torch.Tensor:
    """PSNR of a part's whole clips; every rank calls it, with clips or without."""
    layout, clips = engine.config.latents, part.request.clip_B
    rows = [rows_of(opened, clips, kind) for kind in (layout.static_key, layout.transient_key)]
    latents = engine.dictionary.gather(*rows)
    if not len(clips):
        return torch.zeros(0)
    told_BS = engine.networks.told(latents.static_BS, *rows)
    fake, _ = engine.networks(told_BS, latents.transient_BTM)
    error = to_uint8(fake).cpu().float() - part.frames_BTCHW.float()
    psnr_B = 10 * torch.log10(255**2 / error.square().flatten(1).mean(dim=1).clamp_min(1e-9))
    return psnr_B[part.valid_B]
