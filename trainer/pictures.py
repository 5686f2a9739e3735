"""Pictures of videos: sheets, film strips, walls, GIFs, MP4s and curves, from uint8 arrays.

Nothing here knows of runs or networks. Arrays are numpy, uint8 0..255, `frames_THWC` for a video;
files appear whole or not at all. Sheets are transparent with mid-grey labels, so that they can be
read on a light page as well as on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

INK = (118, 126, 138, 255)
"""Label colour: 4:1 against white and 4.5:1 against near-black."""
BACKDROP = (21, 23, 28)
"""Between the videos of a moving picture, which cannot be transparent."""
GAP = 2
WATCHABLE = 256
"""Pixels that a short side gets in a video file."""


class Row(NamedTuple):
    """One line of a sheet. Rows of equal `group` stand close together."""

    label: str
    frames_THWC: np.ndarray
    group: int = 0


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Generator output (..., C, H, W) to uint8 (..., H, W, C), by round(127.5 (x + 1))."""
    scaled = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return channels_last(scaled.to(torch.uint8))


def channels_last(frames: torch.Tensor) -> np.ndarray:
    """uint8 tensor (..., C, H, W) to a numpy array (..., H, W, C) of three channels."""
    array = frames.detach().cpu().movedim(-3, -1).numpy()
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)


def enlarge(frames_THWC: np.ndarray, *, factor: int, smooth: bool = False) -> np.ndarray:
    """Frames `factor` times as large, by nearest neighbour or (smooth) Lanczos."""
    if factor <= 1:
        return frames_THWC
    if not smooth:
        return frames_THWC.repeat(factor, axis=1).repeat(factor, axis=2)
    size = (frames_THWC.shape[2] * factor, frames_THWC.shape[1] * factor)
    lanczos = Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(f).resize(size, lanczos)) for f in frames_THWC])


def watchable_factor(height: int, width: int, *, target: int = WATCHABLE) -> int:
    """Whole factor that brings a frame's short side to about `target` pixels, at least 1."""
    return max(1, round(target / max(1, min(height, width))))


# Still pictures -----------------------------------------------------------------------------


def film_strip(frames_THWC: np.ndarray, *, gap: int = GAP) -> np.ndarray:
    """One video as one row: RGBA (H, T W + gaps, 4), the gaps transparent."""
    frames, height, width, _ = frames_THWC.shape
    strip = np.zeros((height, frames * (width + gap) - gap, 4), np.uint8)
    for index, frame in enumerate(frames_THWC):
        left = index * (width + gap)
        strip[:, left : left + width, :3] = frame
        strip[:, left : left + width, 3] = 255
    return strip


def sheet(rows: Sequence[Row], *, font_size: int = 12, header: str = "") -> Image.Image:
    """Labelled film strips below each other, groups apart; an RGBA picture.

    The label column is as wide as the longest label asks, up to 30 characters; longer ones are
    cut in the middle.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    font = ImageFont.load_default(size=font_size)
    labels = [shorten(row.label, 30) for row in rows]
    strips = [film_strip(row.frames_THWC) for row in rows]
    label_width = math.ceil(max(font.getlength(label) for label in labels)) + 10
    tops, top = [], (font_size + 10 if header else 0)
    for index, row in enumerate(rows):
        apart = index > 0 and row.group != rows[index - 1].group
        top += 0 if index == 0 else (10 if apart else GAP)
        tops.append(top)
        top += strips[index].shape[0]
    width = label_width + max(strip.shape[1] for strip in strips)
    page = Image.new("RGBA", (width, top), (0, 0, 0, 0))
    pen = ImageDraw.Draw(page)
    if header:
        pen.text((label_width, 2), header, fill=INK, font=font)
    for label, strip, at in zip(labels, strips, tops, strict=True):
        middle = at + strip.shape[0] / 2
        pen.text((label_width - 8, middle), label, fill=INK, font=font, anchor="rm")
        page.paste(Image.fromarray(strip), (label_width, at))
    return page


def real_above_generated(
    names: Sequence[str], real_BTHWC: np.ndarray, fake_BTHWC: np.ndarray
) -> list[Row]:
    """Rows of a sheet: for each video its footage, and below it what the networks make of it."""
    rows = []
    for index, name in enumerate(names):
        rows.append(Row(name, real_BTHWC[index], index))
        rows.append(Row("generated", fake_BTHWC[index], index))
    return rows


def shorten(text: str, limit: int) -> str:
    """Text of at most `limit` characters on one line, cut in the middle."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def picture(frame_HWC: np.ndarray) -> Image.Image:
    """One frame as a picture."""
    return Image.fromarray(np.ascontiguousarray(frame_HWC))


def write_png(path: Path, picture: Image.Image) -> Path:
    """Write a PNG (atomically)."""
    return _whole(path, lambda part: picture.save(part, format="PNG"))


# Moving pictures ----------------------------------------------------------------------------


