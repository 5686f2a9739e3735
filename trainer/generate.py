"""Videos from a trained dictionary: sheets, reconstructions, new combinations, interpolation.

    python -m trainer.generate RUN sheet [--count 8 | --videos NAME...]
    python -m trainer.generate RUN reconstruct --videos NAME...|all
    python -m trainer.generate RUN sample [--count 16] [--seed 0]
    python -m trainer.generate RUN recombine [--static NAME...] [--transient NAME...] [--count 6]
    python -m trainer.generate RUN random [--count 500] [--seed 0]
    python -m trainer.generate RUN interpolate --video NAME [--between 2 5] [--k 3]
    python -m trainer.generate RUN explore [--count 8]

Pictures go to RUN/samples, or to --out. Interpolation is that of Sec. 4.3.3, Fig. 7 and 12.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_shards.ending import ended
from data_shards.errors import UserError
from trainer import explorer, pictures, render
from trainer.generate_options import parser
from trainer.progress import progress

if TYPE_CHECKING:
    from trainer.run import Run


class Output:
    """Where a command's files go, and which it has written."""

    def __init__(self, folder: Path, *, fps: float):
        self.folder = folder
        self.fps = fps
        self.written: list[Path] = []

    def sheet(self, name: str, rows: Sequence[pictures.Row], *, header: str = "") -> None:
        """Write `name.png`."""
        picture = pictures.sheet(rows, header=header)
        self.written.append(pictures.write_png(self.folder / f"{name}.png", picture))

    def film(self, name: str, frames_THWC: np.ndarray) -> None:
        """Write `name.gif` and `name.mp4`."""
        small = pictures.enlarge(frames_THWC, factor=_gif_factor(frames_THWC))
        self.written.append(pictures.write_gif(self.folder / f"{name}.gif", small, fps=self.fps))
        self.mp4(name, frames_THWC)

    def mp4(self, name: str, frames_THWC: np.ndarray) -> None:
        """Write `name.mp4`, long enough to be watched (three rounds)."""
        path = self.folder / f"{name}.mp4"
        self.written.append(pictures.write_mp4(path, frames_THWC, fps=self.fps, loops=3))


