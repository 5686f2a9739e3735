"""Fig. 7 and 12, measured: every second frame is held out and generated from its neighbours.

Trained on every second view or frame, with the low-rank constraint off, rho = 2 and rho = 10, per
clip and over the whole dictionary (Eq. 7). `JUDGED` was fixed beforehand. The paper's own way, what
the low rank is worth and the paper's order of ranks are judged, too, since their figures were seen.
Constraints that are judged are trained with every seed, the others with one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from data_shards.errors import UserError
from launch.reproduce import over_seeds, trainings
from launch.reproduce.blending import WAYS, blended, generated
from launch.reproduce.context import (
    Context,
    Picture,
    Stage,
    StageResult,
    Table,
    merged,
    seeds_on,
)
from launch.reproduce.figures import psnr_of
from launch.reproduce.footage import Clips, FootageSet, prepared, read_clips
from launch.reproduce.interpolated import (
    JUDGED,
    LOWER,
    REPEATED,
    SEQUENCE,
    Between,
    Constraint,
    claims_of,
)
from launch.reproduce.over_seeds import shown
from launch.reproduce.planner import Plan
from launch.reproduce.trainings import Training
from trainer import cards, pictures, render
from trainer.generate import in_between
from trainer.pictures import to_pixels
from trainer.run import Run, open_run

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
    trainings.train(
        context,
        [
            one
            for footage, _ in able
            for several in wanted(context, footage).values()
            for one in several
        ],
    )
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


def seeds_of(footage: FootageSet, plan: Plan, constraint: Constraint) -> int:
    """With how many seeds a constraint is trained on a data set."""
    return seeds_on(footage, plan) if constraint in REPEATED else 1


def wanted(context: Context, footage: FootageSet) -> dict[Constraint, list[Training]]:
    """Trainings on every second frame under each constraint, by seed."""
    plan = context.plan
    data = prepared(footage, out=context.out, name="second", frames=plan.frames, stride=2,
                    size=plan.size, length=2 * plan.frames - 1)  # fmt: skip
    found = {}
    for rank, scope in plan.ranks:
        words = (f"latents.low_rank.rank={rank}", f"latents.low_rank.scope={scope}") if rank else ()
        found[rank, scope] = [
            Training(footage, data, f"rank{rank}-{scope}", (*LAYOUT, *words), seed)
            for seed in range(seeds_of(footage, plan, (rank, scope)))
        ]
    return found


def _one(context: Context, footage: FootageSet, truth: Clips) -> StageResult:
    names = [video.name for video in truth.manifest.videos]
    real, middle = truth.frames_NTHWC[:, 0::2], truth.frames_NTHWC[:, 1::2]
    found, own, blends, taken = {}, {}, {}, {}
    pictured, steps, every = None, [], []
    runs: dict[Constraint, list[Run]] = {}
    for key, several in wanted(context, footage).items():
        runs[key] = [open_run(folder) for folder in trainings.train(context, several)]
        for number, run in enumerate(runs[key]):
            clips = [run.clip_of_video(name) for name in names]
            learned = render.render_clips(run, clips)
            own.setdefault(key, []).append(psnr_of(learned, real))
            taken.setdefault(key, []).append(run.step)
            blends.setdefault(key, []).append(psnr_of(blended(learned), middle))
            every.append(cards.protocol(run, videos=f"{len(names)}", definition=cards.PSNR))
            steps += [] if number else _steps(run, clips, names, _label(*key))
            for way in WAYS:
                fake = in_gaps(run, clips, way)
                found.setdefault((*key, way), []).append(psnr_of(fake, middle))
                if not number and ((*key, way) == JUDGED or pictured is None):
                    pictured = fake
    assert pictured is not None
    between = Between(found, psnr_of(blended(real), middle), blends, own, taken)
    card = {**cards.shared(every), **_card(context, footage, runs)}
    return StageResult(
        (_table(footage, between, card),),
        claims_of(footage, between),
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


def _card(
    context: Context, footage: FootageSet, runs: dict[Constraint, list[Run]]
) -> dict[str, str]:
    """What the card says besides the protocol of the footage."""
    most = max(map(len, runs.values()))
    once = [_label(*key) for key, several in runs.items() if len(several) < most]
    seeds = over_seeds.seeds_card(most)["seeds"] + (f"; one of {', '.join(once)}" if once else "")
    return {
        "held out": "every second frame or view; figures in between are of all of these",
        "ways": "sequence: z blended, R over the lengthened sequence; step: z blended, one step "
        "of R from the frame before; codes: R's outputs blended",
        "blended neighbours": "pixels of the two generated ones in the rows of models, of the two "
        "true ones in the last row",
        "judged": f"rho = {JUDGED[0]}, {JUDGED[1]}, {JUDGED[2]}, as fixed beforehand; since their "
        f"figures were seen, {SEQUENCE[2]}, which is the paper's way, low rank against none, and "
        f"rho = {SEQUENCE[0]} against rho = {LOWER[0]}",
        **over_seeds.length_card(
            context, footage, [run for runs_ in runs.values() for run in runs_]
        ),
        "seeds": seeds,
    }


def _table(footage: FootageSet, between: Between, card: dict[str, str]) -> Table:
    lines: list[tuple] = []
    for key, own in between.own.items():
        ways = [shown(between.found[*key, way]) for way in WAYS]
        steps = f"{np.mean(between.steps[key]):.0f}"
        lines.append((_label(*key), shown(own), *ways, shown(between.blends[key]), steps))
    blank = [None] * (1 + len(WAYS))
    lines.append(("plain blending of the true neighbours", *blank, f"{between.true:.2f}", None))
    columns = ("", "learned frames, dB", *(f"in between, {way}, dB" for way in WAYS),
               "blended neighbours, dB", "steps")  # fmt: skip
    return Table(f"Fig. 7 and 12, interpolation: {footage.name}", columns, tuple(lines), card)


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
    """One training for each constraint, and for each seed of those that are judged."""
    return sum(seeds_of(footage, plan, key) for key in plan.ranks)


STAGE = Stage("Fig. 7 and 12: interpolation", count, run, (10.0, 3.0))