def wall(
    videos_BTHWC: np.ndarray | Sequence[np.ndarray], *, columns: int = 0, gap: int = 4
) -> np.ndarray:
    """Videos beside and below each other as one: (T, H', W', 3). `columns` 0: near a square."""
    count = len(videos_BTHWC)
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    lines = math.ceil(count / columns)
    frames, height, width, _ = videos_BTHWC[0].shape
    size = (frames, lines * (height + gap) + gap, columns * (width + gap) + gap, 3)
    page = np.empty(size, np.uint8)
    page[:] = BACKDROP
    for index, video in enumerate(videos_BTHWC):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        page[:, top : top + height, left : left + width] = video
    return page


def label_wall(
    frames_THWC: np.ndarray, *, across: Sequence[str], down: Sequence[str], font_size: int = 12
) -> np.ndarray:
    """A wall with a name above each column and left of each row."""
    font = ImageFont.load_default(size=font_size)
    down = [shorten(text, 20) for text in down]
    _, height, width, _ = frames_THWC.shape
    cell = width / max(1, len(across))
    left = math.ceil(max(font.getlength(text) for text in down)) + 10
    page = Image.new("RGB", (left + width, font_size + 8 + height), BACKDROP)
    pen = ImageDraw.Draw(page)
    for index, text in enumerate(across):
        fits = (n for n in range(len(text), 2, -1) if font.getlength(shorten(text, n)) < cell - 4)
        fitting = shorten(text, next(fits, 2))
        pen.text((left + cell * (index + 0.5), 4), fitting, fill=INK, font=font, anchor="mt")
    for index, text in enumerate(down):
        at = font_size + 8 + height / len(down) * (index + 0.5)
        pen.text((left - 5, at), text, fill=INK, font=font, anchor="rm")
    labelled = np.repeat(np.asarray(page)[None], len(frames_THWC), axis=0)
    labelled[:, font_size + 8 :, left:] = frames_THWC
    return labelled


def write_gif(path: Path, frames_THWC: np.ndarray, *, fps: float = 8) -> Path:
    """Write an endless GIF whose frames share one palette (so that nothing flickers)."""
    taken = frames_THWC[:: max(1, len(frames_THWC) // 8)]
    sample = np.concatenate(list(taken), axis=0)
    thin = max(1, int(math.sqrt(sample.shape[0] * sample.shape[1] / 400_000)))
    palette = Image.fromarray(np.ascontiguousarray(sample[::thin, ::thin])).quantize(256)
    no_dither = Image.Dither.NONE
    pages = [Image.fromarray(f).quantize(palette=palette, dither=no_dither) for f in frames_THWC]
    options = {"save_all": True, "append_images": pages[1:], "loop": 0, "optimize": False}
    duration = round(1000 / fps)
    return _whole(
        path, lambda part: pages[0].save(part, format="GIF", duration=duration, **options)
    )


def write_mp4(
    path: Path, frames_THWC: np.ndarray, *, fps: float = 8, loops: int = 1, smooth: bool = False
) -> Path:
    """Write an MP4 (H.264, yuv420p, playable everywhere): enlarged to a watchable, even size."""
    factor = watchable_factor(*frames_THWC.shape[1:3])
    frames = enlarge(frames_THWC, factor=factor, smooth=smooth)
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    frames = np.pad(frames, odd, mode="edge")

    def encode(part: Path) -> None:
        rate = Fraction(fps).limit_denominator(1000)
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream = file.add_stream("libx264", rate=rate, options={"crf": "16", "threads": "1"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for _ in range(loops):
                for frame in frames:
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())

    return _whole(path, encode)


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write through a neighbour, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # whatever lies there, a link out of the folder too
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


# Curves -------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """One set of axes: a title, a unit and the columns of the metrics drawn on it."""

    title: str
    columns: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel("PSNR, dB", ("psnr",)),
    Panel("Loss", ("loss/total", "loss/rec", "loss/static"), log=True),
    Panel("Triplet loss", ("loss/triplet",)),
    Panel("Clips per second", ("clips_per_second",)),
)


def write_curves(path: Path, metrics: Iterable[dict]) -> Path:
    """PNG with PSNR, loss terms and throughput against the step; absent columns are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [{n: v for n, v in line.items() if v is not None} for line in metrics]
    known = {name for line in lines for name in line}
    panels = [panel for panel in PANELS if known & set(panel.columns)] or [PANELS[0]]
    figure = Figure(figsize=(9, 2.4 * math.ceil(len(panels) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(math.ceil(len(panels) / 2), 2, index + 1)
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for column in panel.columns:
            points = [(line["step"], line[column]) for line in lines if column in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=column, linewidth=1.4)
        positive = any(line.get(c, 0) > 0 for line in lines for c in panel.columns)
        if panel.log and positive:
            axes.set_yscale("log")
        if len(panel.columns) > 1:
            axes.legend(fontsize=8, frameon=False)
    return _whole(path, lambda part: figure.savefig(part, format="png", dpi=110))
