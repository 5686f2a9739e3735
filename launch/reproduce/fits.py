"""What fitting unseen videos gave: figures over seeds and numbers of videos, tables, pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from launch.reproduce.context import Context, Picture, Table
from launch.reproduce.footage import FootageSet
from launch.reproduce.over_seeds import shown
from launch.reproduce.plots import Line, write_plot
from trainer import pictures, render
from trainer.fitted import Fitted, extended
from trainer.generate import in_between
from trainer.run import Run

COLUMNS = (
    "training videos", "seeds", "passes over them", "their PSNR, dB", "fitted, dB",
    "gap to the training videos, dB", "nearest training video, dB", "fitted above it",
    "least gain, dB", "steps",
)  # fmt: skip


FIRST, LAST, BETWEEN = 1, 3, 6
"""Frames of a fitted video, from 1, and how many are generated between them."""


class Fits(NamedTuple):
    """What fitting after one training on so many videos gave."""

    trained: int
    passes: float
    """Over the training videos."""
    own: float
    """Mean PSNR of the training videos."""
    fitted: Fitted
    steps: int = 0
    """Of the training."""
    near: Mapping[str, tuple[str, float]] = MappingProxyType({})
    """By unseen video, all of them or none: the training video nearest to it and its PSNR, where
    that was sought among more than `trainer.fit` looks at."""

    @property
    def videos(self) -> list[dict]:
        """Facts of each fitted video."""
        found = self.fitted.facts["videos"]
        return [{**video, **self._nearest(video)} for video in found] if self.near else found

    def _nearest(self, video: Mapping[str, Any]) -> dict[str, Any]:
        name, psnr = self.near[video["name"]]
        return {"nearest": name, "nearest_psnr": psnr}

    @property
    def psnr(self) -> float:
        """Mean PSNR of the fitted videos."""
        return mean_of(self, "psnr")

    @property
    def gap(self) -> float:
        """dB by which the training videos are above the fitted ones."""
        return self.own - self.psnr

    @property
    def gains(self) -> np.ndarray:
        """dB of every fitted video above its nearest training video."""
        return np.array([video["psnr"] - video["nearest_psnr"] for video in self.videos])


def mean_of(fits: Fits, key: str) -> float:
    """Mean of a fact over the fitted videos."""
    return float(np.mean([video[key] for video in fits.videos]))


def table_of(footage: FootageSet, found: Sequence[Sequence[Fits]], card: dict[str, str]) -> Table:
    """A line for each number of training videos, each over seeds."""
    lines = []
    for several in found:
        above = " / ".join(f"{(f.gains > 0).sum()} of {len(f.gains)}" for f in several)
        least = min(f.gains.min() for f in several)
        lines.append(
            (
                several[0].trained, len(several), f"{np.mean([f.passes for f in several]):,.0f}",
                shown([f.own for f in several]), shown([f.psnr for f in several]),
                shown([f.gap for f in several]),
                f"{mean_of(several[0], 'nearest_psnr'):.2f}", above, f"{least:+.2f}",
                f"{np.mean([f.steps for f in several]):.0f}",
            )
        )  # fmt: skip
    return Table(f"Unseen footage: {footage.name}", COLUMNS, tuple(lines), card)


def videos_of(footage: FootageSet, several: Sequence[Fits], card: dict[str, str]) -> Table:
    """A line for each unseen video, over seeds."""
    lines = [
        (same[0]["name"], shown([video["psnr"] for video in same]),
         f"{same[0]['nearest_psnr']:.2f}", same[0]["nearest"])
        for same in zip(*(fits.videos for fits in several), strict=True)
    ]  # fmt: skip
    columns = ("unseen video", "fitted, dB", "nearest training video, dB", "which is")
    return Table(f"Unseen footage, each video: {footage.name}", columns, tuple(lines), card)


def pictures_of(
    context: Context, footage: FootageSet, run: Run, name: str, found: Sequence[Sequence[Fits]]
) -> list[Picture]:
    """A sheet of fitted videos below the footage, and a plot where there are several numbers of
    training videos; `name`: of the fitted videos of `run`."""
    longer = extended(run, name)
    names = [video.name for video in longer.manifest.videos[len(run.manifest.videos) :]]
    chosen = [names[i] for i in render.spread(6, len(names))]
    clips = render.clips_of(longer, chosen)
    rows = pictures.real_above_generated(
        chosen, render.real_clips(longer, clips), render.render_clips(longer, clips)
    )
    file = re.sub(r"\W+", "-", footage.name)
    path = context.picture(f"unseen-{file}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Unseen footage, {footage.name}: footage above what was fitted"
    shown_ones = [Picture(title, str(path.relative_to(context.out)))]
    again = context.picture(f"unseen-{file}-again.png")
    pictures.write_png(again, pictures.sheet(_used_again(run, longer, names)))
    title = (
        f"Fitted videos used again, {footage.name}: their content with motions of training videos, "
        f"their motions with content of those, and frames {FIRST} and {LAST} of each with "
        f"{BETWEEN} between them"
    )
    shown_ones.append(Picture(title, str(again.relative_to(context.out))))
    return shown_ones + ([_plot(context, footage, file, found)] if len(found) > 1 else [])


def _used_again(run: Run, longer: Run, fitted: Sequence[str]) -> list[pictures.Row]:
    """Two fitted videos recombined with two training videos, both ways, and interpolated."""
    own = render.spread_videos(run, 2)
    new = [fitted[i] for i in render.spread(2, len(fitted))]
    rows = []
    for group, (contents, motions) in enumerate(((new, own), (own, new))):
        pairs = [(content, motion) for content in contents for motion in motions]
        static = [render.rows_of(longer, render.clips_of(longer, [c])).static_N for c, _ in pairs]
        moving = [render.rows_of(longer, render.clips_of(longer, [m])).transient_N
                  for _, m in pairs]  # fmt: skip
        videos = render.render(longer, np.concatenate(static), np.concatenate(moving))
        short = [" × ".join(pictures.shorten(name, 13) for name in pair) for pair in pairs]
        rows += [pictures.Row(label, video, group)
                 for label, video in zip(short, videos, strict=True)]  # fmt: skip
    for name in new:
        clip = render.clips_of(longer, [name])[0]
        film = in_between(longer, clip, first=FIRST, last=LAST, k=BETWEEN)
        rows.append(pictures.Row(name, film[FIRST - 1 : FIRST + BETWEEN + 1], 2))
    return rows


def _plot(
    context: Context, footage: FootageSet, file: str, found: Sequence[Sequence[Fits]]
) -> Picture:
    """PSNR against the number of training videos, means over seeds."""
    at = [several[0].trained for several in found]

    def line(label: str, values: Sequence[Sequence[float]]) -> Line:
        return Line(label, at, [float(np.mean(several)) for several in values])

    lines = [
        line("training videos", [[f.own for f in several] for several in found]),
        line("fitted", [[f.psnr for f in several] for several in found]),
        line("nearest training video",
             [[mean_of(f, "nearest_psnr") for f in several] for several in found]),
        line("gap: training less fitted", [[f.gap for f in several] for several in found]),
    ]  # fmt: skip
    path = context.picture(f"unseen-{file}-counts.png")
    write_plot(path, lines, x="training videos", y="PSNR, dB", log_x=True)
    title = (
        f"Unseen footage, {footage.name}: PSNR against the number of training videos, all "
        "trainings equally long"
    )
    return Picture(title, str(path.relative_to(context.out)))
