"""Tab. 3 and Fig. 6: cells of the identity x action matrix held out of training, then generated.

Beyond the paper the generated cells are measured: PSNR and SSIM against the held-out footage under
the best shift in time, beside the training video that comes nearest to it under the same shifts;
and by classifiers of identity and action that were trained on real clips alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from data_shards.errors import UserError
from launch.reproduce import trainings
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
from trainer import pictures, render
from trainer.run import open_run

LAYOUT = ("latents.static_key=identity", "latents.transient_key=action")
COLUMNS = (
    "held-out cell", "PSNR, dB", "SSIM", "nearest training video: PSNR, dB", "its SSIM",
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
    """Both classifiers with their accuracy on real clips of the held-out cells."""

    identity: Judge
    action: Judge
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
    others = read_clips(data)
    fake = render.render(trained, truth.identity_N, truth.action_N)
    results = results_of(fake, truth, others, judges)
    picture = _picture(context, footage, truth, fake)
    return StageResult(
        (_table(footage, results, judges, len(others.frames_NTHWC)),),
        claims_of(footage, results, judges),
        (picture,),
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
    return Judges(found[0], found[1], (shares[0], shares[1]))


def results_of(
    fake_NTHWC: np.ndarray, truth: Clips, others: Clips, judges: Judges
) -> list[CellResult]:
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
                nearest_video(real, others.frames_NTHWC),
                facts.identities[int(persons[index])],
                facts.actions[int(motions[index])],
                (bool(right[0]), bool(right[1])),
            )
        )
    return results


def _table(footage: FootageSet, results: list[CellResult], judges: Judges, trained: int) -> Table:
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
    right = [sum(r.right[i] for r in results) for i in (0, 1)]
    lines.append(
        ("mean", f"{means[0]:.2f}", f"{means[1]:.3f}", f"{means[2]:.2f}", f"{means[3]:.3f}", "",
         f"{right[0]} and {right[1]} of {len(results)}")
    )  # fmt: skip
    card = {
        "comparison": f"best shift of at most {MOST} frames, over the frames that overlap",
        "nearest": f"of {trained} training videos, under the same shifts",
        "classifiers": "trained on all windows of the real training cells; identity sees frames, "
        "action sees differences of grey frames",
        "their accuracy on real clips of the held-out cells": f"identity {judges.accuracy[0]:.0%}, "
        f"action {judges.accuracy[1]:.0%}",
        "rows": "static by identity, transient by action",
    }
    return Table(f"Tab. 3 and Fig. 6, action exchange: {footage.name}", COLUMNS, tuple(lines), card)


def claims_of(footage: FootageSet, results: list[CellResult], judges: Judges) -> tuple[Claim, ...]:
    """The right person and motion in five of six; on synthetic footage 3 dB above the nearest."""
    need = -(-5 * len(results) // 6)
    claims = []
    for index, what in enumerate(("person", "action")):
        right = sum(r.right[index] for r in results)
        claims.append(
            Claim(
                f"{footage.name}: the right {what} in at least {need} of {len(results)} cells",
                right >= need,
                f"{right} of {len(results)}",
                _why_wrong(footage, judges.accuracy[index]),
            )
        )
    if not footage.root:
        gain = float(np.mean([r.ours.psnr - r.nearest.psnr for r in results]))
        claims.append(
            Claim(
                f"{footage.name}: PSNR at least 3 dB above the nearest training video's",
                gain >= 3,
                f"{gain:+.2f} dB on average",
            )
        )
    return tuple(claims)


def _why_wrong(footage: FootageSet, accuracy: float) -> str:
    """Why cells are taken for others."""
    if accuracy < 1:
        return f"the classifier itself is right on {accuracy:.0%} of the real clips of these cells"
    sound = "not the classifier, which is right on all real clips of these cells"
    if not footage.root:
        return f"{sound}: too short a training"
    return (
        f"{sound}: people share the row of an action and are not in phase, so that one motion "
        "stands for all of them, blurred"
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
