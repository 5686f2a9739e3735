"""What a training leaves to look at: a sheet, best and worst videos, a moving wall and curves.

Called by the loop when a training ends, and cheap: a few seconds on two cores whatever the size of
the data set, since only some videos are looked at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer import pictures, render
from trainer.journal import read
from trainer.scores import video_psnr

if TYPE_CHECKING:
    from trainer.run import Run

LOOKED_AT = 32
"""Videos among which the best and the worst are sought."""
NEXT = """next:
  {python} -m trainer.generate {run} sample          new combinations of content and motion
  {python} -m trainer.evaluate {run}                 PSNR, SSIM, FCS and MCS with their protocol
  {run}/report.html                                everything on one page"""


def write_samples(run: Run, *, count: int = 8) -> list[Path]:
    """Write RUN/samples/{sheet,best,worst,curves}.png and wall.{gif,mp4}; the paths written.

    `count` videos, evenly spread over the data set, are on the sheet (real above generated) and in
    the wall (real left of generated). Best and worst are by PSNR among at most 32 videos. Damaged
    ones, which training has left out, are not shown.
    """
    folder = run.folder / "samples"
    names, clips = render.chosen_videos(run, None, count=max(count, LOOKED_AT))
    real, fake = render.real_clips(run, clips), render.render_clips(run, clips)
    shown = render.spread(count, len(names))
    written = [
        _sheet(folder / "sheet.png", names, real, fake, shown),
        *write_extremes(folder, names, real, fake),
        *_wall(folder / "wall", real[shown], fake[shown]),
    ]
    metrics = run.folder / "metrics.jsonl"
    if metrics.exists():
        written.append(pictures.write_curves(folder / "curves.png", read(metrics)))
    return written


def write_sheet(run: Run, *, count: int = 8) -> Path:
    """Write RUN/samples/sheet.png alone."""
    names, clips = render.chosen_videos(run, None, count=count)
    real, fake = render.real_clips(run, clips), render.render_clips(run, clips)
    path = run.folder / "samples" / "sheet.png"
    return _sheet(path, names, real, fake, list(range(len(names))))


def write_extremes(
    folder: Path, names: list[str], real_BTHWC: np.ndarray, fake_BTHWC: np.ndarray
) -> list[Path]:
    """Write best.png and worst.png: up to three videos each, by PSNR, which the labels tell."""
    psnr_B = video_psnr(fake_BTHWC, real_BTHWC)
    order = np.argsort(psnr_B, kind="stable")
    each = min(3, (len(order) + 1) // 2)
    labels = [f"{pictures.shorten(n, 20)} {p:.1f} dB" for n, p in zip(names, psnr_B, strict=True)]
    chosen = {"best": order[::-1][:each].tolist(), "worst": order[:each].tolist()}
    return [
        _sheet(folder / f"{name}.png", labels, real_BTHWC, fake_BTHWC, indices)
        for name, indices in chosen.items()
    ]


def _sheet(path: Path, names: list[str], real: np.ndarray, fake: np.ndarray, at: list[int]) -> Path:
    shown = [names[index] for index in at]
    rows = pictures.real_above_generated(shown, real[at], fake[at])
    return pictures.write_png(path, pictures.sheet(rows))


def _wall(path: Path, real: np.ndarray, fake: np.ndarray) -> list[Path]:
    pairs = [pictures.wall(pair, columns=2, gap=1) for pair in zip(real, fake, strict=True)]
    page = pictures.wall(pairs, columns=4 if len(pairs) > 4 else 2)
    small = pictures.enlarge(page, factor=max(1, 600 // max(page.shape[1:3])))
    return [
        pictures.write_gif(path.with_suffix(".gif"), small),
        pictures.write_mp4(path.with_suffix(".mp4"), page, loops=4),
    ]


def next_steps(run: Path) -> str:
    """What can be done with a finished run, in commands of this Python as a user would call it: by
    its path, where it is of an environment (as that of `make train`) which is not activated."""
    python = "python"
    if sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix:
        python = os.path.relpath(sys.executable)
    return NEXT.format(python=python, run=run)
