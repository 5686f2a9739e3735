"""Fig. 7 and 12, measured: every second frame is held out and generated from its neighbours.

Trained on every second view or frame, with the low-rank constraint off, rho = 2 and rho = 10, per
clip and over the whole dictionary (Eq. 7). `JUDGED` was fixed beforehand. The paper's own way and
what the low rank is worth are judged, too, since their figures were seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data_shards.errors import UserError
from launch.reproduce import trainings
from launch.reproduce.blending import WAYS, blended, generated
from launch.reproduce.context import Claim, Context, Picture, Stage, StageResult, Table, merged
from launch.reproduce.figures import ONE_SEED, psnr_of
from launch.reproduce.footage import Clips, FootageSet, prepared, read_clips
from launch.reproduce.planner import Plan
from launch.reproduce.trainings import Training
from trainer import cards, pictures, render
from trainer.generate import in_between
from trainer.pictures import to_pixels
from trainer.run import Run, open_run

JUDGED = (10, "clip", "codes")
"""rho, scope and way."""
SEQUENCE = (10, "clip", "sequence")
"""The paper's way (Sec. 4.3.3)."""
FREE = (0, "clip", "codes")
"""Without low rank."""
TRUE = "true neighbours"
FIRST, LAST, BETWEEN = 2, 5, 3
"""Frames of Fig. 7 between which so many are generated."""
LAYOUT = ("latents.static_key=video", "latents.transient_key=video")
"""Interpolation is within a video, so each has rows of its own."""


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn."""
    results, able = [], []
    for footage in context.sets:
        try:
            able.append((footage, _truth(context, footage)))
        except UserError as error:
            results.append(StageResult(notes=(f"{footage.name}: no interpolation: {error}",)))
    trainings.train(context, [one for f, _ in able for one in wanted(context, f).values()])
    return merged([*results, *(_one(context, footage, truth) for footage, truth in able)])


def _truth(context: Context, footage: FootageSet) -> Clips:
    """Every frame of the videos.

    Raises:
        UserError: they are too short for it.
    """
    frames, size = 2 * context.plan.frames - 1, context.plan.size
    return read_clips(
        prepared(footage, out=context.out, name="each", frames=frames, size=size, length=frames)
    )


def wanted(context: Context, footage: FootageSet) -> dict[tuple[int, str], Training]:
    """A training on every second frame for each constraint, by rank and scope."""
    plan = context.plan
    data = prepared(footage, out=context.out, name="second", frames=plan.frames, stride=2,
                    size=plan.size, length=2 * plan.frames - 1)  # fmt: skip
    found = {}
    for rank, scope in plan.ranks:
        words = (f"latents.low_rank.rank={rank}", f"latents.low_rank.scope={scope}") if rank else ()
        found[rank, scope] = Training(footage, data, f"rank{rank}-{scope}", (*LAYOUT, *words))
    return found


def _one(context: Context, footage: FootageSet, truth: Clips) -> StageResult:
    names = [video.name for video in truth.manifest.videos]
    real, middle = truth.frames_NTHWC[:, 0::2], truth.frames_NTHWC[:, 1::2]
    found: dict[tuple[int, str, str], float] = {}
    learned: dict[tuple[int, str], np.ndarray] = {}
    pictured, steps, card = None, [], {}
    for (rank, scope), training in wanted(context, footage).items():
        trained = open_run(trainings.trained(context, *training))
        clips = [trained.clip_of_video(name) for name in names]
        learned[rank, scope] = render.render_clips(trained, clips)
        steps += _steps(trained, clips, names, _label(rank, scope))
        card = cards.protocol(trained, videos=f"{len(names)}", definition=cards.PSNR)
        for way in WAYS:
            fake = in_gaps(trained, clips, way)
            found[rank, scope, way] = psnr_of(fake, middle)
            pictured = fake if (rank, scope, way) == JUDGED or pictured is None else pictured
    plain = {
        TRUE: psnr_of(blended(real), middle),
        **{_label(*key): psnr_of(blended(frames), middle) for key, frames in learned.items()},
    }
    own = {key: psnr_of(frames, real) for key, frames in learned.items()}
    assert pictured is not None
    return StageResult(
        (_table(footage, found, plain, own, card),),
        claims_of(footage, found, plain, own),
        (
            _picture(context, footage, names, real, middle, pictured),
            _between(context, footage, steps),
        ),
    )


def in_gaps(run: Run, clips: Sequence[int], way: str) -> np.ndarray:
    """The frames between the learned ones of clips: uint8 (B, T - 1, H, W, 3)."""
    parts = []
    for start in range(0, len(clips), render.CLIPS_AT_ONCE):
        rows = render.rows_of(run, clips[start : start + render.CLIPS_AT_ONCE])
        codes = run.latents(*(torch.as_tensor(row) for row in rows))
        parts.append(to_pixels(generated(run.networks, *codes, way)))
    return np.concatenate(parts)


def _label(rank: int, scope: str) -> str:
    return f"rho = {rank}, {scope}" if rank else "low rank off"


def _table(
    footage: FootageSet,
    found: dict[tuple[int, str, str], float],
    plain: dict[str, float],
    own: dict[tuple[int, str], float],
    card: dict[str, str],
) -> Table:
    lines: list[tuple] = []
    for (rank, scope), value in own.items():
        ways = [f"{found[rank, scope, way]:.2f}" for way in WAYS]
        blend = f"{plain[_label(rank, scope)]:.2f}"
        lines.append((_label(rank, scope), f"{value:.2f}", *ways, blend))
    lines.append(("plain blending of the true neighbours", None, *[None] * len(WAYS),
                  f"{plain[TRUE]:.2f}"))  # fmt: skip
    columns = ("", "learned frames, dB", *(f"in between, {way}, dB" for way in WAYS),
               "blended neighbours, dB")  # fmt: skip
    card = {
        **card,
        "held out": "every second frame or view; figures in between are of all of these",
        "ways": "sequence: z blended, R over the lengthened sequence; step: z blended, one step "
        "of R from the frame before; codes: R's outputs blended",
        "blended neighbours": "pixels of the two generated ones in the rows of models, of the two "
        "true ones in the last row",
        "judged": f"rho = {JUDGED[0]}, {JUDGED[1]}, {JUDGED[2]}, as fixed beforehand; since their "
        f"figures were seen, {SEQUENCE[2]}, which is the paper's way, and low rank against none",
        **ONE_SEED,
    }
    return Table(f"Fig. 7 and 12, interpolation: {footage.name}", columns, tuple(lines), card)


def claims_of(
    footage: FootageSet,
    found: Mapping[tuple[int, str, str], float],
    plain: Mapping[str, float],
    own: Mapping[tuple[int, str], float],
) -> tuple[Claim, ...]:
    """Frames in between against plain blending, in the way fixed beforehand and in the paper's, and
    with low rank against without.

    Args:
        footage: which.
        found: PSNR of frames in between, dB, by rho, scope and way.
        plain: PSNR of blended pixels, dB: of the `TRUE` neighbours, and of those that each training
            generates.
        own: PSNR of the learned frames, dB.
    """
    claims = []
    for key, name in ((JUDGED, "R's outputs blended"), (SEQUENCE, "the paper's way")):
        text = f"{footage.name}: interpolation ({key[2]}: {name}) above blending true neighbours"
        if key not in found:
            claims.append(Claim(text, None, "this variant was left out"))
            continue
        detail = f"{found[key]:.2f} dB against {plain[TRUE]:.2f} dB"
        cause = _why_below(found, plain, own, key)
        claims.append(Claim(text, found[key] > plain[TRUE], detail, cause))
    text = f"{footage.name}: interpolation with rho = {JUDGED[0]} above that without low rank"
    if not {JUDGED, FREE} <= found.keys():
        return (*claims, Claim(text, None, "one of the two was left out"))
    detail = f"{found[JUDGED]:.2f} dB against {found[FREE]:.2f} dB, {JUDGED[2]}, one seed"
    learned = f"{own[JUDGED[:2]]:.2f} dB with it and at {own[FREE[:2]]:.2f} dB without"
    cause = f"not known; learned frames are at {learned}"
    return (*claims, Claim(text, found[JUDGED] > found[FREE], detail, cause))


def _why_below(
    found: Mapping[tuple[int, str, str], float],
    plain: Mapping[str, float],
    own: Mapping[tuple[int, str], float],
    key: tuple[int, str, str],
) -> str:
    """Why frames in between are below blended pixels."""
    value, codes, blend = found[key], found.get(JUDGED, 0.0), plain[_label(*key[:2])]
    if key != JUDGED and codes > value:
        return (
            "R runs over steps half as long as those that it was trained on; its outputs, blended, "
            f"give {codes:.2f} dB in the same run"
        )
    if blend >= plain[TRUE]:
        return (
            f"not the learned frames, whose own blend is at {blend:.2f} dB; why the code in the "
            "middle is not the frame in the middle is not known"
        )
    part = ", which explains a part" if value < blend else ""
    return (
        f"the learned frames beside them are at {own[key[:2]]:.2f} dB themselves, and their own "
        f"blend at {blend:.2f} dB{part}"
    )


def _picture(
    context: Context, footage: FootageSet, names: list[str], real: np.ndarray,
    middle: np.ndarray, fake: np.ndarray,
) -> Picture:  # fmt: skip
    rows = []
    for group, index in enumerate(render.spread(4, len(names))):
        rows += [
            pictures.Row(f"held out: {names[index]}", middle[index], group),
            pictures.Row("in between", fake[index], group),
            pictures.Row("true neighbours blended", blended(real[index : index + 1])[0], group),
        ]
    path = context.picture(f"fig7-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Fig. 7, {footage.name}: held-out frames, generated in between, and plain blending"
    return Picture(title, str(path.relative_to(context.out)))


def _steps(run: Run, clips: Sequence[int], names: list[str], label: str) -> list[pictures.Row]:
    """Of two videos: frames `FIRST` and `LAST`, and those that are generated between them."""
    rows = []
    for index in render.spread(2, len(names)):
        longer = in_between(run, clips[index], first=FIRST, last=LAST, k=BETWEEN)
        shown = longer[FIRST - 1 : FIRST + BETWEEN + 1]
        rows.append(pictures.Row(f"{names[index]}: {label}", shown, index))
    return rows


def _between(context: Context, footage: FootageSet, rows: list[pictures.Row]) -> Picture:
    path = context.picture(f"fig7-between-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(sorted(rows, key=lambda row: row.group)))
    title = (
        f"Fig. 7 and 12, {footage.name}: frames {FIRST} and {LAST}, and {BETWEEN} generated "
        "between them"
    )
    return Picture(title, str(path.relative_to(context.out)))


def count(footage: FootageSet, plan: Plan) -> int:
    """One training for each constraint."""
    return len(plan.ranks)


STAGE = Stage("Fig. 7 and 12: interpolation", count, run, (15.0, 0.0))