def _gif_factor(frames_THWC: np.ndarray) -> int:
    """GIFs are for pages: at least 128 pixels, at most about 800."""
    short, long = sorted(frames_THWC.shape[1:3])
    return max(1, min(round(128 / short), 800 // long))


# Commands ------------------------------------------------------------------------------------


def sheet(run: Run, out: Output, options: argparse.Namespace) -> None:
    """Training videos: real above generated, one PNG."""
    names, clips = render.chosen_videos(run, options.videos, count=options.count)
    rows = pictures.real_above_generated(
        names, render.real_clips(run, clips), render.render_clips(run, clips)
    )
    out.sheet("sheet", rows)


def reconstruct(run: Run, out: Output, options: argparse.Namespace) -> None:
    """Training videos by name: for each an MP4 and a GIF, real beside generated."""
    names, clips = render.chosen_videos(run, options.videos)
    for start in progress(range(0, len(clips), render.CLIPS_AT_ONCE), label="reconstructing"):
        part = clips[start : start + render.CLIPS_AT_ONCE]
        real, fake = render.real_clips(run, part), render.render_clips(run, part)
        for index in range(len(part)):
            pair = pictures.wall([real[index], fake[index]], columns=2)
            out.film(f"reconstruct-{_slug(names[start + index])}", pair)


def sample(run: Run, out: Output, options: argparse.Namespace) -> None:
    """Random combinations of a static and a transient row: a sheet and a moving wall."""
    static, transient = draw_pairs(run, count=options.count, seed=options.seed)
    videos = render.render(run, static, transient)
    labels = [_pair_name(run, *pair) for pair in zip(static, transient, strict=True)]
    rows = [pictures.Row(label, video) for label, video in zip(labels, videos, strict=True)]
    out.sheet(f"sample-seed{options.seed}", rows)
    out.film(f"sample-seed{options.seed}", pictures.wall(videos))


def recombine(run: Run, out: Output, options: argparse.Namespace) -> None:
    """A grid: each row keeps the content of a video, each column the motion of another."""
    down = options.static or render.chosen_videos(run, None, count=options.count)[0]
    across = options.transient or render.chosen_videos(run, None, count=options.count)[0]
    static = render.rows_of(run, render.clips_of(run, down)).static_N
    transient = render.rows_of(run, render.clips_of(run, across)).transient_N
    videos = render.render(run, np.repeat(static, len(transient)), np.tile(transient, len(static)))
    grid = pictures.wall(videos, columns=len(transient))
    large = pictures.enlarge(grid, factor=_gif_factor(grid))
    film = pictures.label_wall(large, across=across, down=down)
    out.film("recombine", film)
    middle = pictures.picture(film[len(film) // 2])
    out.written.append(pictures.write_png(out.folder / "recombine.png", middle))


def random(run: Run, out: Output, options: argparse.Namespace) -> None:
    """N videos of random pairs of rows, one MP4 each, and a table of the pairs."""
    static, transient = draw_pairs(run, count=options.count, seed=options.seed)
    table = out.folder / "random.csv"
    lines: list[tuple[str | int, ...]] = [
        ("file", "static row", "static", "transient row", "transient")
    ]
    step = render.CLIPS_AT_ONCE
    for start in progress(range(0, len(static), step), label="random videos"):
        part = slice(start, start + step)
        for index, video in enumerate(render.render(run, static[part], transient[part]), start):
            out.mp4(f"random-{index:05d}", video)
            pair = int(static[index]), int(transient[index])
            names = _pair_names(run, *pair)
            lines.append((f"random-{index:05d}.mp4", pair[0], names[0], pair[1], names[1]))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    out.written.append(table)


def interpolate(run: Run, out: Output, options: argparse.Namespace) -> None:
    """k frames between two learned ones of a video: its sheet, GIF and MP4 (Fig. 7, 12)."""
    first, last = options.between
    clip = render.clips_of(run, [options.video])
    video = in_between(run, clip[0], first=first, last=last, k=options.k)
    name = f"interpolate-{_slug(options.video)}-{first}-{last}-k{options.k}"
    whole = render.render_clips(run, clip)[0]
    around = video[first - 1 : first + options.k + 1]
    rows = [
        pictures.Row("real", render.real_clips(run, clip)[0][first - 1 : last], 0),
        pictures.Row("generated", whole[first - 1 : last], 0),
        pictures.Row(f"{options.k} in between", around, 1),
    ]
    out.sheet(name, rows, header=f"{pictures.shorten(options.video, 40)}: frames {first} to {last}")
    out.film(name, video)


def explore(run: Run, out: Output, options: argparse.Namespace) -> None:
    """A page: choose content and motion, see the video; the dictionary's plane and rank energy."""
    page = out.folder / "explorer.html"
    out.written.append(explorer.write_explorer(run, page, count=options.count))


# Drawing and blending --------------------------------------------------------------------------


def draw_pairs(run: Run, *, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random static and transient rows, (count,) each; no pair twice while there are enough."""
    rows = render.trained_rows(run)
    total = len(rows.static_N) * len(rows.transient_N)
    draw = np.random.default_rng(seed).choice(total, size=count, replace=count > total)
    static, transient = np.divmod(draw, len(rows.transient_N))
    return rows.static_N[static], rows.transient_N[transient]


@torch.inference_mode()
def in_between(run: Run, clip: int, *, first: int, last: int, k: int) -> np.ndarray:
    """A clip whose frames between `first` and `last` (from 1) are replaced by k blends of latents.

    The codes are z_first + n/(k+1) (z_last - z_first), n = 1..k: strictly between the two, where
    the paper's n/k ends on the second. The motion RNN runs over the lengthened sequence.

    Returns:
        uint8 (first + k + 1 + T - last, H, W, 3).

    Raises:
        UserError: frames outside of the clip or in the wrong order.
    """
    rows = render.rows_of(run, [clip])
    static_BS, transient_BTM = run.latents(*(torch.as_tensor(row) for row in rows))
    frames = transient_BTM.shape[1]
    if not 1 <= first < last <= frames:
        raise UserError(f"--between {first} {last}: give two frames in order out of 1..{frames}")
    weights_T = torch.arange(1, k + 1, device=transient_BTM.device) / (k + 1)
    start, end = transient_BTM[:, first - 1 : first], transient_BTM[:, last - 1 : last]
    blends = start + weights_T[None, :, None] * (end - start)
    longer = torch.cat([transient_BTM[:, :first], blends, transient_BTM[:, last - 1 :]], dim=1)
    images, _ = run.networks(static_BS, longer)
    return pictures.to_pixels(images)[0]


# Names -------------------------------------------------------------------------------------------


def _pair_names(run: Run, static: int, transient: int) -> tuple[str, str]:
    return run.row_name(0, int(static)), run.row_name(1, int(transient))


def _pair_name(run: Run, static: int, transient: int) -> str:
    first, second = _pair_names(run, static, transient)
    return f"{pictures.shorten(first, 13)} × {pictures.shorten(second, 13)}"


def _slug(name: str) -> str:
    """A file name out of any video name; names that had to be changed are told apart by a hash."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    safe = safe.strip(".")[:80]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


# Entry point -------------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[Run, Output, argparse.Namespace], None]] = {
    "sheet": sheet,
    "reconstruct": reconstruct,
    "sample": sample,
    "recombine": recombine,
    "random": random,
    "interpolate": interpolate,
    "explore": explore,
}


@ended
def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when its files are written, 2 on bad input."""
    told = {name: (do.__doc__ or "").splitlines()[0] for name, do in COMMANDS.items()}
    options = parser(told, description=__doc__ or "").parse_args(argv)
    try:
        return _generate(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _generate(options: argparse.Namespace) -> int:
    from trainer.run import open_run

    for name in ("count", "k", "fps"):
        if getattr(options, name, 1) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if getattr(options, "seed", 0) < 0:
        raise UserError(f"--seed {options.seed}: must be at least 0")
    run = open_run(Path(options.run), checkpoint=render.checkpoint_of(options.checkpoint))
    if options.fitted:
        from trainer.fitted import extended

        run = extended(run, options.fitted)
    folder = Path(options.out) if options.out else run.folder / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    out = Output(folder, fps=options.fps)
    COMMANDS[options.command](run, out, options)
    for path in out.written[:12]:
        print(path)
    if len(out.written) > 12:
        print(f"... and {len(out.written) - 12} more in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
