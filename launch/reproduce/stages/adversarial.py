"""The baselines of Tab. 2, trained here: MoCoGAN and VGAN for as long as the full model was.

Their videos come from random codes, ours from random pairs of learned rows; the same number of
videos, the same metrics, against the same real ones.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from launch.reproduce import figures, trainings
from launch.reproduce.baselines.game import Game, play, sample
from launch.reproduce.baselines.mocogan import mocogan
from launch.reproduce.baselines.vgan import vgan
from launch.reproduce.context import (
    Cell,
    Claim,
    Context,
    Picture,
    Stage,
    StageResult,
    Table,
    mean_std,
    merged,
)
from launch.reproduce.figures import Figures
from launch.reproduce.footage import FootageSet, manifest_of
from launch.reproduce.planner import Plan
from trainer import pictures, render
from trainer.commit import replace_durable
from trainer.generate import draw_pairs
from trainer.pictures import to_pixels
from trainer.run import open_run

BASELINES: dict[str, Callable[..., Game]] = {"MoCoGAN": mocogan, "VGAN": vgan}
UNTIMED_MINUTES = 60.0
"""Where presets say how long ours trains."""


def run(context: Context) -> StageResult:
    """Every data set in turn."""
    return merged([_one(context, footage) for footage in context.sets])


def videos_of(context: Context, data: Path, name: str, *, seed: int) -> np.ndarray:
    """Videos of a baseline trained on a set, once for equal settings: uint8 (B, T, H, W, 3)."""
    facts, plan = manifest_of(data), context.plan
    key = repr((name, seed, facts.fingerprint, plan.minutes, plan.baseline_steps, plan.randoms))
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    path = context.out / "baselines" / f"{data.name}-{name}-s{seed}-{digest}.safetensors"
    if not path.exists():
        print(f"training {path.stem}", file=sys.stderr, flush=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            game = BASELINES[name](frames=facts.frames, size=facts.height)
        length = plan.minutes or UNTIMED_MINUTES
        steps = play(game, str(data), seed=seed, minutes=length, steps=plan.baseline_steps or None)
        videos = torch.from_numpy(to_pixels(sample(game, plan.randoms, seed=seed)))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durable(path, save({"videos": videos, "steps": torch.tensor([steps])}))
    return load_file(path)["videos"].numpy()


def _one(context: Context, footage: FootageSet) -> StageResult:
    data = trainings.whole_set(context, footage)
    rows: dict[str, list[Figures]] = {name: [] for name in (*BASELINES, "ours")}
    sheet, bound, card = [], 0.0, {}
    for seed in trainings.seeds(context):
        trained = open_run(trainings.full_model(context, footage, seed=seed))
        real = render.real_clips(trained, figures.scored_clips(trained, context.plan.videos))
        bound = figures.bound_of(real)
        pairs = draw_pairs(trained, count=context.plan.randoms, seed=seed)
        ours = render.render(trained, *pairs)
        others = {name: videos_of(context, data, name, seed=seed) for name in BASELINES}
        for name, videos in {**others, "ours": ours}.items():
            rows[name].append(figures.measure(videos, real, vgg=context.vgg, paired=False))
            if not seed:
                sheet += [pictures.Row(name, video, len(sheet) // 3) for video in videos[:3]]
        card = figures.card(trained, videos=f"{context.plan.randoms} random ones", vgg=context.vgg)
    path = context.picture(f"fig5-baselines-{footage.name}.png")
    pictures.write_png(path, pictures.sheet(sheet))
    title = f"Fig. 5: random videos of the baselines and of ours; {footage.name}"
    return StageResult(
        (_table(footage, rows, bound, {**card, "training": "equal wall time"}),),
        claims_of(footage, rows, bound),
        (Picture(title, str(path.relative_to(context.out))),),
    )


def _table(
    footage: FootageSet, rows: dict[str, list[Figures]], bound: float, card: dict[str, str]
) -> Table:
    lines: list[tuple[Cell, ...]] = [("bound (real videos)", None, f"{bound:.3f}", "0.000")]
    for name, several in rows.items():
        mcs = [one.mcs for one in several if one.mcs is not None]
        distance = mean_std([abs(one.fcs - bound) for one in several])
        fcs = mean_std([one.fcs for one in several])
        lines.append((name, mean_std(mcs, digits=2), fcs, distance))
    columns = ("", "MCS", "FCS", "distance to the bound")
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
        claims.append(Claim(text, gap["ours"] < gap[name], detail))
        text = f"{footage.name}: lower MCS than {name}"
        if not mcs["ours"]:
            claims.append(Claim(text, None, "no feature network was given"))
            continue
        pair = [float(np.mean(mcs[who])) for who in ("ours", name)]
        claims.append(Claim(text, pair[0] < pair[1], f"{pair[0]:.2f} against {pair[1]:.2f}"))
    return tuple(claims)


def count(sets: Sequence[FootageSet], plan: Plan) -> int:
    """Both baselines with every seed."""
    return len(BASELINES) * plan.seeds * len(sets)


STAGE = Stage("Tab. 2 and Fig. 5: adversarial baselines", count, run, (5.0, 21.0), fixed=True)
