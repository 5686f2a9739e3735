"""The compact representation of Sec. 1: bytes of a video as latents, next to JPEG and H.264.

Latents are stored in float32, float16, int8 and at low rank; rows that videos share are divided
over them. The networks' weights are shared by all videos and stated apart, never hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from launch.reproduce import trainings
from launch.reproduce.coding import FORMS, Coded, h264, jpeg
from launch.reproduce.context import Context, Picture, Stage, StageResult, Table, merged
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.plots import Line, write_plot
from trainer import render, scores
from trainer.pictures import to_pixels
from trainer.run import Run, open_run

MOST = 24
"""Videos that are coded."""
QUALITIES = (1, 5, 15, 35, 60, 85)
CRFS = (51, 45, 39, 33, 27, 21)


class Point(NamedTuple):
    """Mean bytes and mean PSNR of a video."""

    label: str
    bytes: float
    psnr: float


def run(context: Context) -> StageResult:
    """Every data set in turn."""
    return merged([_one(context, footage) for footage in context.sets])


def _one(context: Context, footage: FootageSet) -> StageResult:
    trained = open_run(trainings.full_model(context, footage))
    clips = render.clips_of(trained, render.spread_videos(trained, MOST))
    real = render.real_clips(trained, clips)
    ours = [latents_point(trained, clips, real, form) for form in FORMS]
    stills = [_point(f"JPEG {q}", [jpeg(v, quality=q) for v in real], real) for q in QUALITIES]
    films = [_point(f"H.264 crf {crf}", [h264(v, crf=crf) for v in real], real) for crf in CRFS]
    path = context.picture(f"compact-{footage.name}.png")
    curves = (("latents", ours), ("JPEG", stills), ("H.264", films))
    lines = [
        Line(name, [p.bytes for p in points], [p.psnr for p in points], points=name == "latents")
        for name, points in curves
    ]
    write_plot(path, lines, x="bytes a video", y="PSNR, dB", log_x=True)
    title = f"Compact representation, {footage.name}: PSNR against bytes a video"
    return StageResult(
        (_table(footage, trained, ours, stills, films, len(clips)),),
        pictures=(Picture(title, str(path.relative_to(context.out))),),
    )


def latents_point(run: Run, clips: Sequence[int], real: np.ndarray, form: str) -> Point:
    """Store the latents of clips in a form; bytes of all rows used, divided over the videos."""
    rows = render.rows_of(run, clips)
    fakes, static_bytes, transient_bytes = [], {}, {}
    for static_row, transient_row in zip(*rows, strict=True):
        codes = run.latents(torch.tensor([static_row]), torch.tensor([transient_row]))
        static, transient = (FORMS[form](code[0]) for code in codes)
        static_bytes[static_row], transient_bytes[transient_row] = static.bytes, transient.bytes
        with torch.inference_mode():
            images, _ = run.networks(static.values[None], transient.values[None])
        fakes.append(to_pixels(images)[0])
    total = sum(static_bytes.values()) + sum(transient_bytes.values())
    return Point(form, total / len(clips), _psnr(np.stack(fakes), real))


def _point(label: str, coded: Sequence[Coded], real: np.ndarray) -> Point:
    decoded = np.stack([one.frames_THWC for one in coded])
    return Point(label, float(np.mean([one.bytes for one in coded])), _psnr(decoded, real))


def _psnr(fake: np.ndarray, real: np.ndarray) -> float:
    return float(np.minimum(scores.video_psnr(fake, real), 100.0).mean())


def at_bytes(points: Sequence[Point], size: float) -> float | None:
    """PSNR of a codec at so many bytes, between its measured points (linear in log bytes).

    None where it has no point that small or that large.
    """
    ordered = sorted(points, key=lambda p: p.bytes)
    if not ordered[0].bytes <= size <= ordered[-1].bytes:
        return None
    logs = np.log([p.bytes for p in ordered])
    return float(np.interp(np.log(size), logs, [p.psnr for p in ordered]))


def _table(
    footage: FootageSet, run: Run, ours: list[Point], stills: list[Point], films: list[Point],
    videos: int,
) -> Table:  # fmt: skip
    def other(points: list[Point], size: float) -> str:
        found = at_bytes(points, size)
        least, most = min(p.bytes for p in points), max(p.bytes for p in points)
        if found is not None:
            return f"{found:.2f}"
        return f"not below {least:.0f} bytes" if size < least else f"{most:.0f} bytes suffice"

    lines = [
        (p.label, f"{p.bytes:.0f}", f"{p.psnr:.2f}", other(stills, p.bytes), other(films, p.bytes))
        for p in ours
    ]
    weights = sum(p.numel() for p in run.networks.parameters())
    pixels = run.manifest.frames * run.manifest.height * run.manifest.width * 3
    card = {
        "videos": f"{videos} of {len(run.manifest.videos)}, means",
        "bytes": f"latent rows in use divided over the videos; raw pixels: {pixels} bytes a video",
        "apart": f"the networks' {weights} weights, shared by all videos: {4 * weights} bytes in "
        "float32",
        "JPEG": "each frame, optimised tables, all headers counted",
        "H.264": "x264, preset slow, yuv420p, raw stream",
    }
    columns = ("latents as", "bytes a video", "PSNR, dB", "JPEG at equal bytes, dB",
               "H.264 at equal bytes, dB")  # fmt: skip
    return Table(f"Compact representation: {footage.name}", columns, tuple(lines), card)


def count(footage: FootageSet, plan: Plan) -> int:
    """None of its own: the full models of the ablation."""
    return 0


STAGE = Stage("Compact representation", count, run, (15.0, 0.0), uses=lambda footage, plan: 1)
