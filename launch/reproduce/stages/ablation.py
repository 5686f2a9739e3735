"""Tab. 2 and 4b: the full model, the loss ablations, the bound and reference rows, over seeds.

Every variant is measured twice: on its training videos, reproduced, and as the paper's ablation is,
on random videos of the dictionary (Sec. 4.4.1). The combinations of losses take as many steps as
the full model took in its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from launch.reproduce import figures, paper, trainings
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Stage,
    StageResult,
    Table,
    mean_std,
    merged,
    seeds_on,
)
from launch.reproduce.figures import BOUND, Figures
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.trainings import Training
from launch.reproduce.windows import other_windows
from trainer import render
from trainer.commit import read_json
from trainer.leaving import RUN_FILE
from trainer.run import open_run

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "-l_triplet -l_static": ("bare", ("loss.lambda_triplet=0", "loss.lambda_static=0")),
    "-l_triplet +l_static": ("static", ("loss.lambda_triplet=0",)),
    "+l_triplet -l_static": ("triplet", ("loss.lambda_static=0",)),
    "full": ("full", ()),
}
"""Rows of Tab. 4b: short name, settings over the preset."""
OWN = "full, rows by video"
"""The full model with rows of its own for every video, where the paper's layout shares them."""
TUNED = {OWN: ("video", ("latents.static_key=video", "latents.transient_key=video"))}
MODELS = {"full": "full model", OWN: "full model with rows by video"}
"""The rows that are held against the footage itself, and what claims call them."""
FROZEN = "frozen first frame"
SAME = (
    "l_static is l_rec of one random frame, so on average over frames it is l_rec itself "
    "(docs/model.md): rows that differ by l_static alone differ by chance, and by 1 % of "
    "l_rec's weight"
)
TOGETHER = (
    "the losses pull at the same latents, and trainings of minutes do not tell their combinations "
    "apart"
)
OWN_FOOTAGE = (
    "The paper's figures are of its own footage, features and length of training: for the order "
    "of rows alone."
)
LABELLED = (
    "not trained here: the class-conditional generator and random windows of the paper "
    "(preset weizmann_paper; prepare with --windows whole)"
)
COLUMNS = ("", "MCS", "FCS", "distance to the bound", "PSNR, dB", "SSIM", "steps", "paper: MCS",
           "paper: FCS")  # fmt: skip
RANDOM_COLUMNS = ("", "MCS", "FCS", "distance to the bound", "paper: MCS", "paper: FCS")


class Rows(NamedTuple):
    """Everything that one data set gave, over seeds."""

    references: dict[str, Figures]
    found: dict[str, list[Figures]]
    """Training videos."""
    random: dict[str, list[Figures]]
    """Random videos of the dictionary (Sec. 4.4.1)."""
    steps: dict[str, list[int]]
    card: dict[str, str]
    random_card: dict[str, str]
    windows: Table | None = None
    """Other windows of the real videos, where they are long enough."""


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
    tables += [rows.windows] if rows.windows else []
    notes = (SAME,) if footage is context.sets[0] else ()
    if footage.paper == "weizmann":
        notes += (f"{footage.name}: {LABELLED}",)
    if not context.vgg:
        notes += (f"{footage.name}: no MCS rows: {context.no_vgg}",)
    return StageResult(tuple(tables), claims_of(footage, rows), (), notes)


def variant(context: Context, footage: FootageSet, name: str, seed: int) -> Training:
    """The training of a row: those without a loss take the steps of the full model, which is there
    already or is trained now."""
    short, words = {**VARIANTS, **TUNED}[name]
    one = Training(footage, trainings.whole_set(context, footage), short, words, seed)
    if name in MODELS or context.plan.minutes is None:
        return one
    full = trainings.full_model(context, footage, seed=seed)
    return one._replace(steps=int(read_json(full / RUN_FILE)["step"]))


