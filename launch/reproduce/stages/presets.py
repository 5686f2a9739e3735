"""Tab. 6 to the letter, beside the presets that are used elsewhere, under a budget for the same
minutes.

The paper's rates and schedule (`*_paper`), on Weizmann with its random windows and its generator
that is told identity and action (Sec. 4.2); and that generator with the rates that are used
elsewhere. All are measured on the same clips. In a short budget Tab. 6 does not get to see every
video once; then its figures are printed, and nothing is claimed of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from data_shards.errors import UserError
from launch.reproduce import figures, trainings
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Stage,
    StageResult,
    Table,
    mean_std,
    merged,
    models,
)
from launch.reproduce.figures import BOUND, Figures
from launch.reproduce.footage import FootageSet, prepared
from launch.reproduce.over_seeds import ONE
from launch.reproduce.planner import Plan
from launch.reproduce.trainings import Training
from trainer import render, schedule
from trainer.run import Run, open_run

USED, TOLD, EXACT = "preset used elsewhere", "the same, told labels", "Tab. 6 to the letter"
DCGAN = ("networks.channels=64",)
"""The paper's width, whatever the budget gives the other trainings."""
LENGTHS = {True: "in the same minutes", False: "each as long as its preset says"}
"""Of the trainings, by whether the plan gives minutes."""
COLUMNS = ("", *figures.COLUMNS, "PSNR, dB", "SSIM", "passes", "videos seen", "minutes", "steps")


class Trial(NamedTuple):
    """A training of one of the rows, and what it came to."""

    figures: Figures
    steps: int
    minutes: float
    passes: float
    """Over the training clips."""
    seen: str
    """How many of the videos it was shown, in words."""
    channels: int
    regression: str


def run(context: Context) -> StageResult:
    """All trainings, then every data set that the paper has. One that fails under the paper's own
    rates is told and leaves the others their rows."""
    sets = [footage for footage in context.sets if footage.paper]
    if not sets:
        return StageResult(notes=("none of the paper's data sets is there",))
    rows = {footage.name: wanted(context, footage) for footage in sets}
    failed: dict[Training, str] = {}

    def attempt(name: str, one: Training) -> None:
        try:
            trainings.train(context, [one])
        except UserError as error:
            if name != EXACT:
                raise
            failed[one] = str(error)

    tasks = [partial(attempt, *pair) for named in rows.values() for pair in named.items()]
    trainings.at_once(tasks, jobs=context.plan.jobs)
    return merged([_one(context, footage, rows[footage.name], failed) for footage in sets])


def wanted(context: Context, footage: FootageSet) -> dict[str, Training]:
    """Rows of a data set's table: the full model of the ablation first."""
    found = {USED: trainings.full_models(context, footage)[0]}
    data = found[USED].data
    if footage.held_out:
        plan = context.plan
        same = {"out": context.out, "frames": plan.frames, "size": plan.size}
        words = ("networks.generator=conditional",)
        found[TOLD] = Training(footage, data, "told", words)
        data = prepared(footage, name="whole", windows="whole", **same)
    exact = replace(footage, preset=f"{footage.paper}_paper")
    return {**found, EXACT: Training(exact, data, "tab6", DCGAN)}


def _one(
    context: Context, footage: FootageSet, rows: Mapping[str, Training],
    failed: Mapping[Training, str],
) -> StageResult:  # fmt: skip
    found: dict[str, Trial] = {}
    truth = card = None
    for name, training in rows.items():
        if training in failed:
            continue
        trained = open_run(trainings.trained(context, *training))
        clips = figures.scored_clips(trained, context.plan.videos)
        shown = render.real_clips(trained, clips)
        if truth is None:
            seen = f"{len(clips)} of {len(trained.manifest.videos)}"
            truth = figures.truth_of(shown, vgg=context.vgg)
            card = figures.card(trained, videos=seen, vgg=context.vgg, columns=COLUMNS)
        assert np.array_equal(truth.videos_BTHWC, shown), name  # of whole videos the first T frames
        found[name] = trial_of(trained, figures.measure(render.render_clips(trained, clips), truth))
    notes = tuple(f"{footage.name}: {name}: {failed[one]}" for name, one in rows.items()
                  if one in failed)  # fmt: skip
    if truth is None or card is None:
        return StageResult(notes=notes)
    references = figures.references(truth)
    timed = context.plan.minutes is not None
    table = table_of(footage, references, found, {**card, **_told(rows, found, timed=timed)})
    return StageResult((table,), claims_of(footage, found, timed=timed), (), notes)


