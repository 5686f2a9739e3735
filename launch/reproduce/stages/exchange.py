"""Tab. 3 and Fig. 6: cells of the identity x action matrix held out of training, then generated.

Beyond the paper the generated cells are measured: PSNR and SSIM against the held-out footage under
the best shift in time, beside the best that any window of any training video achieves under the
same shifts; and by classifiers of identity and action that were trained on real clips alone, beside
their ratings of reference videos. One training for each seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_shards.errors import UserError
from launch.reproduce import figures, over_seeds, trainings
from launch.reproduce.context import (
    Claim,
    Context,
    Picture,
    Stage,
    StageResult,
    Table,
    merged,
    seeds_on,
)
from launch.reproduce.footage import (
    Clips,
    FootageSet,
    cells_of,
    held_out_folder,
    manifest_of,
    prepared,
    read_clips,
)
from launch.reproduce.judges import Judges, judges_of, labels_of, ratings
from launch.reproduce.over_seeds import compared, shown
from launch.reproduce.planner import Plan
from launch.reproduce.shifts import MOST, Shifted, best_shift, nearest_video
from launch.reproduce.trainings import Training
from trainer import cards, pictures, render
from trainer.run import Run, open_run

LAYOUT = ("latents.static_key=identity", "latents.transient_key=action")
COLUMNS = (
    "held-out cell", "PSNR, dB", "SSIM", "best training video: PSNR, dB", "best: SSIM",
    "classified as", "right",
)  # fmt: skip
RATED = "cells of which the classifiers name the right person and the right action"
BLURRED = (
    "nearer to the truth in squared error and not in structure, as blurred frames are; the best "
    "training video is chosen by the truth, out of real ones that are sharp"
)


class CellResult(NamedTuple):
    """One cell as one training generates it."""

    name: str
    ours: Shifted
    nearest: Shifted
    person: str
    motion: str
    right: tuple[bool, bool]


def run(context: Context) -> StageResult:
    """Every data set that has a matrix."""
    results, able = [], []
    for footage in (footage for footage in context.sets if footage.held_out):
        try:
            able.append((footage, wanted(context, footage)))
        except UserError as error:
            results.append(StageResult(notes=(f"{footage.name}: no exchange: {error}",)))
    trainings.train(context, [training for _, several in able for training in several])
    return merged([*results, *(_one(context, footage) for footage, _ in able)])


def _same(context: Context, footage: FootageSet) -> dict[str, Any]:
    """How the set is prepared: the same cells held out each time."""
    plan = context.plan
    everything = manifest_of(trainings.whole_set(context, footage))
    cells = cells_of(everything, footage.held_out)
    if not cells:
        raise UserError(f"{footage.name}: has no cell to hold out; its videos need labels")
    return {"out": context.out, "frames": plan.frames, "size": plan.size, "hold_out": cells}


def wanted(context: Context, footage: FootageSet) -> list[Training]:
    """The trainings without the held-out cells, by seed."""
    data = prepared(footage, name="cells", **_same(context, footage))
    return [
        Training(footage, data, "cells", LAYOUT, seed) for seed in trainings.seeds(context, footage)
    ]


def _one(context: Context, footage: FootageSet) -> StageResult:
    several = wanted(context, footage)
    judges = judges_of(context, footage, _same(context, footage))
    runs = [open_run(folder) for folder in trainings.train(context, several)]
    truth = read_clips(held_out_folder(several[0].data))
    best = [nearest_video(real, judges.real.frames_NTHWC) for real in truth.frames_NTHWC]
    fakes = [render.render(run, truth.identity_N, truth.action_N) for run in runs]
    results = [results_of(fake, truth, judges, best) for fake in fakes]
    own = [_own(context, run) for run in runs]
    card = _card(context, footage, runs, truth, judges)
    table = _table(footage, results, {**card, **_compared(judges, len(runs))})
    return StageResult(
        (table, ratings(footage, fakes, truth, judges, card)),
        claims_of(footage, results, judges.accuracy, own=float(np.mean(own))),
        (_picture(context, footage, truth, fakes[0]),),
    )


def _own(context: Context, run: Run) -> float:
    """PSNR of the training videos, dB."""
    clips = figures.scored_clips(run, context.plan.videos)
    return figures.psnr_of(render.render_clips(run, clips), render.real_clips(run, clips))


def results_of(
    fake_NTHWC: np.ndarray, truth: Clips, judges: Judges, best: Sequence[Shifted]
) -> list[CellResult]:
    """Compare and classify every cell that a training generates; `best`: what the best training
    video achieves for each."""
    facts, results = truth.manifest, []
    labels = labels_of(judges, fake_NTHWC)
    right = labels.right(truth)
    for index, video in enumerate(truth.video_N):
        results.append(
            CellResult(
                facts.videos[int(video)].name,
                best_shift(fake_NTHWC[index], truth.frames_NTHWC[index]),
                best[index],
                facts.identities[int(labels.identity_N[index])],
                facts.actions[int(labels.action_N[index])],
                (bool(right[index, 0]), bool(right[index, 1])),
            )
        )
    return results


def _card(
    context: Context, footage: FootageSet, runs: Sequence[Run], truth: Clips, judges: Judges
) -> dict[str, str]:
    seen = f"{len(truth.frames_NTHWC)} held-out cells"
    return {
        **cards.shared([cards.protocol(run, videos=seen, definition=RATED) for run in runs]),
        "classifiers": "trained on all windows of the real training cells; identity sees frames, "
        "action sees differences of grey frames",
        "their accuracy on real clips of the held-out cells": f"identity {judges.accuracy[0]:.0%}, "
        f"action {judges.accuracy[1]:.0%}",
        "rows": "static by identity, transient by action",
        **over_seeds.length_card(context, footage, runs),
        **over_seeds.seeds_card(len(runs)),
    }


def _compared(judges: Judges, seeds: int) -> dict[str, str]:
    """What the card of PSNR and SSIM says besides."""
    windows = len(judges.real.frames_NTHWC)
    several = {"classified as, right": "by seed, in their order"} if seeds > 1 else {}
    return {
        "definition": f"PSNR: {cards.PSNR}; SSIM: {cards.SSIM}",
        "comparison": f"best shift of at most {MOST} frames, over the frames that overlap",
        "best training video": f"of {windows} windows of the training videos, under the same "
        "shifts; PSNR and SSIM each by themselves",
        **several,
    }


def _table(
    footage: FootageSet, results: Sequence[Sequence[CellResult]], card: dict[str, str]
) -> Table:
    """A line for each cell and their mean; `results` are by seed."""
    marks = {True: "yes", False: "no"}
    lines = []
    for cell in zip(*results, strict=True):
        near = cell[0].nearest
        lines.append(
            (
                cell[0].name, shown([r.ours.psnr for r in cell]),
                shown([r.ours.ssim for r in cell], digits=3), f"{near.psnr:.2f}",
                f"{near.ssim:.3f}", " / ".join(f"{r.person}, {r.motion}" for r in cell),
                " / ".join(f"{marks[r.right[0]]}, {marks[r.right[1]]}" for r in cell),
            )
        )  # fmt: skip
    psnr, best_psnr, ssim, best_ssim = means_of(results)
    lines.append(
        ("mean", shown(psnr), shown(ssim, digits=3), f"{best_psnr:.2f}", f"{best_ssim:.3f}", "",
         _counted(results))
    )  # fmt: skip
    return Table(f"Tab. 3 and Fig. 6, action exchange: {footage.name}", COLUMNS, tuple(lines), card)


def _counted(results: Sequence[Sequence[CellResult]]) -> str:
    """How many cells are right with each seed, in words."""
    told = []
    for cells in results:
        person, motion = (sum(r.right[i] for r in cells) for i in (0, 1))
        both = sum(all(r.right) for r in cells)
        told.append(f"{both} of {len(cells)}: person {person}, action {motion}")
    return " / ".join(told)


def claims_of(
    footage: FootageSet,
    results: Sequence[Sequence[CellResult]],
    accuracy: tuple[float, float],
    *,
    own: float,
) -> tuple[Claim, ...]:
    """The right person with the right action in five of six cells with each seed; mean PSNR and
    SSIM above those of the best training video, PSNR on synthetic footage by 3 dB.

    Args:
        footage: which.
        results: of every held-out cell, by seed.
        accuracy: of the classifiers of identity and action on real clips of these cells.
        own: PSNR of the training videos, dB.
    """
    count, seeds = len(results[0]), len(results)
    need = -(-5 * count // 6)
    psnr, best_psnr, ssim, best_ssim = means_of(results)
    asked = 0 if footage.root else 3
    nearer = over_seeds.above(psnr, best_psnr)
    each = f" with each of {seeds} seeds" if seeds > 1 else ""
    much = "at least 3 dB above" if asked else "above"
    return (
        Claim(
            f"{footage.name}: the right person and action in at least {need} of {count} cells"
            + each,
            all(sum(all(r.right) for r in cells) >= need for cells in results),
            _counted(results) + ("" if each else f"; {over_seeds.ONE}"),
            _why_wrong(accuracy, own),
        ),
        compared(
            f"{footage.name}: PSNR of the cells {much} the best training video's",
            psnr, best_psnr, by=asked, about=" on average", cause=_why_far(own, best_psnr + asked),
        ),
        compared(
            f"{footage.name}: SSIM of the cells above the best training video's",
            ssim, best_ssim, digits=3, unit="", about=" on average",
            cause=BLURRED if nearer else _why_far(own, best_psnr),
        ),
    )  # fmt: skip


def means_of(
    results: Sequence[Sequence[CellResult]],
) -> tuple[list[float], float, list[float], float]:
    """Over cells: PSNR of ours by seed and of the best training videos, SSIM of both."""
    psnr, ssim = (
        [float(np.mean([getattr(r.ours, what) for r in cells])) for cells in results]
        for what in ("psnr", "ssim")
    )
    best_psnr, best_ssim = (
        float(np.mean([getattr(r.nearest, what) for r in results[0]])) for what in ("psnr", "ssim")
    )
    return psnr, best_psnr, ssim, best_ssim


def _why_wrong(accuracy: tuple[float, float], own: float) -> str:
    """Why cells are taken for others."""
    for what, share in zip(("identity", "action"), accuracy, strict=True):
        if share < 1:
            return f"the {what} classifier is right on {share:.0%} of real clips of these cells"
    return (
        "not the classifiers, which are right on all real clips of these cells; training videos of "
        f"the same rows are at {own:.1f} dB, so it is in combining them that something is lost"
    )


def _why_far(own: float, asked: float) -> str:
    """Why cells are not as near to the truth as is asked, dB."""
    if own < asked:
        return f"too short a training: its own videos are at {own:.1f} dB, below {asked:.1f}"
    return (
        f"training videos of the same rows are at {own:.1f} dB, so it is in combining them that "
        "something is lost"
    )


def _picture(context: Context, footage: FootageSet, truth: Clips, fake: np.ndarray) -> Picture:
    names = [truth.manifest.videos[int(v)].name for v in truth.video_N][:8]
    rows = pictures.real_above_generated(names, truth.frames_NTHWC[:8], fake[:8])
    path = context.picture(f"fig6-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Fig. 6, {footage.name}: held-out cells, footage above what was generated"
    return Picture(title, str(path.relative_to(context.out)))


def count(footage: FootageSet, plan: Plan) -> int:
    """One training for each seed of a set with a matrix."""
    return seeds_on(footage, plan) if footage.held_out else 0


STAGE = Stage("Tab. 3 and Fig. 6: action exchange", count, run, (15.0, 3.0))
