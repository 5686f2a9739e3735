"""The baselines of Tab. 2, trained here: MoCoGAN and VGAN for as long as the full model was.

Their videos come from random codes. Ours are twice there: random pairs of the full model's rows,
which are its training videos where training shows every pair, and, with rows by video, pairs that
training does not show. As many videos in every row, the same metrics, the same real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import load_file

from launch.reproduce import draws, figures, over_seeds, paper, trainings
from launch.reproduce.baselines import BASELINES
from launch.reproduce.baselines.game import BATCH
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Model,
    Picture,
    Stage,
    StageResult,
    Table,
    merged,
    models,
    seeds_on,
)
from launch.reproduce.draws import Draw
from launch.reproduce.figures import BOUND, Figures, Truth
from launch.reproduce.footage import FootageSet, manifest_of
from launch.reproduce.planner import Plan
from launch.reproduce.trainings import Training
from launch.reproduce.variants import OWN, variant
from launch.reproduce.verdicts import UNTOLD, against
from trainer import pictures, render
from trainer.config import resolve
from trainer.run import open_run

MODULE = "launch.reproduce.baselines"
UNTIMED_MINUTES = 60.0
"""Where presets say how long ours trains."""
OURS = {False: "ours, random pairs", True: "ours, training videos"}
"""The row of the full model, by whether training shows whatever was drawn."""
FRESH = "ours, rows by video, new pairs"
COLUMNS = ("", *figures.COLUMNS, "minutes", "steps", *paper.COLUMNS)
ONLY_ITSELF = "FCS asks how far frames keep to their first one, not whether they are like footage"
ON_AVERAGE = "MCS compares mean changes of features over all videos, not those of each video"


class Baseline(NamedTuple):
    """A baseline that is to be trained on a set."""

    name: str
    data: Path
    seed: int
    minutes: float
    channels: int
    """Width of its networks, as of ours."""


class Played(NamedTuple):
    """Random videos with one seed, by model; `OURS[False]` is the full one."""

    ours: Draw
    fresh: Draw
    figures: dict[str, Figures]
    shown: dict[str, np.ndarray]
    """The first three of each."""
    steps: dict[str, int]
    minutes: dict[str, float]
    """Of baselines what they were given, and nothing where it was steps."""


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn."""
    trainings.train(context, [t for f in context.sets for t in ours_of(context, f)])
    train_baselines(context, [one for f in context.sets for one in wanted(context, f)])
    return merged([_one(context, footage) for footage in context.sets])


def ours_of(context: Context, footage: FootageSet) -> list[Training]:
    """The models of the ablation that are held against the baselines, with every seed."""
    full = trainings.full_models(context, footage)
    seeds = trainings.seeds(context, footage)
    return [*full, *(variant(context, footage, OWN, seed) for seed in seeds)]


def wanted(context: Context, footage: FootageSet) -> list[Baseline]:
    """Both baselines with every seed, each for as long as ours on that set."""
    data = trainings.whole_set(context, footage)
    minutes = context.plan.minutes_on(footage.name) or UNTIMED_MINUTES
    channels = channels_of(context, footage)
    return [
        Baseline(name, data, seed, minutes, channels)
        for name in BASELINES
        for seed in trainings.seeds(context, footage)
    ]


def channels_of(context: Context, footage: FootageSet) -> int:
    """Width of our networks on a set."""
    words = [f"preset={footage.preset}", "data.manifest=any", *context.plan.words]
    return resolve(words).networks.channels


