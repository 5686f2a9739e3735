"""Unseen footage: latents of videos that were not trained on, found with the networks frozen.

`trainer.fit` on held-out videos: chairs that were not among those trained on, an action or
identities that no training video shows. Beside each figure stands the training video that comes
nearest to it, and, over more and more training videos, the gap to the training videos' own PSNR.
The largest number of a set's own videos is judged, so it is trained with every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from data_shards.sources import synthetic
from launch.reproduce import extras, figures, over_seeds, trainings
from launch.reproduce.context import Claim, Context, Stage, StageResult, Table, merged, seeds_on
from launch.reproduce.fits import Fits, mean_of, pictures_of, table_of, videos_of
from launch.reproduce.footage import FootageSet, manifest_of, prepared, read_clips
from launch.reproduce.over_seeds import ONE, compared
from launch.reproduce.planner import Plan
from launch.reproduce.shifts import MOST, nearest_window
from launch.reproduce.trainings import Training
from trainer import cards, render, schedule
from trainer.fit import fit_set
from trainer.fitted import Fitted, extended
from trainer.fitting import FitConfig
from trainer.run import Run, open_run

NEW = "unseen"
LAYOUT = ("latents.static_key=video", "latents.transient_key=video")
"""A fitted video has both latents to itself; so have those trained on."""
MOTIONS, NEW_ROWS, ROOM = 8, 2, 24
"""Of the large synthetic sets: motions of each appearance, appearances that are not seen, and room
for those that are too much like them."""
APART = 20
"""Degrees of hue by which whatever is trained on differs from an unseen appearance of its shape."""


class Series(NamedTuple):
    """Trainings on more and more videos, after each of which the same unseen ones are fitted."""

    footage: FootageSet
    held: Path
    trainings: dict[int, list[Training]]
    """By the number of videos, and by seed."""


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn; the first series of a set is judged."""
    series, results = [], []
    for footage in context.sets:
        try:
            series.append(series_of(context, footage))
        except UserError as error:
            results.append(StageResult(notes=(f"{footage.name}: nothing is unseen: {error}",)))
    every = [
        one for several in series for s in several for ones in s.trainings.values() for one in ones
    ]
    trainings.train(context, every)
    return merged(
        [
            *results,
            *(
                _one(context, one, judged=not number)
                for several in series
                for number, one in enumerate(several)
            ),
        ]
    )


