"""First values of the latents: principal components of the footage, or random ones (the paper).

Latents that start where the footage already differs spare the networks most of the search; the
idea is GLO's (Bojanowski et al. 2018), here split as the model splits a clip. A static row starts
as the mean of its clips' frames, a transient row as what its clips' frames add to that, both in
coordinates of their principal directions and scaled into the unit ball. docs/training.md has what
it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from data_shards.errors import UserError
from trainer.objective import to_pixels
from trainer.residence import initial_rows

CHUNK = 256
"""Clips converted to floating point at a time."""
LARGEST = 512 * 2**20
"""Bytes of floating-point frames that are analysed; larger footage is analysed at half its size."""


@dataclass(frozen=True)
class BeginConfig:
    """Where training begins."""

    latents: str = "footage"
    """First latents: footage (principal components; the footage must fit in data.cache_mib) |
    random (as in the paper, and for sets that do not fit)."""
    noise: float = 0.0
    """How far latents that begin at the footage are moved towards random ones; 1: all the way."""

    def __post_init__(self) -> None:
        if self.latents not in ("footage", "random"):
            raise UserError(f"begin.latents: {self.latents!r} is none of footage, random")
        if not 0 <= self.noise <= 1:
            raise UserError(f"begin.noise: {self.noise} is not in [0, 1]")


class Codes(NamedTuple):
    """First rows of both tables."""

    static_NS: torch.Tensor
    transient_NTM: torch.Tensor


def codes_from_footage(
    frames_NTCHW: torch.Tensor,
    static_rows_N: torch.Tensor,
    transient_rows_N: torch.Tensor,
    *,
    rows: tuple[int, int],
    widths: tuple[int, int],
    seed: int,
) -> Codes:
    """Principal components of the footage, by dictionary row.

    Args:
        frames_NTCHW: every clip, uint8.
        static_rows_N: row of each clip in the static table; transient_rows_N: in the other.
        rows: sizes of the two tables.
        widths: S and M.
        seed: of the randomised SVD.

    Returns:
        Rows whose longest vector has norm 1; rows without clips are zero.
    """
    clips, frames = frames_NTCHW.shape[:2]
    pixels = frames_NTCHW[0, 0].numel()
    shrink = shrinking(clips, rows[1] * frames, pixels=pixels)
    pixels //= shrink**2
    means_NP = torch.empty(clips, pixels)
    for part in torch.arange(clips).split(CHUNK):
        means_NP[part] = _pixels(frames_NTCHW[part], shrink).mean(dim=1)
    static_RP, seen_R = _mean_by_row(means_NP, static_rows_N, rows[0])
    centre_P = static_RP[seen_R].mean(dim=0)
    static_RP[seen_R] -= centre_P
    motion_RTP = torch.zeros(rows[1], frames, pixels)
    counts_R = torch.bincount(transient_rows_N, minlength=rows[1]).clamp_min(1)
    for part in torch.arange(clips).split(CHUNK):
        added = _pixels(frames_NTCHW[part], shrink)
        added -= (static_RP[static_rows_N[part]] + centre_P)[:, None]
        motion_RTP.index_add_(0, transient_rows_N[part], added)
    motion_RTP /= counts_R[:, None, None]
    static = _components(static_RP, widths[0], seed=seed)
    motion = _components(motion_RTP.flatten(0, 1), widths[1], seed=seed + 1)
    return Codes(static, motion.unflatten(0, (rows[1], frames)))


def with_noise(codes: Codes, share: float, *, seed: int, scale: float) -> Codes:
    """Rows so far on the way to those of a random beginning (`residence.initial_rows`)."""
    moved = []
    for kind, rows in zip(("static", "transient"), codes, strict=True):
        at = torch.arange(len(rows))
        drawn = initial_rows(at, tuple(rows.shape[1:]), seed=seed, table=kind, scale=scale)
        moved.append(torch.lerp(rows, drawn, share))
    return Codes(*moved)


def shrinking(clips: int, frames: int, *, pixels: int) -> int:
    """What sides are divided by, so that means of clips and frames of rows fit in `LARGEST`."""
    shrink = 1
    while 4 * max(clips, frames) * pixels // shrink**2 > LARGEST:
        shrink *= 2
    return shrink


def mean_colour(frames_NTCHW: torch.Tensor) -> torch.Tensor:
    """Mean colour (3,) of uint8 clips, in [-1, 1]."""
    means = [to_pixels(part).mean(dim=(1, 3, 4)) for part in frames_NTCHW.split(CHUNK)]
    return torch.cat(means).mean(dim=0)


def _pixels(frames_BTCHW: torch.Tensor, shrink: int) -> torch.Tensor:
    """Floating-point pixels (B, T, P) of frames at 1 / shrink of their size."""
    pixels = to_pixels(frames_BTCHW)
    if shrink > 1:
        pooled = torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), shrink)
        pixels = pooled.unflatten(0, pixels.shape[:2])
    return pixels.flatten(2)


def _mean_by_row(
    values_NP: torch.Tensor, rows_N: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    sums_RP = torch.zeros(count, values_NP.shape[1]).index_add_(0, rows_N, values_NP)
    counts_R = torch.bincount(rows_N, minlength=count)
    return sums_RP / counts_R.clamp_min(1)[:, None], counts_R > 0


def _components(rows_RP: torch.Tensor, width: int, *, seed: int) -> torch.Tensor:
    """Coordinates on the first `width` principal directions, longest vector 1, zeros beyond."""
    rank = min(width, *rows_RP.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, singular, _ = torch.svd_lowrank(rows_RP, q=min(rank + 16, *rows_RP.shape), niter=3)
    codes = torch.zeros(rows_RP.shape[0], width)
    codes[:, :rank] = (left * singular)[:, :rank]
    # The sign of a principal direction is arbitrary: its largest coordinate is made positive.
    top = codes.gather(0, codes.abs().argmax(dim=0, keepdim=True)).sign()
    codes *= torch.where(top == 0, torch.ones_like(top), top)
    return codes / codes.norm(dim=1).max().clamp_min(1e-12)