def train_baselines(context: Context, several: Sequence[Baseline]) -> None:
    """Train those whose videos are not there yet, `Plan.jobs` at a time, long ones first."""
    context.asked.update(_file(context, one).stem for one in several)
    missing = [one for one in several if not _file(context, one).exists()]
    missing.sort(key=lambda one: -one.minutes)

    def task(number: int, one: Baseline) -> Callable[[], None]:
        file, plan = _file(context, one), context.plan
        words = [
            one.name, str(one.data), str(file), "--minutes", f"{one.minutes:.4g}",
            "--seed", str(one.seed), "--videos", str(plan.randoms),
            "--threads", str(trainings.threads_of(plan)), "--channels", str(one.channels),
            *(["--steps", str(plan.baseline_steps)] if plan.baseline_steps else []),
        ]  # fmt: skip
        which = f"{number} of {len(missing)}"
        return lambda: trainings.run_logged(context, MODULE, words, file.stem, which)

    tasks = [task(number, one) for number, one in enumerate(missing, 1)]
    trainings.at_once(tasks, jobs=context.plan.jobs)


def _file(context: Context, one: Baseline) -> Path:
    """Where a baseline's videos are, named after its settings."""
    plan, fingerprint = context.plan, manifest_of(one.data).fingerprint
    threads = trainings.threads_of(plan)
    key = repr((*one, fingerprint, threads, plan.baseline_steps, plan.randoms))
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    name = f"{one.data.name}-{one.name}-s{one.seed}-{digest}.safetensors"
    return context.out / "baselines" / name


def _one(context: Context, footage: FootageSet) -> StageResult:
    first = open_run(trainings.full_model(context, footage))
    real = render.real_clips(first, figures.scored_clips(first, context.plan.videos))
    truth = figures.truth_of(real, vgg=context.vgg)
    several = [_play(context, footage, seed, truth) for seed in trainings.seeds(context, footage)]
    known = all(played.ours.known for played in several)
    names = {name: name for name in several[0].figures} | {OURS[False]: OURS[known]}
    rows = {shown: [one.figures[name] for one in several] for name, shown in names.items()}
    lengths = {
        shown: (
            [one.minutes[name] for one in several if name in one.minutes],
            [one.steps[name] for one in several],
        )
        for name, shown in names.items()
    }
    count = len(several[0].ours.static_B)
    ours, fresh = draws.words([o.ours for o in several]), draws.words([o.fresh for o in several])
    about = f"{count} random ones of each baseline, as many as of ours: {ours}; {FRESH}: {fresh}"
    card = figures.card(first, videos=about, vgg=context.vgg, columns=COLUMNS)
    loss = trainings.loss_told(first.config.loss.regression)
    widths = ", ".join(f"{name}, compact, unconditional" for name in BASELINES)
    card = {
        **card, "training": _lengths(context), "loss of ours": loss,
        "baselines": f"{widths}: {channels_of(context, footage)} channels as ours, {BATCH} videos "
        "a step; the paper's figures are of the published ones",
        **over_seeds.seeds_card(len(several)),
    }  # fmt: skip
    return StageResult(
        (table_of(footage, figures.references(truth), rows, lengths, card),),
        claims_of(footage, rows, truth.fcs),
        (_picture(context, footage, several[0], names),),
    )


def _play(context: Context, footage: FootageSet, seed: int, truth: Truth) -> Played:
    """Measure every model with one seed; `FRESH` only where there are new pairs."""
    full = open_run(trainings.full_model(context, footage, seed=seed))
    own = open_run(trainings.trained(context, *variant(context, footage, OWN, seed)))
    ours = draws.random_pairs(full, context.plan.randoms, seed=seed)
    count = len(ours.static_B)
    fresh = draws.new_pairs(own, count, seed=seed)
    several = [one for one in wanted(context, footage) if one.seed == seed]
    made = {one.name: load_file(_file(context, one)) for one in several}
    minutes = {one.name: one.minutes for one in several if not context.plan.baseline_steps}
    videos = {name: one["videos"][:count].numpy() for name, one in made.items()}
    steps = {name: int(one["steps"]) for name, one in made.items()}
    for name, trained, draw in ((OURS[False], full, ours), (FRESH, own, fresh)):
        if len(draw.static_B):
            videos[name] = render.render(trained, draw.static_B, draw.transient_B)
            steps[name], minutes[name] = trained.step, trainings.minutes_of(trained)
    found = {name: figures.measure(one, truth, paired=False) for name, one in videos.items()}
    shown = {name: one[:3].copy() for name, one in videos.items()}
    return Played(ours, fresh, found, shown, steps, minutes)