def measured(context: Context, footage: FootageSet) -> Rows:
    """Measure every variant with every seed."""
    variants = {**VARIANTS, **TUNED}
    found: dict[str, list[Figures]] = {name: [] for name in variants}
    random: dict[str, list[Figures]] = {name: [] for name in variants}
    steps: dict[str, list[int]] = {name: [] for name in variants}
    drawn: dict[str, str] = {}
    card: dict[str, str] = {}
    references: dict[str, Figures] = {}
    for name in variants:
        for seed in trainings.seeds(context, footage):
            trained = open_run(trainings.trained(context, *variant(context, footage, name, seed)))
            clips = figures.scored_clips(trained, context.plan.videos)
            real = render.real_clips(trained, clips)
            fake = render.render_clips(trained, clips)
            found[name].append(figures.measure(fake, real, vgg=context.vgg))
            random[name].append(_random(context, trained, real, seed))
            steps[name].append(trained.step)
            drawn[name] = figures.drawn(trained, context.plan.randoms)
            if not references:
                seen = f"{len(clips)} of {len(trained.manifest.videos)}"
                card = figures.card(trained, videos=seen, vgg=context.vgg)
                references = figures.references(real, vgg=context.vgg)
    shown = f"{drawn['full']}; {OWN}: {drawn[OWN]}"
    return Rows(
        references, found, random, steps, card, {**card, "videos": shown},
        other_windows(context, footage, card),
    )  # fmt: skip


def _random(context: Context, trained, real: np.ndarray, seed: int) -> Figures:
    pairs = figures.random_pairs(trained, context.plan.randoms, seed=seed)
    fake = render.render(trained, *pairs)
    return figures.measure(fake, real, vgg=context.vgg, paired=False)


def table_of(footage: FootageSet, rows: Rows) -> Table:
    """Training videos of a data set: bound, references, ours, and the paper's figures."""
    bound = rows.references[BOUND].fcs
    quoted = paper.TABLE_2.get(footage.paper, {})

    def line(name: str, several: Sequence[Figures], steps: Sequence[int] = ()) -> tuple[Cell, ...]:
        psnr = [one.psnr for one in several if one.psnr is not None]
        ssim = [one.ssim for one in several if one.ssim is not None]
        taken = f"{np.mean(steps):.0f}" if steps else None
        return (name, *figures.cells(several, bound), mean_std(psnr, digits=2), mean_std(ssim),
                taken, *quoted.get(name, (None, None)))  # fmt: skip

    lines = [line(name, [one]) for name, one in rows.references.items()]
    lines += [line(name, several, rows.steps[name]) for name, several in rows.found.items()]
    lines += [(f"{name} (paper)", *[None] * 6, *quoted[name])
              for name in ("MoCoGAN", "VGAN") if name in quoted]  # fmt: skip
    title = f"Tab. 2 and 4b: {footage.name}"
    return Table(title, COLUMNS, tuple(lines), rows.card, _over(footage, rows))


def random_table_of(footage: FootageSet, rows: Rows) -> Table:
    """Random videos of the dictionary, as in the paper's ablation."""
    bound = rows.references[BOUND].fcs
    quoted = paper.TABLE_2.get(footage.paper, {})
    lines = figures.reference_cells(rows.references)
    lines += [(name, *figures.cells(several, bound)) for name, several in rows.random.items()]
    lines = [(*line, *quoted.get(str(line[0]), (None, None))) for line in lines]
    title = f"Tab. 4b, random videos: {footage.name}"
    return Table(title, RANDOM_COLUMNS, tuple(lines), rows.random_card, _over(footage, rows))


def _over(footage: FootageSet, rows: Rows) -> str:
    seeds = len(rows.found["full"])
    text = f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    return f"{text} {OWN_FOOTAGE}" if footage.paper else text


