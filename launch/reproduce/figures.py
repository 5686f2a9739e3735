"""Figures of generated videos and of reference rows, under one protocol (Sec. 4.2).

Reference rows are made of real footage, so that MCS, whose scale depends on features that the paper
does not give, can be read: a frozen first frame, a blur, noise, and other windows of the videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from launch.reproduce.context import Cell, mean_std
from trainer import cards, render, scores
from trainer.generate import draw_pairs
from trainer.run import Run
from trainer.vgg import Vgg, motion_of

NOISE_SD = 8
"""Grey levels."""
BOUND = "bound (real videos)"


class Figures(NamedTuple):
    """Means over videos."""

    mcs: float | None
    """None without a feature network."""
    fcs: float
    psnr: float | None
    """None where there is no truth to compare with; so is SSIM."""
    ssim: float | None = None


def psnr_of(fake_BTHWC: np.ndarray, real_BTHWC: np.ndarray) -> float:
    """Mean PSNR over videos, equal ones at 100 dB."""
    return float(np.minimum(scores.video_psnr(fake_BTHWC, real_BTHWC), 100.0).mean())


def measure(
    fake_BTHWC: np.ndarray, real_BTHWC: np.ndarray, *, vgg: Vgg | None, paired: bool = True
) -> Figures:
    """Figures of videos against real ones; `paired`: video i is meant to be real video i."""
    psnr = ssim = None
    if paired:
        psnr = psnr_of(fake_BTHWC, real_BTHWC)
        ssim = float(scores.ssim(fake_BTHWC, real_BTHWC).mean())
    mcs = None
    if vgg:
        motion = [motion_of(vgg, torch.from_numpy(x)) for x in (real_BTHWC, fake_BTHWC)]
        mcs = scores.mcs(*motion)
    return Figures(mcs, float(scores.fcs(fake_BTHWC).mean()), psnr, ssim)


def frozen(real_BTHWC: np.ndarray) -> np.ndarray:
    """Every frame is the first one."""
    return np.repeat(real_BTHWC[:, :1], real_BTHWC.shape[1], axis=1)


def blurred(real_BTHWC: np.ndarray) -> np.ndarray:
    """A 5x5 box blur of every frame."""
    images_XCHW = torch.from_numpy(real_BTHWC).flatten(0, 1).movedim(-1, 1).double()
    wide = functional.pad(images_XCHW, (2, 2, 2, 2), mode="reflect")
    smooth = functional.avg_pool2d(wide, 5, stride=1).round().to(torch.uint8)
    return smooth.movedim(1, -1).reshape(real_BTHWC.shape).numpy()


def noisy(real_BTHWC: np.ndarray) -> np.ndarray:
    """Gaussian noise of standard deviation 8 on every pixel."""
    noise = np.random.default_rng(0).normal(0, NOISE_SD, real_BTHWC.shape)
    return (real_BTHWC + noise).round().clip(0, 255).astype(np.uint8)


REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "frozen first frame": frozen,
    "5x5 blur": blurred,
    f"noise, sd {NOISE_SD}": noisy,
}


def bound_of(real_BTHWC: np.ndarray) -> float:
    """FCS of the footage itself."""
    return float(scores.fcs(real_BTHWC).mean())


def references(real_BTHWC: np.ndarray, *, vgg: Vgg | None) -> dict[str, Figures]:
    """Figures of every reference row; `bound` is the footage itself."""
    bound = Figures(None, bound_of(real_BTHWC), None)
    rows = {
        name: measure(make(real_BTHWC), real_BTHWC, vgg=vgg) for name, make in REFERENCES.items()
    }
    return {BOUND: bound, **rows}


def cells(several: Sequence[Figures], bound: float) -> tuple[Cell, Cell, Cell]:
    """Of a row of a table, over seeds: MCS, FCS, and how far FCS is from the footage's own."""
    mcs = [one.mcs for one in several if one.mcs is not None]
    distance = [abs(one.fcs - bound) for one in several]
    return mean_std(mcs, digits=2), mean_std([one.fcs for one in several]), mean_std(distance)


def reference_cells(rows: Mapping[str, Figures]) -> list[tuple[Cell, ...]]:
    """Rows of a table, with their names, for what `references` found."""
    return [(name, *cells([one], rows[BOUND].fcs)) for name, one in rows.items()]


def scored_clips(run: Run, most: int) -> list[int]:
    """The clips of a run that are scored."""
    return render.clips_of(run, render.spread_videos(run, most))


def random_pairs(run: Run, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random static and transient rows, no pair twice: all of them where there are fewer."""
    rows = render.trained_rows(run)
    return draw_pairs(run, count=min(count, rows.static_N.size * rows.transient_N.size), seed=seed)


def drawn(run: Run, count: int) -> str:
    """For the card of random videos: how many there are, and whether they are new."""
    rows = render.trained_rows(run)
    pairs = rows.static_N.size * rows.transient_N.size
    text = f"{min(count, pairs)} of {pairs} pairs of rows, at random"
    single = rows.static_N.size == 1
    return f"{text}; with one static row they are the training videos" if single else text


def card(run: Run, *, videos: str, vgg: Vgg | None) -> dict[str, str]:
    """Protocol of PSNR, FCS and MCS on a run's footage."""
    features = cards.network(vgg) if vgg else {}
    about = cards.protocol(run, videos=videos, definition="", **features)
    definitions = {"FCS": cards.FCS, "PSNR": cards.PSNR, "SSIM": cards.SSIM, "MCS": cards.MCS}
    return {**{k: v for k, v in about.items() if v}, **definitions}
