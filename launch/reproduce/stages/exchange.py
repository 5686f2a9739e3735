"""Tab. 3 and Fig. 6: cells of the identity x action matrix held out of training, then generated.

Beyond the paper the generated cells are measured: PSNR and SSIM against the held-out footage under
the best shift in time, beside the best that any window of any training video achieves under the
same shifts; and by classifiers of identity and action that were trained on real clips alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from data_shards.errors import UserError
from launch.reproduce import figures, trainings
from launch.reproduce.classifier import Judge, accuracy, judged, train_judge
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


class CellResult(NamedTuple):
    """One generated cell."""

    name: str
    ours: Shifted
    nearest: Shifted
    person: str
    motion: str
    right: tuple[bool, bool]


class Judges(NamedTuple):
    """Both classifiers, the real clips that they learned from, and their accuracy on real clips of
    the held-out cells."""

    identity: Judge
    action: Judge
    real: Clips
    accuracy: tuple[float, float]


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
    return StageResult(
        (_table(footage, results, judges, _card(trained, truth, judges)),),
        claims_of(footage, results, judges.accuracy, own=own),
        (_picture(context, footage, truth, fake),),
    )


def judges_of(context: Context, footage: FootageSet, same: dict) -> Judges:
    """Trained on all windows of the training cells; accuracy is on those of the held-out ones."""
    data = prepared(footage, name="cells-windows", windows="all", **same)
    real, unseen = read_clips(data, first=False), read_clips(held_out_folder(data), first=False)
    found, shares = [], []
    for kind, table in (("identity", real.manifest.identities), ("action", real.manifest.actions)):
        labels = getattr(real, f"{kind}_N")
        judge = train_judge(
            real.frames_NTHWC, labels, kind, classes=len(table), steps=context.plan.classify_steps
        )
        found.append(judge)
        shares.append(accuracy(judge, unseen.frames_NTHWC, getattr(unseen, f"{kind}_N")))
    return Judges(found[0], found[1], real, (shares[0], shares[1]))


def results_of(fake_NTHWC: np.ndarray, truth: Clips, judges: Judges) -> list[CellResult]:
    """Compare and classify every generated cell."""
    facts, results = truth.manifest, []
    persons, motions = (judged(j, fake_NTHWC) for j in (judges.identity, judges.action))
    for index, video in enumerate(truth.video_N):
        real = truth.frames_NTHWC[index]
        right = (persons[index] == truth.identity_N[index], motions[index] == truth.action_N[index])
        results.append(
            CellResult(
                facts.videos[int(video)].name,
                best_shift(fake_NTHWC[index], real),
                nearest_video(real, judges.real.frames_NTHWC),
                facts.identities[int(persons[index])],
                facts.actions[int(motions[index])],
                (bool(right[0]), bool(right[1])),
            )
        )
    return results


def _card(run: Run, truth: Clips, judges: Judges) -> dict[str, str]:
    cells, windows = len(truth.frames_NTHWC), len(judges.real.frames_NTHWC)
    definition = f"PSNR: {cards.PSNR}; SSIM: {cards.SSIM}"
    return {
        **cards.protocol(run, videos=f"{cells} held-out cells", definition=definition),
        "comparison": f"best shift of at most {MOST} frames, over the frames that overlap",
        "best training video": f"of {windows} windows of the training videos, under the same "
        "shifts; PSNR and SSIM each by themselves",
        "classifiers": "trained on all windows of the real training cells; identity sees frames, "
        "action sees differences of grey frames",
        "their accuracy on real clips of the held-out cells": f"identity {judges.accuracy[0]:.0%}, "
        f"action {judges.accuracy[1]:.0%}",
        "rows": "static by identity, transient by action",
    }


def _table(
    footage: FootageSet, results: list[CellResult], judges: Judges, card: dict[str, str]
) -> Table:
    marks = {True: "yes", False: "no"}
    lines = [
        (
            r.name, f"{r.ours.psnr:.2f}", f"{r.ours.ssim:.3f}", f"{r.nearest.psnr:.2f}",
            f"{r.nearest.ssim:.3f}", f"{r.person}, {r.motion}",
            f"{marks[r.right[0]]}, {marks[r.right[1]]}",
        )
        for r in results
    ]  # fmt: skip
    means = [float(np.mean([getattr(getattr(r, who), what) for r in results]))
             for who in ("ours", "nearest") for what in ("psnr", "ssim")]  # fmt: skip
    lines.append(
        ("mean", f"{means[0]:.2f}", f"{means[1]:.3f}", f"{means[2]:.2f}", f"{means[3]:.3f}", "",
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
    """The right person with the right action in five of six; on synthetic footage 3 dB above the
    best training video.

    Args:
        footage: which.
        results: of every held-out cell.
        accuracy: of the classifiers of identity and action on real clips of these cells.
        own: PSNR of the training videos, dB.
    """
    need = -(-5 * len(results) // 6)
    claims = [
        Claim(
            f"{footage.name}: the right person and action in at least {need} of {len(results)} "
            "cells",
            sum(all(r.right) for r in results) >= need,
            _counted(results),
            _why_wrong(footage, accuracy, own),
        )
    ]
    if not footage.root:
        gain = float(np.mean([r.ours.psnr - r.nearest.psnr for r in results]))
        claims.append(
            Claim(
                f"{footage.name}: PSNR at least 3 dB above the best training video's",
                gain >= 3,
                f"{gain:+.2f} dB on average",
                f"too short a training: its own videos are at {own:.1f} dB",
            )
        )
    return tuple(claims)


def _why_wrong(footage: FootageSet, accuracy: tuple[float, float], own: float) -> str:
    """Why cells are taken for others."""
    for what, share in zip(("identity", "action"), accuracy, strict=True):
        if share < 1:
            return f"the {what} classifier is right on {share:.0%} of real clips of these cells"
    sound = "not the classifiers, which are right on all real clips of these cells"
    if not footage.root:
        return f"{sound}: too short a training, whose own videos are at {own:.1f} dB"
    return (
        f"{sound}: people share the row of an action and are not in phase, so that one motion "
        f"stands for all of them, blurred; training videos are at {own:.1f} dB themselves"
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
