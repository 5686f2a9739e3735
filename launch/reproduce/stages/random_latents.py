"""Tab. 4a: videos of learned latents (+Z) against those of random ones (-Z), same networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from launch.reproduce import draws, figures, over_seeds, paper, trainings
from launch.reproduce.context import (
    Claim,
    Context,
    Model,
    Stage,
    StageResult,
    Table,
    merged,
    models,
    seeds_on,
)
from launch.reproduce.draws import Draw
from launch.reproduce.figures import BOUND, Figures
from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Plan
from launch.reproduce.stages.ablation import RANDOM_COLUMNS
from launch.reproduce.stages.adversarial import ON_AVERAGE, ONLY_ITSELF
from launch.reproduce.verdicts import against
from trainer import render
from trainer.pictures import to_pixels
from trainer.projections import unit_ball_
from trainer.run import Run, open_run


def run(context: Context) -> StageResult:
    """Every data set in turn."""
    trainings.train(context, [t for f in context.sets for t in trainings.full_models(context, f)])
    return merged([_one(context, footage) for footage in context.sets])


@torch.inference_mode()
def random_videos(run: Run, count: int, *, seed: int) -> np.ndarray:
    """Videos of Gaussian latents that were never learned, in the unit ball: uint8 (B, T, H, W, 3).

    A static code and T transient ones are drawn independently, on average as long as learned ones.
    """
    draw = torch.Generator().manual_seed(seed)
    layout, frames = run.config.latents, run.manifest.frames
    lengths = learned_lengths(run)
    parts = []
    for part in torch.arange(count).split(render.CLIPS_AT_ONCE):
        static = torch.randn(len(part), layout.static, generator=draw)
        moving = torch.randn(len(part), frames, layout.transient, generator=draw)
        codes = [
            unit_ball_(x / x.shape[-1] ** 0.5 * length)
            for x, length in zip((static, moving), lengths, strict=True)
        ]
        parts.append(to_pixels(run.networks(*codes)[0]))
    return np.concatenate(parts)


def learned_lengths(run: Run) -> tuple[float, float]:
    """Mean l2 norm of learned static and transient codes, over at most 512 rows of each."""
    static, moving = (rows[render.spread(512, len(rows))] for rows in render.trained_rows(run))
    codes_BS = run.latents(torch.as_tensor(static), torch.zeros(len(static), dtype=torch.int64))[0]
    codes_BTM = run.latents(torch.zeros(len(moving), dtype=torch.int64), torch.as_tensor(moving))[1]
    own_BS = codes_BS[:, : run.config.latents.static]  # without labels
    return float(own_BS.norm(dim=-1).mean()), float(codes_BTM.norm(dim=-1).mean())


def _one(context: Context, footage: FootageSet) -> StageResult:
    learned: list[Figures] = []
    random: list[Figures] = []
    drawn: list[Draw] = []
    lengths: list[str] = []
    trained = truth = None
    for seed in trainings.seeds(context, footage):
        trained = open_run(trainings.full_model(context, footage, seed=seed))
        if truth is None:  # the same clips of every run
            real = render.real_clips(trained, figures.scored_clips(trained, context.plan.videos))
            truth = figures.truth_of(real, vgg=context.vgg)
        draw = draws.random_pairs(trained, context.plan.randoms, seed=seed)
        drawn.append(draw)
        lengths.append(trainings.length_told(trained))
        count = len(draw.static_B)
        for found, videos in (
            (learned, render.render(trained, draw.static_B, draw.transient_B)),
            (random, random_videos(trained, count, seed=seed)),
        ):
            found.append(figures.measure(videos, truth, paired=False))
    assert trained is not None and truth is not None
    shown = f"+Z: {draws.words(drawn)}; -Z: as many of Gaussian codes, each frame's drawn by "
    shown += "itself, on average as long as learned ones"
    card = {
        **figures.card(trained, videos=shown, vgg=context.vgg, columns=RANDOM_COLUMNS),
        "training": f"the full models of the ablation: {'; '.join(lengths)}",
        "loss": trainings.loss_told(trained.config.loss.regression),
        **over_seeds.seeds_card(len(drawn)),
    }
    rows = {"-Z": random, "+Z": learned}
    table = table_of(footage, figures.references(truth), rows, card)
    return StageResult((table,), claims_of(footage, rows, truth.fcs))


def table_of(
    footage: FootageSet, references: Mapping[str, Figures], rows: Mapping[str, list[Figures]],
    card: dict[str, str],
) -> Table:  # fmt: skip
    """Reference rows, random and learned latents over seeds, and the paper's figures."""
    quoted = paper.TABLE_4A if footage.paper == "chair_cad" else {}
    lines = figures.reference_cells(references)
    lines += [(name, *figures.cells(found, references[BOUND].fcs)) for name, found in rows.items()]
    lines = [(*line, *quoted.get(str(line[0]), (None, None))) for line in lines]
    note = figures.ahead(references, "+Z", rows["+Z"], columns=RANDOM_COLUMNS)
    note = f"{paper.NOTE} {note}" if quoted else note
    return Table(f"Tab. 4a: {footage.name}", RANDOM_COLUMNS, tuple(lines), card, note)


def claims_of(
    footage: FootageSet, rows: Mapping[str, list[Figures]], bound: float
) -> tuple[Claim, ...]:
    """Learned latents are better than random ones on both figures, by more than seeds differ."""
    gap = {name: [abs(f.fcs - bound) for f in several] for name, several in rows.items()}
    mcs = {name: [f.mcs for f in v if f.mcs is not None] for name, v in rows.items()}
    text = f"{footage.name}: learned latents come closer to the FCS bound than random ones"
    claims = [against(text, gap["+Z"], gap["-Z"], digits=3, cause=ONLY_ITSELF)]
    if mcs["+Z"]:
        text = f"{footage.name}: learned latents have a lower MCS than random ones"
        claims.append(against(text, mcs["+Z"], mcs["-Z"], digits=2, cause=ON_AVERAGE))
    return tuple(claims)


def count(footage: FootageSet, plan: Plan) -> int:
    """None of its own: the full models of the ablation."""
    return 0


def uses(footage: FootageSet, plan: Plan) -> frozenset[Model]:
    """The full model with every seed."""
    return models(("full",), seeds_on(footage, plan))


STAGE = Stage("Tab. 4a: learned and random latents", count, run, (4.0, 9.0), uses=uses)