def claims_of(footage: FootageSet, rows: Rows) -> tuple[Claim, ...]:
    """What the full model must show on a data set."""
    bound = rows.references[BOUND].fcs
    mean = {kind: float(np.mean([f.fcs for f in rows.found[kind]])) for kind in MODELS}
    near = {kind: abs(mean[kind] - bound) <= 0.02 for kind in MODELS}
    figures = {kind: f"{mean[kind]:.3f} against {bound:.3f}" for kind in MODELS}
    claims = _models(footage, rows, "FCS of the {} within 0.02 of the bound", near, figures)
    still = rows.references[FROZEN].mcs
    if still is None:
        claims.append(Claim(f"{footage.name}: MCS", None, "no feature network was given"))
    else:
        mcs = {kind: float(np.mean([f.mcs or 0.0 for f in rows.found[kind]])) for kind in MODELS}
        low = {kind: mcs[kind] <= still - 1 for kind in MODELS}
        figures = {kind: f"{mcs[kind]:.2f} against {still:.2f}" for kind in MODELS}
        text = "MCS of the {} at least 1.0 below a frozen first frame"
        claims += _models(footage, rows, text, low, figures)
    for what, found in (("random videos", rows.random), ("training videos", rows.found)):
        distances = {kind: [abs(f.fcs - bound) for f in found[kind]] for kind in VARIANTS}
        text = f"{footage.name}, {what}: the full model is the closest of the ablation to the FCS "
        claims.append(_order(f"{text}bound", distances, rows, digits=4))
        if still is not None:
            scores = {kind: [f.mcs or 0.0 for f in found[kind]] for kind in VARIANTS}
            text = f"{footage.name}, {what}: the full model has the lowest MCS of the ablation"
            claims.append(_order(text, scores, rows, digits=2))
    return tuple(claims)


def _models(
    footage: FootageSet, rows: Rows, text: str, holds: dict[str, bool], figures: dict[str, str]
) -> list[Claim]:
    """One claim for each of `MODELS`, whose name goes into the text."""
    return [
        Claim(
            f"{footage.name}: {text.format(name)}",
            holds[kind],
            figures[kind],
            _why_far(footage, rows, kind, own_holds=holds[OWN]),
        )
        for kind, name in MODELS.items()
    ]


def _order(text: str, values: dict[str, list[float]], rows: Rows, *, digits: int) -> Claim:
    """Whether the full model has the lowest mean of the ablation's rows; None where the two lowest
    are no further apart than seeds are."""
    mean = {name: float(np.mean(values[name])) for name in VARIANTS}
    best, rival = sorted(VARIANTS, key=lambda name: mean[name])[:2]
    rival = rival if best == "full" else "full"
    spread = max(float(np.std(values[name], ddof=1)) if len(values[name]) > 1 else np.inf
                 for name in (best, rival))  # fmt: skip
    detail = ", ".join(f"{name}: {mean[name]:.{digits}f}" for name in VARIANTS)
    if mean[rival] - mean[best] <= spread:
        one = "one seed does not settle an order"
        why = f"{best} and {rival} differ by less than one seed does from another"
        alike = {best, rival} == {"full", "+l_triplet -l_static"}
        return Claim(text, None, f"{detail}; {why if np.isfinite(spread) else one}",
                     SAME if alike else TOGETHER)  # fmt: skip
    psnr = {n: float(np.mean([f.psnr or 0.0 for f in rows.found[n]])) for n in ("full", best)}
    cause = (
        f"the losses pull at the same latents: after as many steps training videos are at "
        f"{psnr['full']:.1f} dB with all of them and at {psnr[best]:.1f} dB with {best}, and in "
        "trainings of minutes sharper frames decide both scores"
    )
    return Claim(text, best == "full", detail, cause)


def _why_far(footage: FootageSet, rows: Rows, kind: str, *, own_holds: bool) -> str:
    """Why a model is not close enough to the footage."""
    if kind != OWN and footage.held_out and own_holds:
        return (
            "people share the row of an action and are not in phase, which one motion cannot "
            "follow; with rows by video it holds"
        )
    psnr = float(np.mean([f.psnr for f in rows.found[kind] if f.psnr is not None]))
    return f"too short a training for this footage, whose frames it reproduces at {psnr:.1f} dB"


def count(footage: FootageSet, plan: Plan) -> int:
    """Trainings: every variant with every seed."""
    return (len(VARIANTS) + len(TUNED)) * seeds_on(footage, plan)


STAGE = Stage("Tab. 2 and 4b: full model and loss ablations", count, run, (30.0, 20.0), fixed=True)
