"""Figures of generated videos and of reference rows, under one protocol (Sec. 4.2).

Reference rows are made of real footage, so that MCS, whose scale depends on features that the paper
does not give, can be read: a frozen first frame, a blur, noise, and other windows of the videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from launch.reproduce import features
from launch.reproduce.context import Cell, mean_std
from launch.reproduce.features import Statistics, statistics_of
from trainer import cards, render, scores
from trainer.run import Run
from trainer.vgg import Vgg

NOISE_SD = 8
"""Grey levels."""
BOUND = "bound (real videos)"
FROZEN = "frozen first frame"
COLUMNS = ("MCS", "FCS", "distance to the bound", "VGG Frechet, frames", "VGG Frechet, changes")
"""Of what `cells` gives."""
DEFINITIONS = {
    "MCS": f"{cards.MCS}; differences telescope, so it looks at first and last frames only",
    "FCS": cards.FCS,
    "PSNR": cards.PSNR,
    "SSIM": cards.SSIM,
    COLUMNS[3]: features.FRAMES,
    COLUMNS[4]: features.CHANGES,
}
"""By column, without its unit."""
ONE_SEED = {"seeds": "one (0)"}
"""In the cards of stages that do not repeat their trainings."""


class Figures(NamedTuple):
    """Means over videos, and distances of the whole set from the real one."""

    mcs: float | None
    """None without a feature network; so are the Frechet distances."""
    fcs: float
    psnr: float | None
    """None where there is no truth to compare with; so is SSIM."""
    ssim: float | None = None
    frames: float | None = None
    """Squared Frechet distance of frames' features."""
    changes: float | None = None
    """The same of the differences of neighbouring frames'."""


class Truth(NamedTuple):
    """Real videos that others are held against, and what is found of them once."""

    videos_BTHWC: np.ndarray
    fcs: float
    """The bound of FCS."""
    vgg: Vgg | None
    statistics: Statistics | None
    """None without a feature network."""


def truth_of(real_BTHWC: np.ndarray, *, vgg: Vgg | None) -> Truth:
    """Real videos, uint8, with their own figures."""
    found = statistics_of(vgg, real_BTHWC) if vgg else None
    return Truth(real_BTHWC, float(scores.fcs(real_BTHWC).mean()), vgg, found)


def psnr_of(fake_BTHWC: np.ndarray, real_BTHWC: np.ndarray) -> float:
    """Mean PSNR over videos, equal ones at 100 dB."""
    return float(np.minimum(scores.video_psnr(fake_BTHWC, real_BTHWC), 100.0).mean())


def measure(fake_BTHWC: np.ndarray, truth: Truth, *, paired: bool = True) -> Figures:
    """Figures of videos against real ones; `paired`: video i is meant to be real video i."""
    psnr = ssim = mcs = None
    apart: tuple[float | None, float | None] = (None, None)
    if paired:
        psnr = psnr_of(fake_BTHWC, truth.videos_BTHWC)
        ssim = float(scores.ssim(fake_BTHWC, truth.videos_BTHWC).mean())
    if truth.vgg and truth.statistics:
        found = statistics_of(truth.vgg, fake_BTHWC, most=len(truth.videos_BTHWC))
        mcs = scores.mcs(truth.statistics.motion_K, found.motion_K)
        apart = features.distances(truth.statistics, found)
    return Figures(mcs, float(scores.fcs(fake_BTHWC).mean()), psnr, ssim, *apart)


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
    FROZEN: frozen,
    "5x5 blur": blurred,
    f"noise, sd {NOISE_SD}": noisy,
}


def references(truth: Truth) -> dict[str, Figures]:
    """Figures of every reference row; `BOUND` is the footage itself."""
    rows = {name: measure(make(truth.videos_BTHWC), truth) for name, make in REFERENCES.items()}
    return {BOUND: Figures(None, truth.fcs, None), **rows}


def cells(several: Sequence[Figures], bound: float) -> tuple[Cell, ...]:
    """Of a row of a table, over seeds, the columns `COLUMNS`; the distance is that of FCS from the
    footage's own."""

    def over_seeds(values: Sequence[float | None], digits: int) -> Cell:
        return mean_std([value for value in values if value is not None], digits=digits)

    return (
        over_seeds([one.mcs for one in several], 2),
        over_seeds([one.fcs for one in several], 3),
        over_seeds([abs(one.fcs - bound) for one in several], 3),
        significant([one.frames for one in several if one.frames is not None]),
        significant([one.changes for one in several if one.changes is not None]),
    )


def significant(values: Sequence[float], *, digits: int = 4) -> str | None:
    """`mean ± sd` over seeds to so many significant digits of the mean; None of no values."""
    if not values:
        return None
    mean = float(np.mean(values))
    after = digits - 1 - math.floor(math.log10(abs(mean))) if mean else digits - 1

    def text(value: float) -> str:
        return f"{round(value, after):.{max(after, 0)}f}"

    return (
        f"{text(mean)} ± {text(float(np.std(values, ddof=1)))}" if len(values) > 1 else text(mean)
    )


def reference_cells(rows: Mapping[str, Figures]) -> list[tuple[Cell, ...]]:
    """Rows of a table, with their names, for what `references` found."""
    return [(name, *cells([one], rows[BOUND].fcs)) for name, one in rows.items()]


MEASURES: dict[str, Callable[[Figures, float], float | None]] = {
    "MCS": lambda one, bound: one.mcs,
    "distance to the bound": lambda one, bound: abs(one.fcs - bound),
    COLUMNS[3]: lambda one, bound: one.frames,
    COLUMNS[4]: lambda one, bound: one.changes,
    "PSNR": lambda one, bound: None if one.psnr is None else -one.psnr,
    "SSIM": lambda one, bound: None if one.ssim is None else -one.ssim,
}
"""Lower is better; the second argument is the footage's own FCS."""


def ahead(
    rows: Mapping[str, Figures], name: str, several: Sequence[Figures], *, columns: Sequence[str]
) -> str:
    """A sentence: which reference rows are better than a row of ours, on average over its seeds,
    and in which of a table's columns. Columns that either of them lacks are not compared."""
    bound, found = rows[BOUND].fcs, []
    shown = {column.removesuffix(", dB") for column in columns}
    for reference in REFERENCES:
        better = []
        for column, measured in MEASURES.items():
            if column not in shown:
                continue
            theirs = measured(rows[reference], bound)
            ours = [value for one in several if (value := measured(one, bound)) is not None]
            if theirs is not None and ours and theirs < np.mean(ours):
                better.append(column)
        if better:
            found.append(f"{reference} ({'; '.join(better)})")
    if not found:
        return f"No reference row is better than {name} in any column."
    return f"Reference rows that are better than {name}: {', '.join(found)}."


def scored_clips(run: Run, most: int) -> list[int]:
    """The clips of a run that are scored."""
    return render.clips_of(run, render.spread_videos(run, most))


def card(run: Run, *, videos: str, vgg: Vgg | None, columns: Sequence[str]) -> dict[str, str]:
    """Protocol of figures on a run's footage, with the definitions of a table's columns."""
    network = cards.network(vgg) if vgg else {}
    about = cards.protocol(run, videos=videos, definition="", **network)
    shown = {column.removesuffix(", dB") for column in columns}
    definitions = {name: text for name, text in DEFINITIONS.items() if name in shown}
    return {**{k: v for k, v in about.items() if v}, **definitions}
