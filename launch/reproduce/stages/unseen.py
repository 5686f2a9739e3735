"""Unseen footage: latents of videos that were not trained on, found with the networks frozen.

`trainer.fit` on held-out videos: chairs that were not among those trained on, an action or
identities that no training video shows. Beside each figure stands the training video that comes
nearest to it, and, over more and more training videos, the gap to the training videos' own PSNR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from data_shards.sources import synthetic
from launch.reproduce import figures, trainings
from launch.reproduce.context import Claim, Context, Picture, Stage, StageResult, Table, merged
from launch.reproduce.footage import FootageSet, manifest_of, prepared
from launch.reproduce.planner import Plan
from launch.reproduce.plots import Line, write_plot
from launch.reproduce.trainings import Training
from trainer import cards, pictures, render, schedule
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
COLUMNS = ("training videos", "passes over them", "their PSNR, dB", "fitted, dB",
           "nearest training video, dB", "fitted above it", "least gain, dB")  # fmt: skip


class Fits(NamedTuple):
    """What fitting after training on so many videos gave."""

    trained: int
    passes: float
    """Over the training videos."""
    own: float
    """Mean PSNR of the training videos."""
    fitted: Fitted


class Series(NamedTuple):
    """Trainings on more and more videos, after each of which the same unseen ones are fitted."""

    footage: FootageSet
    held: Path
    trainings: dict[int, Training]
    """By the number of videos."""


def run(context: Context) -> StageResult:
    """All trainings, then every data set in turn; the first series of a set is judged."""
    series, results = [], []
    for footage in context.sets:
        try:
            series.append(series_of(context, footage))
        except UserError as error:
            results.append(StageResult(notes=(f"{footage.name}: nothing is unseen: {error}",)))
    every = [one for several in series for s in several for one in s.trainings.values()]
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
    found = [_series(context, footage, "", new, parts)]
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
) -> Series:
    same = {"out": context.out, "frames": context.plan.frames, "size": context.plan.size}
    held = prepared(footage, name=f"{prefix}unseen", only=new, **same)
    found = {}
    for part in parts:
        data = prepared(footage, name=f"{prefix}seen-{len(part)}", only=part, **same)
        found[len(part)] = Training(footage, data, f"{prefix}seen{len(part)}", LAYOUT)
    return Series(footage, held, found)


def _one(context: Context, series: Series, *, judged: bool) -> StageResult:
    found: list[Fits] = []
    trained = None
    for number, training in series.trainings.items():
        trained = open_run(trainings.trained(context, *training))
        own, fitted = _own(context, trained), _fit(context, trained, series.held)
        found.append(Fits(number, passes_of(trained), own, fitted))
    assert trained is not None
    card = _card(trained, series, found[-1])
    footage = series.footage
    if not judged:
        footage = replace(footage, name=f"{footage.name}, up to {found[-1].trained:,} videos")
    return StageResult(
        (_table(footage, found, card), *([_videos(footage, found[-1], card)] if judged else [])),
        claims_of(footage, found[-1]) if judged else (),
        tuple(_pictures(context, footage, trained, found)),
    )


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


def gains(fitted: Fitted) -> np.ndarray:
    """dB of every fitted video above its nearest training video."""
    return np.array([v["psnr"] - v["nearest_psnr"] for v in fitted.facts["videos"]])


def _mean(fitted: Fitted, key: str) -> float:
    return float(np.mean([video[key] for video in fitted.facts["videos"]]))


def _card(run: Run, series: Series, fits: Fits) -> dict[str, str]:
    settings = ", ".join(f"{k} {v}" for k, v in fits.fitted.facts["settings"].items())
    unseen = f"{len(fits.fitted.facts['videos'])} unseen ones ({series.footage.unseen})"
    return {
        **cards.protocol(run, videos=unseen, definition=cards.PSNR),
        **cards.footage_card(manifest_of(series.held)),
        "nearest": "the training video of least squared error, without shifts",
        "fit": f"networks frozen; {settings}",
        "training": "equally long for every number of videos, so that more of them are each seen "
        "less often",
        **figures.ONE_SEED,
    }


def _table(footage: FootageSet, found: list[Fits], card: dict[str, str]) -> Table:
    lines = [
        (
            fits.trained, f"{fits.passes:,.0f}", f"{fits.own:.2f}",
            f"{_mean(fits.fitted, 'psnr'):.2f}", f"{_mean(fits.fitted, 'nearest_psnr'):.2f}",
            f"{(gains(fits.fitted) > 0).sum()} of {len(gains(fits.fitted))}",
            f"{gains(fits.fitted).min():+.2f}",
        )
        for fits in found
    ]  # fmt: skip
    return Table(f"Unseen footage: {footage.name}", COLUMNS, tuple(lines), card)


def _videos(footage: FootageSet, fits: Fits, card: dict[str, str]) -> Table:
    lines = [
        (v["name"], f"{v['psnr']:.2f}", f"{v['nearest_psnr']:.2f}", v["nearest"])
        for v in fits.fitted.facts["videos"]
    ]
    columns = ("unseen video", "fitted, dB", "nearest training video, dB", "which is")
    return Table(f"Unseen footage, each video: {footage.name}", columns, tuple(lines), card)


def claims_of(footage: FootageSet, fits: Fits) -> tuple[Claim, ...]:
    """3 dB above the nearest training video on average, and each video above it."""
    gain = gains(fits.fitted)
    return (
        Claim(
            f"{footage.name}: fitted videos on average 3 dB above the nearest training video",
            bool(gain.mean() >= 3),
            f"{gain.mean():+.2f} dB",
            f"{fits.trained} training videos are few: they themselves are at {fits.own:.2f} dB",
        ),
        Claim(
            f"{footage.name}: each fitted video above its nearest training video",
            bool((gain > 0).all()),
            f"{(gain > 0).sum()} of {len(gain)}, least {gain.min():+.2f} dB",
            f"{fits.trained} training videos are few: they themselves are at {fits.own:.2f} dB",
        ),
    )


def _pictures(context: Context, footage: FootageSet, run: Run, found: list[Fits]) -> list[Picture]:
    longer = extended(run, NEW)
    names = [video.name for video in longer.manifest.videos[len(run.manifest.videos) :]]
    chosen = [names[i] for i in render.spread(6, len(names))]
    clips = render.clips_of(longer, chosen)
    rows = pictures.real_above_generated(
        chosen, render.real_clips(longer, clips), render.render_clips(longer, clips)
    )
    file = re.sub(r"\W+", "-", footage.name)
    path = context.picture(f"unseen-{file}.png")
    pictures.write_png(path, pictures.sheet(rows))
    title = f"Unseen footage, {footage.name}: footage above what was fitted"
    shown = [Picture(title, str(path.relative_to(context.out)))]
    if len(found) > 1:
        at = [fits.trained for fits in found]
        lines = [
            Line("training videos", at, [fits.own for fits in found]),
            Line("fitted", at, [_mean(fits.fitted, "psnr") for fits in found]),
            Line("nearest training video", at, [_mean(f.fitted, "nearest_psnr") for f in found]),
            Line(
                "gap: training less fitted",
                at,
                [fits.own - _mean(fits.fitted, "psnr") for fits in found],
            ),
        ]
        path = context.picture(f"unseen-{file}-counts.png")
        write_plot(path, lines, x="training videos", y="PSNR, dB", log_x=True)
        title = (
            f"Unseen footage, {footage.name}: PSNR against the number of training videos, all "
            "trainings equally long"
        )
        shown.append(Picture(title, str(path.relative_to(context.out))))
    return shown


def count(footage: FootageSet, plan: Plan) -> int:
    """One training, or three; and those on more and more synthetic videos."""
    return (3 if plan.counts else 1) + (0 if footage.root else len(plan.grown))


STAGE = Stage("Unseen footage", count, run, (10.0, 0.0), fitting=7.5)
