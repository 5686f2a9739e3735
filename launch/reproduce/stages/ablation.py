"""Tab. 2 and 4b: the full model, the loss ablations, the bound and reference rows, over seeds.

Every variant is measured twice: on its training videos, reproduced, and as the paper's ablation is,
on random videos of the dictionary (Sec. 4.4.1), which are the same where training shows every pair
of rows. With rows by video only pairs are drawn that training does not show. The combinations of
losses take as many steps as the full model took in its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from launch.reproduce import draws, figures, paper, trainings
from launch.reproduce.context import (
    Cell,
    Context,
    Stage,
    StageResult,
    Table,
    mean_std,
    merged,
    seeds_on,
)
from launch.reproduce.draws import Draw
from launch.reproduce.figures import BOUND, Figures, Truth
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.variants import MODELS, OWN, TUNED, VARIANTS, Rows, variant
from launch.reproduce.verdicts import SAME, claims_of
from launch.reproduce.windows import other_windows
from trainer import render
from trainer.run import Run, open_run

KNOWN = (
    "Whatever is drawn for the rows of the ablation is a cell that training shows, so these are "
    "its training videos and no order is judged on them again."
)
LABELLED = (
    "trained here without the class-conditional generator and the random windows of the paper, "
    "which the stage `presets` has"
)
COLUMNS = ("", *figures.COLUMNS, "PSNR, dB", "SSIM", "minutes", "steps", *paper.COLUMNS)
RANDOM_COLUMNS = ("", *figures.COLUMNS, *paper.COLUMNS)


def run(context: Context) -> StageResult:
    """All trainings, those first that say how many steps the others take; then every data set."""
    for names in ((*MODELS,), (*VARIANTS,)):
        trainings.train(
            context,
            [variant(context, footage, name, seed) for footage in context.sets for name in names
             for seed in trainings.seeds(context, footage)],
        )  # fmt: skip
    return merged([_one(context, footage) for footage in context.sets])


def _one(context: Context, footage: FootageSet) -> StageResult:
    rows = measured(context, footage)
    tables = [table_of(footage, rows), random_table_of(footage, rows)]
    notes = (SAME,) if footage is context.sets[0] else ()
    if isinstance(rows.windows, Table):
        tables.append(rows.windows)
    else:
        notes += (f"{footage.name}: no row of other windows of the real videos: {rows.windows}",)
    if footage.paper == "weizmann":
        notes += (f"{footage.name}: {LABELLED}",)
    if not context.vgg:
        notes += (f"{footage.name}: no MCS rows: {context.no_vgg}",)
    return StageResult(tuple(tables), claims_of(footage, rows), (), notes)


def measured(context: Context, footage: FootageSet) -> Rows:
    """Measure every variant with every seed."""
    names, plan = (*VARIANTS, *TUNED), context.plan
    found: dict[str, list[Figures]] = {name: [] for name in names}
    random: dict[str, list[Figures]] = {name: [] for name in names}
    steps: dict[str, list[int]] = {name: [] for name in names}
    minutes: dict[str, list[float]] = {name: [] for name in names}
    drawn: dict[str, list[Draw]] = {name: [] for name in names}
    trained, seen, truth = None, "", None
    for name in names:
        for seed in trainings.seeds(context, footage):
            trained = open_run(trainings.trained(context, *variant(context, footage, name, seed)))
            clips = figures.scored_clips(trained, plan.videos)
            if truth is None:  # the same clips of every run
                truth = figures.truth_of(render.real_clips(trained, clips), vgg=context.vgg)
                seen = f"{len(clips)} of {len(trained.manifest.videos)}"
            draw = draws.new_pairs if name == OWN else draws.random_pairs
            drawn[name].append(draw(trained, plan.randoms, seed=seed))
            found[name].append(figures.measure(render.render_clips(trained, clips), truth))
            again = found[name][-1] if draws.is_of_clips(drawn[name][-1], trained, clips) else None
            random[name] += _random(trained, drawn[name][-1], truth, again)
            steps[name].append(trained.step)
            minutes[name].append(trainings.minutes_of(trained))
    assert trained is not None and truth is not None
    shown = f"{draws.words(drawn['full'])}; {OWN}: {draws.words(drawn[OWN])}"
    loss = {"loss": trainings.loss_told(trained.config.loss.regression)}
    return Rows(
        figures.references(truth), found, random, steps,
        {**figures.card(trained, videos=seen, vgg=context.vgg, columns=COLUMNS), **loss},
        {**figures.card(trained, videos=shown, vgg=context.vgg, columns=RANDOM_COLUMNS), **loss},
        other_windows(context, footage, trained),
        all(draw.known for name in VARIANTS for draw in drawn[name]),
        minutes,
    )  # fmt: skip


def _random(run: Run, draw: Draw, truth: Truth, again: Figures | None) -> list[Figures]:
    """Figures of random videos; `again`: those of training videos, where it is them that were
    drawn. None of no pairs."""
    if again is not None:
        return [again]
    if not len(draw.static_B):
        return []
    videos = render.render(run, draw.static_B, draw.transient_B)
    return [figures.measure(videos, truth, paired=False)]


def table_of(footage: FootageSet, rows: Rows) -> Table:
    """Training videos of a data set: bound, references, ours, and the paper's figures."""
    bound = rows.references[BOUND].fcs
    quoted = paper.TABLE_2.get(footage.paper, {})

    def line(name: str, several: Sequence[Figures]) -> tuple[Cell, ...]:
        psnr = [one.psnr for one in several if one.psnr is not None]
        ssim = [one.ssim for one in several if one.ssim is not None]
        minutes, steps = rows.minutes.get(name), rows.steps.get(name)
        taken = (f"{np.mean(minutes):.2f}" if minutes else None,
                 f"{np.mean(steps):.0f}" if steps else None)  # fmt: skip
        return (name, *figures.cells(several, bound), mean_std(psnr, digits=2), mean_std(ssim),
                *taken, *quoted.get(name, (None, None)))  # fmt: skip

    lines = [line(name, [one]) for name, one in rows.references.items()]
    lines += [line(name, several) for name, several in rows.found.items()]
    blank = [None] * (len(COLUMNS) - 1 - len(paper.COLUMNS))
    lines += [(f"{name} (paper)", *blank, *quoted[name])
              for name in ("MoCoGAN", "VGAN") if name in quoted]  # fmt: skip
    title = f"Tab. 2 and 4b: {footage.name}"
    note = f"{_over(footage, rows)} {ahead(rows.references, rows.found['full'], COLUMNS)}"
    return Table(title, COLUMNS, tuple(lines), rows.card, note)


