"""Videos beside their reconstructions: PSNR, SSIM, FCS, MCS, as rows of the table of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from trainer import render, scores
from trainer.cards import FCS, MCS, PSNR, SSIM, Score, network, protocol
from trainer.progress import progress
from trainer.vgg import Vgg, motion_of

if TYPE_CHECKING:
    from trainer.run import Run

HIGHEST_DB = 100.0
"""PSNR of equal frames, which is infinite, in means and files."""


class Scored(NamedTuple):
    """Figures of each video, and the mean motion features; of a part of them, their sums."""

    psnr_B: np.ndarray
    ssim_B: np.ndarray
    fcs_B: np.ndarray
    bound_B: np.ndarray
    fake_K: torch.Tensor | None
    real_K: torch.Tensor | None


def score_clips(run: Run, clips: Sequence[int], *, vgg: Vgg | None) -> Scored:
    """Compare clips with their reconstructions, a few at a time."""
    parts = []
    for part in in_parts(clips, label="scoring"):
        real, fake = render.real_clips(run, part), render.render_clips(run, part)
        psnr_B = np.minimum(scores.video_psnr(fake, real), HIGHEST_DB)
        ssim_B = scores.ssim(fake, real).mean(axis=1)
        features = (motion_sum(vgg, fake), motion_sum(vgg, real)) if vgg else (None, None)
        parts.append(Scored(psnr_B, ssim_B, scores.fcs(fake), scores.fcs(real), *features))
    return Scored(
        *(np.concatenate([part[i] for part in parts]) for i in range(4)),  # pyright: ignore
        *(sum(part[i] for part in parts) / len(clips) if vgg else None for i in (4, 5)),
    )


def table_of(
    run: Run, found: Scored, *, vgg: Vgg | None, about: dict[str, str], suffix: str = ""
) -> list[Score]:
    """Rows of the table of scores; cards say `about` which videos, names end with `suffix`."""

    def card(definition: str, **more: str) -> dict[str, str]:
        return protocol(run, videos="", definition=definition, **more) | about

    fcs, bound = float(found.fcs_B.mean()), float(found.bound_B.mean())
    psnr, ssim = float(found.psnr_B.mean()), float(found.ssim_B.mean())
    better = "higher, up to the bound"
    table = [
        Score(f"PSNR{suffix}", psnr, "dB", "higher", None, None, card(PSNR)),
        Score(f"SSIM{suffix}", ssim, "", "higher", None, None, card(SSIM)),
        Score(f"FCS{suffix}", fcs, "", better, bound, abs(fcs - bound), card(FCS)),
    ]
    if vgg and found.real_K is not None and found.fake_K is not None:
        still = scores.mcs(found.real_K, torch.zeros_like(found.real_K))
        more = {**network(vgg), "of a frozen first frame": f"{still:.2f}"}
        value = scores.mcs(found.real_K, found.fake_K)
        table.append(Score(f"MCS{suffix}", value, "", "lower", None, None, card(MCS, **more)))
    return table


def motion_sum(vgg: Vgg, videos_BTHWC: np.ndarray) -> torch.Tensor:
    """Motion feature, float64 (K,), times the number of videos."""
    return motion_of(vgg, torch.from_numpy(videos_BTHWC)) * len(videos_BTHWC)


def in_parts(items: Sequence[int], *, label: str) -> Iterator[Sequence[int]]:
    """Items, as many at a time as are rendered at once, under a progress bar."""
    starts = range(0, len(items), render.CLIPS_AT_ONCE)
    for start in progress(starts, label=label):
        yield items[start : start + render.CLIPS_AT_ONCE]