def _picture(
    context: Context, footage: FootageSet, played: Played, names: dict[str, str]
) -> Picture:
    rows = [
        pictures.Row(shown, video, group)
        for group, (name, shown) in enumerate(names.items())
        for video in played.shown[name]
    ]
    path = context.picture(f"fig5-baselines-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Fig. 5: random videos of the baselines, and ours; {footage.name}"
    return Picture(title, str(path.relative_to(context.out)))


def _lengths(context: Context) -> str:
    if context.plan.minutes is not None:
        return "equal wall time"
    return f"ours as long as its preset says, each baseline {UNTIMED_MINUTES:g} minutes"


def table_of(
    footage: FootageSet, references: Mapping[str, Figures], rows: Mapping[str, list[Figures]],
    lengths: Mapping[str, tuple[list[float], list[int]]], card: dict[str, str],
) -> Table:  # fmt: skip
    """Reference rows, baselines and ours, over seeds, beside the paper's figures.

    Args:
        footage: which.
        references: rows of real footage.
        rows: what was measured, by model.
        lengths: minutes and steps of their trainings.
        card: protocol.
    """
    quoted = paper.TABLE_2.get(footage.paper, {})
    lines: list[tuple[Cell, ...]] = [
        (*line, None, None) for line in figures.reference_cells(references)
    ]
    for name, several in rows.items():
        minutes, steps = lengths[name]
        taken = f"{np.mean(minutes):.2f}" if minutes else None
        cells = figures.cells(several, references[BOUND].fcs)
        lines.append((name, *cells, taken, f"{np.mean(steps):.0f}"))
    also = dict.fromkeys(OURS.values(), "full")
    none = (None, None)
    lines = [(*line, *quoted.get(also.get(str(line[0]), str(line[0])), none)) for line in lines]
    notes = [paper.NOTE] if quoted else []
    notes += [figures.ahead(references, name, several, columns=COLUMNS)
              for name, several in rows.items() if name not in BASELINES]  # fmt: skip
    title = f"Tab. 2, baselines trained here: {footage.name}"
    return Table(title, COLUMNS, tuple(lines), card, " ".join(notes))


def claims_of(
    footage: FootageSet, rows: dict[str, list[Figures]], bound: float
) -> tuple[Claim, ...]:
    """Each row of ours beats each baseline on MCS and on the distance to the FCS bound, by more
    than seeds differ."""
    gap = {name: [abs(f.fcs - bound) for f in several] for name, several in rows.items()}
    mcs = {name: [f.mcs for f in v if f.mcs is not None] for name, v in rows.items()}
    claims = []
    for ours in (name for name in rows if name not in BASELINES):
        causes = (UNTOLD, UNTOLD) if ours == FRESH else (ONLY_ITSELF, ON_AVERAGE)
        for name in BASELINES:
            text = f"{footage.name}: {ours}: closer to the FCS bound than {name}"
            claims.append(against(text, gap[ours], gap[name], digits=3, cause=causes[0]))
            text = f"{footage.name}: {ours}: lower MCS than {name}"
            if mcs[ours]:
                claims.append(against(text, mcs[ours], mcs[name], digits=2, cause=causes[1]))
            else:
                claims.append(Claim(text, None, "no feature network was given"))
    return tuple(claims)


def count(footage: FootageSet, plan: Plan) -> int:
    """Both baselines with every seed."""
    return len(BASELINES) * seeds_on(footage, plan)


def uses(footage: FootageSet, plan: Plan) -> frozenset[Model]:
    """The full model and the one with rows by video, with every seed."""
    return models(("full", OWN), seeds_on(footage, plan))


STAGE = Stage("Tab. 2 and Fig. 5: adversarial baselines", count, run, (4.0, 13.0), fixed=True,
              uses=uses)  # fmt: skip
