"""Tab. 3 and Fig. 6: cells of the identity x action matrix held out of training, then generated.

Beyond the paper the generated cells are measured: PSNR and SSIM against the held-out footage under
the best shift in time, beside the best that any window of any training video achieves under the
same shifts; and by classifiers of identity and action that were trained on real clips alone, beside
their ratings of reference videos.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from data_shards.errors import UserError
from launch.reproduce import figures, trainings
from launch.reproduce.context import Claim, Context, Picture, Stage, StageResult, Table, merged
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
    """One generated cell."""

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
    trainings.train(context, [training for _, training in able])
    return merged([*results, *(_one(context, footage) for footage, _ in able)])


def _same(context: Context, footage: FootageSet) -> dict[str, Any]:
    """How the set is prepared: the same cells held out each time."""
    plan = context.plan
    everything = manifest_of(trainings.whole_set(context, footage))
    cells = cells_of(everything, footage.held_out)
    if not cells:
        raise UserError(f"{footage.name}: has no cell to hold out; its videos need labels")
    return {"out": context.out, "frames": plan.frames, "size": plan.size, "hold_out": cells}


def wanted(context: Context, footage: FootageSet) -> Training:
    """The training without the held-out cells."""
    data = prepared(footage, name="cells", **_same(context, footage))
    return Training(footage, data, "cells", LAYOUT)


def _one(context: Context, footage: FootageSet) -> StageResult:
    training = wanted(context, footage)
    data = training.data
    judges = judges_of(context, footage, _same(context, footage))
    trained = open_run(trainings.trained(context, *training))
    truth = read_clips(held_out_folder(data))
    fake = render.render(trained, truth.identity_N, truth.action_N)
    results = results_of(fake, truth, judges)
    clips = figures.scored_clips(trained, context.plan.videos)
    own = figures.psnr_of(render.render_clips(trained, clips), render.real_clips(trained, clips))
    card = _card(trained, truth, judges)
    table = _table(footage, results, {**card, **_compared(judges)})
    return StageResult(
        (table, ratings(footage, fake, truth, judges, card)),
        claims_of(footage, results, judges.accuracy, own=own),
        (_picture(context, footage, truth, fake),),
    )


def results_of(fake_NTHWC: np.ndarray, truth: Clips, judges: Judges) -> list[CellResult]:
    """Compare and classify every generated cell."""
    facts, results = truth.manifest, []
    labels = labels_of(judges, fake_NTHWC)
    right = labels.right(truth)
    for index, video in enumerate(truth.video_N):
        real = truth.frames_NTHWC[index]
        results.append(
            CellResult(
                facts.videos[int(video)].name,
                best_shift(fake_NTHWC[index], real),
                nearest_video(real, judges.real.frames_NTHWC),
                facts.identities[int(labels.identity_N[index])],
                facts.actions[int(labels.action_N[index])],
                (bool(right[index, 0]), bool(right[index, 1])),
            )
        )
    return results


def _card(run: Run, truth: Clips, judges: Judges) -> dict[str, str]:
    seen = f"{len(truth.frames_NTHWC)} held-out cells"
    return {
        **cards.protocol(run, videos=seen, definition=RATED),
        "classifiers": "trained on all windows of the real training cells; identity sees frames, "
        "action sees differences of grey frames",
        "their accuracy on real clips of the held-out cells": f"identity {judges.accuracy[0]:.0%}, "
        f"action {judges.accuracy[1]:.0%}",
        "rows": "static by identity, transient by action",
        **figures.ONE_SEED,
    }


def _compared(judges: Judges) -> dict[str, str]:
    """What the card of PSNR and SSIM says besides."""
    windows = len(judges.real.frames_NTHWC)
    return {
        "definition": f"PSNR: {cards.PSNR}; SSIM: {cards.SSIM}",
        "comparison": f"best shift of at most {MOST} frames, over the frames that overlap",
        "best training video": f"of {windows} windows of the training videos, under the same "
        "shifts; PSNR and SSIM each by themselves",
    }


def _table(footage: FootageSet, results: list[CellResult], card: dict[str, str]) -> Table:
    marks = {True: "yes", False: "no"}
    lines = [
        (
            r.name, f"{r.ours.psnr:.2f}", f"{r.ours.ssim:.3f}", f"{r.nearest.psnr:.2f}",
            f"{r.nearest.ssim:.3f}", f"{r.person}, {r.motion}",
            f"{marks[r.right[0]]}, {marks[r.right[1]]}",
        )
        for r in results
    ]  # fmt: skip
    psnr, best_psnr, ssim, best_ssim = means_of(results)
    lines.append(
        ("mean", f"{psnr:.2f}", f"{ssim:.3f}", f"{best_psnr:.2f}", f"{best_ssim:.3f}", "",
         _counted(results))
    )  # fmt: skip
    return Table(f"Tab. 3 and Fig. 6, action exchange: {footage.name}", COLUMNS, tuple(lines), card)


def _counted(results: list[CellResult]) -> str:
    """How many cells are right, in words."""
    person, motion = (sum(r.right[i] for r in results) for i in (0, 1))
    both = sum(all(r.right) for r in results)
    return f"{both} of {len(results)}: person {person}, action {motion}"


def claims_of(
    footage: FootageSet, results: list[CellResult], accuracy: tuple[float, float], *, own: float
) -> tuple[Claim, ...]:
    """The right person with the right action in five of six; PSNR and SSIM above those of the best
    training video, PSNR on synthetic footage by 3 dB.

    Args:
        footage: which.
        results: of every held-out cell.
        accuracy: of the classifiers of identity and action on real clips of these cells.
        own: PSNR of the training videos, dB.
    """
    need = -(-5 * len(results) // 6)
    psnr, best_psnr, ssim, best_ssim = means_of(results)
    asked = 0 if footage.root else 3
    return (
        Claim(
            f"{footage.name}: the right person and action in at least {need} of {len(results)} "
            "cells",
            sum(all(r.right) for r in results) >= need,
            _counted(results),
            _why_wrong(accuracy, own),
        ),
        Claim(
            f"{footage.name}: PSNR of the cells at least 3 dB above the best training video's"
            if asked
            else f"{footage.name}: PSNR of the cells above the best training video's",
            psnr - best_psnr >= asked and psnr > best_psnr,
            f"{psnr:.2f} dB against {best_psnr:.2f} dB on average",
            _why_far(own, best_psnr + asked),
        ),
        Claim(
            f"{footage.name}: SSIM of the cells above the best training video's",
            ssim > best_ssim,
            f"{ssim:.3f} against {best_ssim:.3f} on average",
            BLURRED if psnr > best_psnr else _why_far(own, best_psnr),
        ),
    )


def means_of(results: list[CellResult]) -> tuple[float, float, float, float]:
    """Over cells: PSNR of ours and of the best training videos, SSIM of both."""
    psnr, best_psnr, ssim, best_ssim = (
        float(np.mean([getattr(getattr(r, who), what) for r in results]))
        for what in ("psnr", "ssim") for who in ("ours", "nearest")
    )  # fmt: skip
    return psnr, best_psnr, ssim, best_ssim


def _why_wrong(accuracy: tuple[float, float], own: float) -> str:
    """Why cells are taken for others."""
    for what, share in zip(("identity", "action"), accuracy, strict=True):
        if share < 1:
            return f"the {what} classifier is right on {share:.0%} of real clips of these cells"
    return (
        "not the classifiers, which are right on all real clips of these cells; training videos of "
        f"the same rows are at {own:.1f} dB, and what is lost in combining them is not known"
    )


def _why_far(own: float, asked: float) -> str:
    """Why cells are not as near to the truth as is asked, dB."""
    if own < asked:
        return f"too short a training: its own videos are at {own:.1f} dB, below {asked:.1f}"
    return (
        f"not known; training videos of the same rows are at {own:.1f} dB, so it is in combining "
        "them that something is lost"
    )


def _picture(context: Context, footage: FootageSet, truth: Clips, fake: np.ndarray) -> Picture:
    names = [truth.manifest.videos[int(v)].name for v in truth.video_N][:8]
    rows = pictures.real_above_generated(names, truth.frames_NTHWC[:8], fake[:8])
    path = context.picture(f"fig6-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Fig. 6, {footage.name}: held-out cells, footage above what was generated"
    return Picture(title, str(path.relative_to(context.out)))


def count(footage: FootageSet, plan: Plan) -> int:
    """One training of a set with a matrix."""
    return int(bool(footage.held_out))


STAGE = Stage("Tab. 3 and Fig. 6: action exchange", count, run, (35.0, 0.0))