def random_table_of(footage: FootageSet, rows: Rows) -> Table:
    """Random videos of the dictionary, as in the paper's ablation."""
    bound = rows.references[BOUND].fcs
    quoted = paper.TABLE_2.get(footage.paper, {})
    lines = figures.reference_cells(rows.references)
    lines += [(name, *figures.cells(several, bound)) for name, several in rows.random.items()]
    lines = [(*line, *quoted.get(str(line[0]), (None, None))) for line in lines]
    title = f"Tab. 4b, random videos: {footage.name}"
    note = f"{_over(footage, rows)} {ahead(rows.references, rows.random['full'], RANDOM_COLUMNS)}"
    note = f"{note} {KNOWN}" if rows.known else note
    return Table(title, RANDOM_COLUMNS, tuple(lines), rows.random_card, note)


def ahead(
    references: Mapping[str, Figures], full: Sequence[Figures], columns: Sequence[str]
) -> str:
    """Which reference rows are better than the full model."""
    return figures.ahead(references, "full", full, columns=columns)


def _over(footage: FootageSet, rows: Rows) -> str:
    seeds = len(rows.found["full"])
    text = f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    return f"{text} {paper.NOTE}" if footage.paper else text


def count(footage: FootageSet, plan: Plan) -> int:
    """Trainings: every variant with every seed."""
    return (len(VARIANTS) + len(TUNED)) * seeds_on(footage, plan)


STAGE = Stage("Tab. 2 and 4b: full model and loss ablations", count, run, (18.0, 12.0), fixed=True)
