"""Pictures: latents that are not optimised and the losses (Fig. 4), learned and random latents (as
in Tab. 4a), sheets of videos (Fig. 5, 9 to 11), 500 random videos, and the dictionary: an explorer
page, its principal plane, the energy of its motions by rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from launch.reproduce import draws, trainings
from launch.reproduce.context import Context, Picture, Stage, StageResult, merged, models
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.plots import Line, write_plot
from launch.reproduce.stages.random_latents import random_videos
from launch.reproduce.variants import OWN, STILL, VARIANTS, variant
from trainer import explorer, pictures, render
from trainer.commit import read_json
from trainer.generate import draw_pairs
from trainer.leaving import RUN_FILE
from trainer.run import Run, open_run

EXPLORED = 8
"""Rows of each table on the explorer page."""
MOVING = 25
"""Random videos of the wall that fits on a page."""
PATHS = 10
"""Motions on the plot of the plane."""
UNMOVED = (
    "Fig. 4 left: begin.latents=random and latents.rate=1e-30, which moves nothing (a rate of 0 is "
    "refused); as many steps as with optimised latents, which begin as the presets say"
)
ELSEWHERE = (
    "Fig. 4 left is made of the chairs alone, as in the paper; a longer budget has every set"
)


def has_left(footage: FootageSet, plan: Plan) -> bool:
    """Whether a set gets Fig. 4 left, which takes a training of its own: the paper's chairs, and
    all sets in long budgets, in those without a limit, or where there is no real footage."""
    return footage.paper == "chair_cad" or plan.counts or not plan.synthetic_seeds


def run(context: Context) -> StageResult:
    """All trainings, the full models first, which say how many steps the others take; then every
    data set in turn."""
    left = [footage for footage in context.sets if has_left(footage, context.plan)]
    for names in (("full", OWN), tuple(VARIANTS)):
        wanted = [variant(context, f, name, 0) for f in context.sets for name in names]
        if names == tuple(VARIANTS):
            wanted += [variant(context, footage, STILL, 0) for footage in left]
        trainings.train(context, wanted)
    found = merged([_one(context, footage) for footage in context.sets])
    notes = ((UNMOVED,) if left else ()) + ((ELSEWHERE,) if len(left) < len(context.sets) else ())
    return found._replace(notes=notes)


def _one(context: Context, footage: FootageSet) -> StageResult:
    full = open_run(trainings.full_model(context, footage))
    name = footage.name
    sheets = [
        ("fig5", "Fig. 5 and 9 to 11: footage above generated", _training_rows(full)),
        ("tab4a", "As in Tab. 4a: learned (+Z) and random (-Z) latents", _latent_rows(full)),
    ]
    if has_left(footage, context.plan):
        title = f"Fig. 4 left: with and without optimising the latents: {_fits(context, footage)}"
        sheets.append(("fig4-latents", title, _rows_of(context, footage, (STILL, "full"))))
    title = "Fig. 4 right: with and without the losses"
    sheets.append(("fig4-losses", title, _rows_of(context, footage, tuple(VARIANTS))))
    shown = [
        _sheet(context, f"{key}-{name}", f"{title}; {name}", rows) for key, title, rows in sheets
    ]
    dictionary = _dictionary(context, footage, full)
    own = open_run(trainings.trained(context, *variant(context, footage, OWN, 0)))
    return StageResult(pictures=(*shown, *_wall(context, footage, full, own), *dictionary))


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


def _rows_of(context: Context, footage: FootageSet, names: Sequence[str]) -> list[pictures.Row]:
    """Two training videos, and what each of the models makes of them."""
    rows = []
    for group, name in enumerate(names, 1):
        run = open_run(trainings.trained(context, *variant(context, footage, name, 0)))
        clips = render.clips_of(run, render.spread_videos(run, 2))
        if not rows:
            rows += [pictures.Row("footage", video, 0) for video in render.real_clips(run, clips)]
        rows += [pictures.Row(name, video, group) for video in render.render_clips(run, clips)]
    return rows


def _fits(context: Context, footage: FootageSet) -> str:
    """How well both models of Fig. 4 left reproduce all training videos, in words."""
    found = []
    for name in (STILL, "full"):
        folder = trainings.trained(context, *variant(context, footage, name, 0))
        facts = read_json(folder / RUN_FILE)
        found.append(f"{name} {facts['final']['psnr']:.2f} dB after {facts['step']} steps")
    return ", ".join(found)


def _sheet(context: Context, name: str, title: str, rows: list[pictures.Row]) -> Picture:
    path = context.picture(f"{name}.png")
    pictures.write_png(path, pictures.sheet(rows))
    return Picture(title, str(path.relative_to(context.out)))


def _wall(context: Context, footage: FootageSet, full: Run, own: Run) -> list[Picture]:
    """Random videos that training does not show, no pair of rows twice; where there is no such pair
    those of the full model."""
    most = context.plan.wall
    known = draws.random_pairs(full, most, seed=0)
    fresh = draws.new_pairs(own, most, seed=0)
    run, draw = (own, fresh) if len(fresh.static_B) else (full, known)
    videos: np.ndarray = render.render(run, draw.static_B, draw.transient_B)
    count = len(videos)
    wall = pictures.wall(videos)
    still, film, small = (
        context.picture(f"random-{footage.name}.{end}") for end in ("png", "mp4", "gif")
    )
    pictures.write_png(still, pictures.picture(wall[len(wall) // 2]))
    pictures.write_mp4(film, wall, loops=3)
    pictures.write_gif(small, pictures.wall(videos[:MOVING]))
    name = footage.name
    about = f"rows {'by video' if draw.new else 'of the full model'}, {draws.words([draw])}"
    if draw.new:
        about += f"; the full model's own rows have but {draws.words([known])}"
    titles = (
        f"{count} random videos of the dictionary, {name}, all different: their middle frames; "
        f"{about}",
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
    """Latents that are not optimised; all else is of the ablation."""
    return int(has_left(footage, plan))


STAGE = Stage(
    "Pictures", count, run, (27.0, 0.0), fixed=True,
    uses=lambda footage, plan: models((*VARIANTS, OWN), 1),
)  # fmt: skip
