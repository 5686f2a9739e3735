"""Pictures: the losses (Fig. 4 right), learned and random latents (as in Tab. 4a), sheets of videos
(Fig. 5, 9 to 11), 500 random videos, and the dictionary: an explorer page, its principal plane, the
energy of its motions by rank."""

from __future__ import annotations

import numpy as np

from launch.reproduce import draws, trainings
from launch.reproduce.context import Context, Picture, Stage, StageResult, merged
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.plots import Line, write_plot
from launch.reproduce.stages.random_latents import random_videos
from launch.reproduce.variants import VARIANTS, variant
from trainer import explorer, pictures, render
from trainer.generate import draw_pairs
from trainer.run import Run, open_run

EXPLORED = 8
"""Rows of each table on the explorer page."""
MOVING = 25
"""Random videos of the wall that fits on a page."""
PATHS = 10
"""Motions on the plot of the plane."""
LEFT = (
    "Fig. 4 left is not here: it shows a model that was trained without optimising its latents. "
    "Random latents are given to the trained model, as in Tab. 4a"
)


def run(context: Context) -> StageResult:
    """All trainings, the full models first, which say how many steps the others take; then every
    data set in turn."""
    for names in (("full",), tuple(VARIANTS)):
        wanted = [variant(context, f, name, 0) for f in context.sets for name in names]
        trainings.train(context, wanted)
    found = merged([_one(context, footage) for footage in context.sets])
    return found._replace(notes=(LEFT,))


def _one(context: Context, footage: FootageSet) -> StageResult:
    full = open_run(trainings.full_model(context, footage))
    name = footage.name
    sheets = (
        ("fig5", "Fig. 5 and 9 to 11: footage above generated", _training_rows(full)),
        ("tab4a", "As in Tab. 4a: learned (+Z) and random (-Z) latents", _latent_rows(full)),
        ("fig4-losses", "Fig. 4 right: with and without the losses", _loss_rows(context, footage)),
    )
    shown = [
        _sheet(context, f"{key}-{name}", f"{title}; {name}", rows) for key, title, rows in sheets
    ]
    dictionary = _dictionary(context, footage, full)
    return StageResult(pictures=(*shown, *_wall(context, footage, full), *dictionary))


def _training_rows(run: Run) -> list[pictures.Row]:
    names = render.spread_videos(run, 6)
    clips = render.clips_of(run, names)
    return pictures.real_above_generated(
        names, render.real_clips(run, clips), render.render_clips(run, clips)
    )


def _latent_rows(run: Run) -> list[pictures.Row]:
    learned = render.render(run, *draw_pairs(run, count=3, seed=0))
    drawn = random_videos(run, 3, seed=0)
    return [
        pictures.Row(label, video, group)
        for group, (label, videos) in enumerate((("+Z", learned), ("-Z", drawn)))
        for video in videos
    ]


def _loss_rows(context: Context, footage: FootageSet) -> list[pictures.Row]:
    rows = []
    for name in VARIANTS:
        run = open_run(trainings.trained(context, *variant(context, footage, name, 0)))
        clips = render.clips_of(run, render.spread_videos(run, 2))
        if not rows:
            rows += [pictures.Row("footage", video, 0) for video in render.real_clips(run, clips)]
        group = 1 + list(VARIANTS).index(name)
        rows += [pictures.Row(name, video, group) for video in render.render_clips(run, clips)]
    return rows


def _sheet(context: Context, name: str, title: str, rows: list[pictures.Row]) -> Picture:
    path = context.picture(f"{name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    return Picture(title, str(path.relative_to(context.out)))


def _wall(context: Context, footage: FootageSet, run: Run) -> list[Picture]:
    count = context.plan.wall
    pairs = draw_pairs(run, count=count, seed=0)
    videos: np.ndarray = render.render(run, *pairs)
    different, shown = draws.distinct(run, *pairs)
    wall = pictures.wall(videos)
    still, film, small = (
        context.picture(f"random-{footage.name}.{end}") for end in ("png", "mp4", "gif")
    )
    pictures.write_png(still, pictures.picture(wall[len(wall) // 2]))
    pictures.write_mp4(film, wall, loops=3)
    pictures.write_gif(small, pictures.wall(videos[:MOVING]))
    name = footage.name
    titles = (
        f"{count} random videos of the dictionary, {name}: their middle frames; {different} of "
        f"them are different ones, of which training shows {shown}",
        f"The same, moving, {name}",
        f"The first {min(count, MOVING)} of them, moving, {name}",
    )
    return [
        Picture(title, str(path.relative_to(context.out)))
        for title, path in zip(titles, (still, film, small), strict=True)
    ]


def _dictionary(context: Context, footage: FootageSet, run: Run) -> list[Picture]:
    """The explorer page, and its two plots as pictures."""
    name, layout = footage.name, run.config.latents
    page, plane, energy = (
        context.picture(file)
        for file in (f"explorer-{name}.html", f"plane-{name}.png", f"energy-{name}.png")
    )
    explorer.write_explorer(run, page, count=EXPLORED, title=name)
    views = explorer.views_of(run)
    moving = zip(views.transient_N[:PATHS], views.transient_NT2.tolist(), strict=False)
    paths = [
        Line(
            render.row_name(run.manifest, layout.transient_key, int(row)),
            [x for x, _ in path], [y for _, y in path],
        )
        for row, path in moving
    ]  # fmt: skip
    write_plot(plane, paths, x="first direction", y="second direction")
    lines = [
        Line(label, range(1, len(shares) + 1), shares.tolist())
        for label, shares in (
            ("within a clip, mean over clips", views.energy["clip"]),
            ("all codes as one matrix", views.energy["dictionary"]),
        )
    ]
    write_plot(energy, lines, x="rank", y="share of the codes' energy", log_x=True)
    titles = (
        f"Explorer, {name}: any content with any motion, pre-rendered",
        f"Motions of the dictionary, {name}: PCA of the transient codes, a line through time each",
        f"Energy of the transient codes by rank, {name}",
    )
    files = (page, plane, energy)
    return [
        Picture(title, str(path.relative_to(context.out)))
        for title, path in zip(titles, files, strict=True)
    ]


def count(footage: FootageSet, plan: Plan) -> int:
    """None of its own: those of the ablation."""
    return 0


STAGE = Stage("Pictures", count, run, (45.0, 0.0), uses=lambda footage, plan: len(VARIANTS))