def split(manifest: Manifest, unseen: str) -> tuple[list[str], list[str]]:
    """Names of videos to train on and to fit: every fourth one (at most 12), the second action, or
    every fourth identity."""
    names = [video.name for video in manifest.videos]
    if unseen == "videos":
        away = set(render.spread(max(1, min(12, len(names) // 4 + 1)), len(names)))
        new = [name for index, name in enumerate(names) if index in away]
    else:
        column = 2 if unseen == "actions" else 1
        labels = sorted({video[column] for video in manifest.videos})
        away = set(labels[1:2] if unseen == "actions" else labels[1::4])
        new = [video.name for video in manifest.videos if video[column] in away]
    kept = [name for name in names if name not in set(new)]
    return kept, new


def counts_of(total: int, *, several: bool) -> list[int]:
    """Numbers of training videos: all, and before it a quarter and a half where asked for."""
    return sorted({max(2, total // 4), max(2, total // 2), total}) if several else [total]


def series_of(context: Context, footage: FootageSet) -> list[Series]:
    """What a set is trained on: its own videos, and where asked for ever more synthetic ones."""
    plan, facts = context.plan, manifest_of(trainings.whole_set(context, footage))
    kept, new = split(facts, footage.unseen)
    counts = counts_of(len(kept), several=plan.counts)
    parts = [[kept[i] for i in render.spread(number, len(kept))] for number in counts]
    found = [_series(context, footage, "", new, parts, seeds=seeds_on(footage, plan))]
    if plan.grown and not footage.root:
        rows = -(-max(plan.grown) // MOTIONS) + NEW_ROWS + ROOM
        large = replace(footage, identities=rows, actions=MOTIONS)
        kept, new = large_split(rows)
        assert len(kept) >= max(plan.grown), (len(kept), rows)
        parts = [kept[:number] for number in plan.grown]
        found.append(_series(context, large, "many-", new, parts))
    return found


def large_split(rows: int) -> tuple[list[str], list[str]]:
    """Names of synthetic videos to train on, in random order, and to fit: all of `NEW_ROWS` of so
    many appearances. Nothing that looks like one of them is trained on."""
    names, motions = synthetic.identities(rows), synthetic.actions(MOTIONS)
    away = [names[i] for i in render.spread(NEW_ROWS, rows)]
    new = [f"{name}/{motion}" for name in away for motion in motions]
    other = [n for n in names if all(synthetic.degrees_apart(n, one) >= APART for one in away)]
    kept = [f"{name}/{motion}" for name in other for motion in motions]
    order = np.random.default_rng(0).permutation(len(kept))
    return [kept[i] for i in order], new


def _series(
    context: Context,
    footage: FootageSet,
    prefix: str,
    new: Sequence[str],
    parts: Sequence[Sequence[str]],
    *,
    seeds: int = 1,
) -> Series:
    """Prepare the parts, the smallest first; the last one is trained on with so many seeds."""
    same = {"out": context.out, "frames": context.plan.frames, "size": context.plan.size}
    held = prepared(footage, name=f"{prefix}unseen", only=new, **same)
    found = {}
    for part in parts:
        data = prepared(footage, name=f"{prefix}seen-{len(part)}", only=part, **same)
        found[len(part)] = [
            Training(footage, data, f"{prefix}seen{len(part)}", LAYOUT, seed)
            for seed in range(seeds if part is parts[-1] else 1)
        ]
    return Series(footage, held, found)


def _one(context: Context, series: Series, *, judged: bool) -> StageResult:
    found: list[list[Fits]] = []
    runs: list[list[Run]] = []
    for number, several in series.trainings.items():
        runs.append([open_run(folder) for folder in trainings.train(context, several)])
        found.append([_fits(context, run, series.held, number) for run in runs[-1]])
    near_told = "the training video of least squared error, without shifts"
    if judged:
        found, near_told = _with_nearest(context, series, found)
    footage, largest = series.footage, found[-1]
    if not judged:
        footage = replace(footage, name=f"{footage.name}, up to {largest[0].trained:,} videos")
    card = {**_card(context, series, runs, largest), "nearest": near_told}
    tables = [table_of(footage, found, card)]
    if judged:
        tables += [videos_of(footage, largest, card), *_extras(context, series, runs[-1][0])]
    return StageResult(
        tuple(tables),
        claims_of(footage, largest) if judged else (),
        tuple(pictures_of(context, footage, runs[-1][0], NEW, found)),
    )


def _with_nearest(
    context: Context, series: Series, found: Sequence[Sequence[Fits]]
) -> tuple[list[list[Fits]], str]:
    """The same with the nearest training video sought among all windows of those trained on, each
    under its best shift in time; and what a card says of that."""
    plan, largest = context.plan, manifest_of(list(series.trainings.values())[-1][0].data)
    folder = prepared(
        series.footage, out=context.out, name="unseen-windows", frames=plan.frames, size=plan.size,
        windows="all", only=[video.name for video in largest.videos],
    )  # fmt: skip
    windows, held = read_clips(folder, each=0), read_clips(series.held)
    names = np.array([windows.manifest.videos[v].name for v in windows.video_N])
    made = []
    for several, ones in zip(found, series.trainings.values(), strict=True):
        seen = [video.name for video in manifest_of(ones[0].data).videos]
        at = np.flatnonzero(np.isin(names, seen))
        near = {}
        for video, real in zip(held.video_N, held.frames_NTHWC, strict=True):
            best, psnr = nearest_window(real, windows.frames_NTHWC[at])
            near[held.manifest.videos[video].name] = (str(names[at[best]]), psnr)
        made.append([fits._replace(near=near) for fits in several])
    return made, (
        f"out of {len(names)} windows of the training videos (all of them; of fewer videos fewer), "
        f"each under its best shift of at most {MOST} frames, over what overlaps"
    )


def _extras(context: Context, series: Series, run: Run) -> list[Table]:
    """LPIPS and FVD, where they are wanted, of the training videos and of the fitted ones."""
    longer, footage = extended(run, NEW), series.footage
    fitted = range(run.manifest.clips, longer.manifest.clips)
    own = figures.scored_clips(run, context.plan.videos)
    about = cards.footage_card(manifest_of(series.held), str(series.held))
    return [
        *extras.tables_of(context, footage, run, own, what="training videos"),
        *extras.tables_of(context, footage, longer, fitted, what="unseen videos", card=about),
    ]


def _fits(context: Context, run: Run, held: Path, number: int) -> Fits:
    """Fit the unseen videos to a training on so many videos."""
    own, fitted = _own(context, run), _fit(context, run, held)
    return Fits(number, passes_of(run), own, fitted, run.step)


def _fit(context: Context, run: Run, held: Path) -> Fitted:
    config = FitConfig(steps=context.plan.fit_steps)
    return fit_set(run, str(held), name=NEW, config=config)


def _own(context: Context, run: Run) -> float:
    clips = figures.scored_clips(run, context.plan.videos)
    return figures.psnr_of(render.render_clips(run, clips), render.real_clips(run, clips))


def passes_of(run: Run) -> float:
    """How often a run has seen each of its clips, on average."""
    pace = schedule.pace(run.config.schedule)
    return schedule.visit(run.step, pace=pace) * pace.clips / run.manifest.clips


def _card(
    context: Context, series: Series, runs: Sequence[Sequence[Run]], largest: Sequence[Fits]
) -> dict[str, str]:
    """Of the unseen videos; all figures of a table are of the same ones."""
    facts = largest[0].fitted.facts
    settings = ", ".join(f"{k} {v}" for k, v in facts["settings"].items())
    unseen = f"{len(facts['videos'])} unseen ones ({series.footage.unseen})"
    held = manifest_of(series.held)
    every = [run for several in runs for run in several]
    protocols = [
        {
            **cards.protocol(run, videos=unseen, definition=cards.PSNR),
            **cards.footage_card(held, str(series.held)),
        }
        for run in every
    ]
    seeds = over_seeds.seeds_card(len(largest))
    if len(largest) > 1 and len(runs) > 1:
        seeds = {"seeds": f"{seeds['seeds']}; of fewer videos one (0)"}
    return {
        **cards.shared(protocols),
        "gap": "PSNR of the training videos less that of the fitted ones: of other videos, so it "
        "holds how hard these are, too",
        "fit": f"networks frozen; {settings}",
        "training": "equally long for every number of videos, so that more of them are each seen "
        "less often",
        **over_seeds.length_card(context, series.footage, every),
        **seeds,
    }


def claims_of(footage: FootageSet, several: Sequence[Fits]) -> tuple[Claim, ...]:
    """3 dB above the nearest training video on average, and each video above it with each seed."""
    own = over_seeds.shown([fits.own for fits in several])
    few = f"{several[0].trained} training videos are few: they themselves are at {own} dB"
    counts = " / ".join(f"{(fits.gains > 0).sum()} of {len(fits.gains)}" for fits in several)
    least = min(fits.gains.min() for fits in several)
    told = ONE if len(several) == 1 else f"{len(several)} seeds"
    gain = float(np.mean([fits.gains for fits in several]))
    mean = compared(
        f"{footage.name}: fitted videos on average 3 dB above the nearest training video",
        [fits.psnr for fits in several], mean_of(several[0], "nearest_psnr"), by=3,
        about=f", {gain:+.2f} dB", cause=few,
    )  # fmt: skip
    return (
        mean,
        Claim(
            f"{footage.name}: each fitted video above its nearest training video",
            all((fits.gains > 0).all() for fits in several),
            f"{counts}, least {least:+.2f} dB; {told}",
            few,
        ),
    )


def count(footage: FootageSet, plan: Plan) -> int:
    """One training, or three, the largest with each seed; and those on more and more synthetic
    videos."""
    own = (3 if plan.counts else 1) + seeds_on(footage, plan) - 1
    return own + (0 if footage.root else len(plan.grown))


STAGE = Stage("Unseen footage", count, run, (8.0, 0.0), fitting=6.5)
