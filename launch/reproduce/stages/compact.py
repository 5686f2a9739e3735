"""The compact representation of Sec. 1: bytes of a video as latents, next to JPEG and H.264.

Latents are stored in float32, float16, int8 and at low rank; rows that videos share are divided
over them. The networks' weights are shared by all videos and stated apart, never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from launch.reproduce import trainings
from launch.reproduce.coding import FORMS, Coded, h264, jpeg
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Picture,
    Stage,
    StageResult,
    Table,
    merged,
    models,
)
from launch.reproduce.figures import ONE_SEED, psnr_of
from launch.reproduce.footage import FootageSet
from launch.reproduce.over_seeds import ONE
from launch.reproduce.planner import Plan
from launch.reproduce.plots import Line, write_plot
from trainer import cards, render
from trainer.pictures import to_pixels
from trainer.run import Run, open_run

MOST = 24
"""Videos that are coded."""
JUDGED = "int8"
"""The form that claims are about."""
COLUMNS = ("stored as", "bytes a video", "with the weights in float32, bytes a video", "PSNR, dB",
           "JPEG at equal bytes, dB", "H.264 at equal bytes, dB")  # fmt: skip
QUALITIES = (1, 5, 15, 35, 60, 85)
CRFS = (51, 45, 39, 33, 27, 21)


class Point(NamedTuple):
    """Mean bytes and mean PSNR of a video."""

    label: str
    bytes: float
    psnr: float


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn."""
    trainings.train(context, [trainings.full_models(context, f)[0] for f in context.sets])
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
        claims_of(footage, ours, {"JPEG": stills, "H.264": films}),
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
    return Point(form, total / len(clips), psnr_of(np.stack(fakes), real))


def _point(label: str, coded: Sequence[Coded], real: np.ndarray) -> Point:
    decoded = np.stack([one.frames_THWC for one in coded])
    return Point(label, float(np.mean([one.bytes for one in coded])), psnr_of(decoded, real))


def at_bytes(points: Sequence[Point], size: float) -> float | None:
    """PSNR of a codec at so many bytes, between its measured points (linear in log bytes).

    None where it has no point that small or that large.
    """
    ordered = sorted(points, key=lambda p: p.bytes)
    if not ordered[0].bytes <= size <= ordered[-1].bytes:
        return None
    logs = np.log([p.bytes for p in ordered])
    return float(np.interp(np.log(size), logs, [p.psnr for p in ordered]))


def beats(point: Point, codec: Sequence[Point]) -> bool | None:
    """Whether a point lies above a codec at equal bytes; None where the codec has no such point
    and neither is better in both."""
    found = at_bytes(codec, point.bytes)
    if found is not None:
        return point.psnr > found
    ordered = sorted(codec, key=lambda p: p.bytes)
    least, most = ordered[0], ordered[-1]
    if point.bytes < least.bytes:
        return True if point.psnr >= least.psnr else None
    return False if point.psnr <= most.psnr else None


def claims_of(
    footage: FootageSet, ours: Sequence[Point], codecs: Mapping[str, Sequence[Point]]
) -> tuple[Claim, ...]:
    """The latents in `JUDGED` are better than a codec of pictures or films at equal bytes, or where
    it has no file that small than its smallest one."""
    point = next(p for p in ours if p.label == JUDGED)
    best = max(p.psnr for p in ours)
    claims = []
    for name, codec in codecs.items():
        least = min(p.bytes for p in codec)
        what = f"latents as {JUDGED} are above {name} at equal bytes"
        if point.bytes < least:
            what = f"no {name} of that size exists, and latents as {JUDGED} are above its smallest"
        claims.append(
            Claim(
                f"{footage.name}: {what}, without the networks' weights",
                beats(point, codec),
                f"{point.bytes:.0f} bytes at {point.psnr:.2f} dB; {name}: "
                f"{_at(codec, point.bytes)}; {ONE}",
                f"the networks themselves reproduce these videos at {best:.2f} dB, and a code of "
                "every frame is stored as it is, without entropy coding",
            )
        )
    return tuple(claims)


def _at(points: Sequence[Point], size: float) -> str:
    """A codec's PSNR at so many bytes, or the point of its range that is nearest."""
    found = at_bytes(points, size)
    if found is not None:
        return f"{found:.2f}"
    ordered = sorted(points, key=lambda p: p.bytes)
    if size < ordered[0].bytes:
        return f"not below {ordered[0].bytes:.0f} bytes, {ordered[0].psnr:.2f} there"
    return f"{ordered[-1].bytes:.0f} bytes suffice for {ordered[-1].psnr:.2f}"


def _table(
    footage: FootageSet, run: Run, ours: list[Point], stills: list[Point], films: list[Point],
    videos: int,
) -> Table:  # fmt: skip
    every = len(run.manifest.videos)
    weights = sum(p.numel() for p in run.networks.parameters())
    pixels = run.manifest.frames * run.manifest.height * run.manifest.width * 3
    share = 4 * weights / every
    lines: list[tuple[Cell, ...]] = [
        (p.label, f"{p.bytes:.0f}", f"{p.bytes + share:.0f}", f"{p.psnr:.2f}",
         _at(stills, p.bytes), _at(films, p.bytes))
        for p in ours
    ]  # fmt: skip
    lines.append(("raw pixels", str(pixels), str(pixels), None, None, None))
    card = {
        **cards.protocol(run, videos=f"{videos} of {every}", definition=cards.PSNR),
        **ONE_SEED,
        "bytes": "latent rows in use divided over the videos",
        "apart": f"the networks' {weights} weights, shared by all {every} videos of the set",
        "JPEG": "each frame, optimised tables, all headers counted",
        "H.264": "x264, preset slow, yuv420p, raw stream without its note of x264's settings",
        "training": f"the full model of the ablation: {trainings.length_told(run)}",
        "loss": trainings.loss_told(run.config.loss.regression),
    }
    title = f"Compact representation: {footage.name}"
    return Table(title, COLUMNS, tuple(lines), card, weights_note(weights, pixels, every))


def weights_note(weights: int, pixels: int, videos: int) -> str:
    """What the networks' weights are beside the footage of the set, a sentence.

    Args:
        weights: numbers, stored in float32.
        pixels: bytes of a raw video.
        videos: of the set, which share the weights.
    """
    took, whole = 4 * weights, pixels * videos
    text = f"The networks' weights are {took} bytes in float32, the {videos} raw videos {whole}: "
    if took < whole:
        return f"{text}the weights alone are {took / whole:.0%} of the set."
    return (
        f"{text}the weights alone are larger than the set itself, so with them nothing is saved "
        f"on a set of fewer than {-(-took // pixels)} videos."
    )


def count(footage: FootageSet, plan: Plan) -> int:
    """None of its own: the full models of the ablation."""
    return 0


STAGE = Stage(
    "Compact representation",
    count,
    run,
    (6.0, 0.0),
    uses=lambda footage, plan: models(("full",), 1),
)
