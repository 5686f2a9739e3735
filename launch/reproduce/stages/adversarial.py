"""The baselines of Tab. 2, trained here: MoCoGAN and VGAN for as long as the full model was.

Their videos come from random codes, ours from random pairs of learned rows, no pair twice; as many
of theirs as there are of ours, the same metrics, against the same real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import load_file

from launch.reproduce import figures, trainings
from launch.reproduce.baselines import BASELINES
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Picture,
    Stage,
    StageResult,
    Table,
    merged,
    seeds_on,
)
from launch.reproduce.figures import BOUND, Figures
from launch.reproduce.footage import FootageSet, manifest_of
from launch.reproduce.planner import Plan
from trainer import pictures, render
from trainer.run import open_run

MODULE = "launch.reproduce.baselines"
UNTIMED_MINUTES = 60.0
"""Where presets say how long ours trains."""


BY_CHANCE = (
    "FCS asks only how far frames keep to their first one, which videos of nothing may do by "
    "chance as footage does"
)
ON_AVERAGE = (
    "MCS compares the mean change of features over all videos, in which noise that moves may "
    "stand for motion"
)


class Baseline(NamedTuple):
    """A baseline that is to be trained on a set."""

    name: str
    data: Path
    seed: int
    minutes: float


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn."""
    trainings.train(context, [t for f in context.sets for t in trainings.full_models(context, f)])
    train_baselines(context, [one for f in context.sets for one in wanted(context, f)])
    return merged([_one(context, footage) for footage in context.sets])


def wanted(context: Context, footage: FootageSet) -> list[Baseline]:
    """Both baselines with every seed, each for as long as ours on that set."""
    data = trainings.whole_set(context, footage)
    minutes = context.plan.minutes_on(footage.name) or UNTIMED_MINUTES
    return [
        Baseline(name, data, seed, minutes)
        for name in BASELINES
        for seed in trainings.seeds(context, footage)
    ]


def train_baselines(context: Context, several: Sequence[Baseline]) -> None:
    """Train those whose videos are not there yet, `Plan.jobs` at a time, long ones first."""
    missing = [one for one in several if not _file(context, one).exists()]
    missing.sort(key=lambda one: -one.minutes)

    def task(number: int, one: Baseline) -> Callable[[], None]:
        file, plan = _file(context, one), context.plan
        words = [
            one.name, str(one.data), str(file), "--minutes", f"{one.minutes:.4g}",
            "--seed", str(one.seed), "--videos", str(plan.randoms),
            "--threads", str(trainings.threads_of(plan)),
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
    baselines = wanted(context, footage)
    rows: dict[str, list[Figures]] = {name: [] for name in (*BASELINES, "ours")}
    steps: dict[str, list[int]] = {name: [] for name in rows}
    sheet, card = [], {}
    references: dict[str, Figures] = {}
    for seed in trainings.seeds(context, footage):
        trained = open_run(trainings.full_model(context, footage, seed=seed))
        real = render.real_clips(trained, figures.scored_clips(trained, context.plan.videos))
        references = references or figures.references(real, vgg=context.vgg)
        pairs = figures.random_pairs(trained, context.plan.randoms, seed=seed)
        ours = render.render(trained, *pairs)
        made = {one.name: load_file(_file(context, one)) for one in baselines if one.seed == seed}
        others = {name: one["videos"][: len(ours)].numpy() for name, one in made.items()}
        for name, videos in {**others, "ours": ours}.items():
            rows[name].append(figures.measure(videos, real, vgg=context.vgg, paired=False))
            steps[name].append(int(made[name]["steps"]) if name in made else trained.step)
            if not seed:
                sheet += [pictures.Row(name, video, len(sheet) // 3) for video in videos[:3]]
        shown = f"{len(ours)} random ones of each baseline, as many as of ours: "
        shown += figures.drawn(trained, context.plan.randoms)
        card = figures.card(trained, videos=shown, vgg=context.vgg)
    path = context.picture(f"fig5-baselines-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(sheet))
    title = f"Fig. 5: random videos of the baselines and of ours; {footage.name}"
    return StageResult(
        (_table(footage, references, rows, steps, {**card, "training": _lengths(context)}),),
        claims_of(footage, rows, references[BOUND].fcs),
        (Picture(title, str(path.relative_to(context.out))),),
    )


def _lengths(context: Context) -> str:
    if context.plan.minutes is not None:
        return "equal wall time"
    return f"ours as long as its preset says, each baseline {UNTIMED_MINUTES:g} minutes"


def _table(
    footage: FootageSet, references: dict[str, Figures], rows: dict[str, list[Figures]],
    steps: dict[str, list[int]], card: dict[str, str],
) -> Table:  # fmt: skip
    bound = references[BOUND].fcs
    lines: list[tuple[Cell, ...]] = [(*line, None) for line in figures.reference_cells(references)]
    lines += [
        (name, *figures.cells(several, bound), f"{np.mean(steps[name]):.0f}")
        for name, several in rows.items()
    ]
    columns = ("", "MCS", "FCS", "distance to the bound", "steps")
    return Table(f"Tab. 2, baselines trained here: {footage.name}", columns, tuple(lines), card)


def claims_of(
    footage: FootageSet, rows: dict[str, list[Figures]], bound: float
) -> tuple[Claim, ...]:
    """Ours beats each baseline on MCS and on the distance to the FCS bound."""
    gap = {k: float(np.mean([abs(f.fcs - bound) for f in v])) for k, v in rows.items()}
    mcs = {k: [f.mcs for f in v if f.mcs is not None] for k, v in rows.items()}
    claims = []
    for name in BASELINES:
        text = f"{footage.name}: closer to the FCS bound than {name}"
        detail = f"{gap['ours']:.3f} against {gap[name]:.3f}"
        claims.append(Claim(text, gap["ours"] < gap[name], detail, BY_CHANCE))
        text = f"{footage.name}: lower MCS than {name}"
        if not mcs["ours"]:
            claims.append(Claim(text, None, "no feature network was given"))
            continue
        pair = [float(np.mean(mcs[who])) for who in ("ours", name)]
        detail = f"{pair[0]:.2f} against {pair[1]:.2f}"
        claims.append(Claim(text, pair[0] < pair[1], detail, ON_AVERAGE))
    return tuple(claims)


def count(footage: FootageSet, plan: Plan) -> int:
    """Both baselines with every seed."""
    return len(BASELINES) * seeds_on(footage, plan)


STAGE = Stage("Tab. 2 and Fig. 5: adversarial baselines", count, run, (5.0, 21.0), fixed=True,
              uses=seeds_on)  # fmt: skip