def trial_of(run: Run, measured: Figures) -> Trial:
    """A finished training with its figures; its set has one clip of each video."""
    pace = schedule.pace(run.config.schedule)
    begun = -(-run.step // pace.visit_steps) * pace.clips  # the last visit may not be complete
    videos = run.manifest.clips
    return Trial(
        measured, run.step, trainings.minutes_of(run),
        run.step / pace.visit_steps * pace.clips / videos,
        f"{min(begun, videos)} of {videos}", run.config.networks.channels,
        run.config.loss.regression,
    )  # fmt: skip


def table_of(
    footage: FootageSet, references: Mapping[str, Figures], found: Mapping[str, Trial],
    card: dict[str, str],
) -> Table:  # fmt: skip
    """Reference rows and trainings of a data set, under one protocol."""

    def line(name: str, one: Figures, *length: Cell) -> tuple[Cell, ...]:
        psnr = mean_std([x for x in (one.psnr,) if x is not None], digits=2)
        ssim = mean_std([x for x in (one.ssim,) if x is not None])
        return (name, *figures.cells([one], references[BOUND].fcs), psnr, ssim, *length)

    lines = [line(name, one, None, None, None, None) for name, one in references.items()]
    lines += [
        line(name, one.figures, _passes(one), one.seen, f"{one.minutes:.2f}", one.steps)
        for name, one in found.items()
    ]
    note = figures.ahead(references, USED, [found[USED].figures], columns=COLUMNS)
    title = f"Tab. 6: {footage.name}"
    return Table(title, COLUMNS, tuple(lines), {**card, **figures.ONE_SEED}, note)


def _passes(one: Trial) -> str:
    return f"{one.passes:.2f}" if one.passes < 10 else f"{one.passes:.0f}"


def _told(
    rows: Mapping[str, Training], found: Mapping[str, Trial], *, timed: bool
) -> dict[str, str]:
    """For the card: how long trainings are, their presets, footage, widths and losses."""
    each = (
        f"{name}: preset {one.footage.preset}"
        + ("" if one.data == rows[USED].data else ", random windows of whole videos")
        + "".join(f", {word}" for word in one.words if word not in DCGAN)
        + (f", networks.channels={found[name].channels}" if name in found else "")
        for name, one in rows.items()
    )
    losses = (f"{name}: {trainings.loss_told(one.regression)}" for name, one in found.items())
    return {"training": "; ".join((LENGTHS[timed], *each)), "loss": "; ".join(losses)}


def claims_of(footage: FootageSet, found: Mapping[str, Trial], *, timed: bool) -> tuple[Claim, ...]:
    """The preset that is used elsewhere gets further than Tab. 6; `timed`: in the same minutes. Of
    one seed, so not judged, and where a training did not see every video once that is why."""
    if not {USED, EXACT} <= found.keys():
        return ()
    ours, exact = (found[name].figures.psnr or 0.0 for name in (USED, EXACT))
    short = [
        f"less than one pass: {name} saw {found[name].seen} videos in {found[name].steps} steps"
        for name in (USED, EXACT)
        if found[name].passes < 1
    ]
    return (
        Claim(
            f"{footage.name}: the preset used elsewhere has a higher PSNR than Tab. 6, "
            f"{LENGTHS[timed]}",
            None,
            "; ".join((f"{ours:.2f} dB against {exact:.2f} dB", *(short or [ONE]))),
        ),
    )


def count(footage: FootageSet, plan: Plan) -> int:
    """Tab. 6 to the letter, and where there are labels the generator that is told them."""
    return (1 + bool(footage.held_out)) if footage.paper else 0


STAGE = Stage(
    "Tab. 6: settings to the letter", count, run, (16.0, 0.0), fixed=True,
    uses=lambda footage, plan: models(("full",) if footage.paper else (), 1),
)  # fmt: skip
