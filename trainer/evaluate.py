"""How good a run is: PSNR, SSIM, FCS beside its bound, MCS, and combinations never trained on.

    python -m trainer.evaluate RUN [--vgg FILE] [--videos 500] [--random 500] [--held-out DIR]
        [--frechet] [--lpips FILE] [--fvd FILE --fvd-sha256 HASH --allow-code]

Sec. 4.2 and Tab. 2 to 4. Prints a table and writes RUN/evaluation.json, samples/best.png and
samples/worst.png. Each figure carries a card with its protocol: figures with different cards must
not be compared. Where no VGG16 weights can be had, MCS is left out and the reason is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data_shards.errors import UserError
from data_shards.manifest import MANIFEST
from trainer import generate, render, scores, summary
from trainer.cards import FCS, MCS, Score, footage_card, network, protocol
from trainer.distances import NOTHING, Wanted, add_options, extra_scores, open_wanted
from trainer.fit import fit_set
from trainer.fitted import extended, open_like
from trainer.fitting import FitConfig
from trainer.held_out import cell_scores, read_held_out, score_cells
from trainer.reconstruction import Scored, in_parts, motion_sum, score_clips, table_of
from trainer.vgg import ENVIRONMENT, Vgg, open_vgg

if TYPE_CHECKING:
    from trainer.run import Run

RESULT = "evaluation.json"
UNSEEN = "held-out"
"""Name of the fitted videos of an evaluation."""


def evaluate(
    run: Run,
    *,
    videos: int = 500,
    randoms: int = 0,
    seed: int = 0,
    vgg: Vgg | None = None,
    held_out: str | None = None,
    fit_steps: int = 0,
    wanted: Wanted = NOTHING,
) -> dict[str, Any]:
    """Every figure of a run, as evaluation.json holds them.

    Args:
        run: an opened run.
        videos: at most so many training videos, evenly spread; the first clip of each.
        randoms: so many random static x transient pairs are scored too (FCS, MCS); 0 for none.
        seed: of the random pairs.
        vgg: feature network of MCS; None leaves MCS out.
        held_out: manifest of cells that were not trained on; None for none.
        fit_steps: steps of `trainer.fit` for the same videos, networks frozen; 0 leaves it out.
        wanted: figures beyond the paper's.
    """
    names = render.spread_videos(run, videos)
    clips = render.clips_of(run, names)
    found = score_clips(run, clips, vgg=vgg)
    table = training_scores(run, found, vgg=vgg)
    if randoms:
        table += random_scores(run, found, count=randoms, seed=seed, vgg=vgg)
    pairs = generate.draw_pairs(run, count=randoms, seed=seed) if randoms else None
    chosen = f"{len(clips)} of {len(run.manifest.videos)}"
    table += extra_scores(run, clips, wanted, vgg=vgg, pairs=pairs, chosen=chosen)
    cells, left_out = None, []
    if held_out:
        held = read_held_out(run, held_out)
        try:
            cells = score_cells(run, held)
            table += cell_scores(run, held, cells)
        except UserError as error:
            if not fit_steps:  # to fit, videos need nothing in common with the training footage
                raise
            left_out.append({"name": "held-out cells", "why": str(error)})
        table += unseen_scores(run, held_out, steps=fit_steps, vgg=vgg) if fit_steps else []
    show_extremes(run, names, clips, found.psnr_B)
    per_video = zip(names, found.psnr_B, found.ssim_B, strict=True)
    return {
        "time": time.time(),
        "step": run.step,
        "scores": [score._asdict() for score in table],
        "videos": [{"name": n, "psnr": float(p), "ssim": float(s)} for n, p, s in per_video],
        "held_out": cells,
        "left_out": left_out,
    }


def training_scores(run: Run, found: Scored, *, vgg: Vgg | None) -> list[Score]:
    """PSNR, SSIM, FCS and MCS of reconstructed training videos."""
    seen = f"{len(found.psnr_B)} of {len(run.manifest.videos)}"
    return table_of(run, found, vgg=vgg, about={"videos": seen})


def unseen_scores(run: Run, where: str, *, steps: int, vgg: Vgg | None) -> list[Score]:
    """The same of videos that were not trained on, after `trainer.fit` has found their latents.

    Unlike recombined ones they are in phase with their footage. Writes RUN/fitted/held-out.
    """
    fitted = fit_set(run, where, name=UNSEEN, config=FitConfig(steps=steps))
    more, first = extended(run, UNSEEN), run.manifest.clips
    clips = range(first, first + len(fitted.facts["videos"]))
    about = {
        "videos": f"{len(clips)} unseen, networks frozen, fitted in at most {steps} steps",
        **footage_card(open_like(run, where).manifest),
    }
    found = score_clips(more, clips, vgg=vgg)
    return table_of(more, found, vgg=vgg, about=about, suffix=", unseen")


def random_scores(
    run: Run, found: Scored, *, count: int, seed: int, vgg: Vgg | None
) -> list[Score]:
    """FCS and MCS of random pairs of rows against the same real videos (Sec. 4.4.1)."""
    static, transient = generate.draw_pairs(run, count=count, seed=seed)
    consistency, motion = [], []
    for part in in_parts(range(count), label="random videos"):
        videos = render.render(run, static[list(part)], transient[list(part)])
        consistency.append(scores.fcs(videos))
        if vgg:
            motion.append(motion_sum(vgg, videos))
    chosen = f"{count} random static x transient pairs, seed {seed}"
    fcs, bound = float(np.concatenate(consistency).mean()), float(found.bound_B.mean())
    card = protocol(run, videos=chosen, definition=FCS)
    better = "higher, up to the bound"
    table = [Score("FCS, random", fcs, "", better, bound, abs(fcs - bound), card)]
    if vgg and found.real_K is not None:
        value = scores.mcs(found.real_K, torch.stack(motion).sum(dim=0) / count)
        card = protocol(run, videos=chosen, definition=MCS, **network(vgg))
        table.append(Score("MCS, random", value, "", "lower", None, None, card))
    return table


def show_extremes(run: Run, names: list[str], clips: list[int], psnr_B: np.ndarray) -> None:
    """Pictures of the three best and the three worst videos, into the samples folder."""
    order = np.argsort(psnr_B, kind="stable")
    at = sorted({*order[:3].tolist(), *order[-3:].tolist()})
    chosen = [clips[i] for i in at]
    real, fake = render.real_clips(run, chosen), render.render_clips(run, chosen)
    summary.write_extremes(run.folder / "samples", [names[i] for i in at], real, fake)


# Entry point ---------------------------------------------------------------------------------


def as_text(found: dict[str, Any]) -> str:
    """The figures as a table for a terminal."""
    lines = [f"{'':20}{'value':>10}  {'bound':>8}  {'distance':>8}  better"]
    for score in found["scores"]:
        bound, distance = (
            "" if score[name] is None else f"{score[name]:.4f}" for name in ("bound", "distance")
        )
        value = f"{score['value']:.2f} dB" if score["unit"] == "dB" else f"{score['value']:.4f}"
        lines.append(f"{score['name']:20}{value:>10}  {bound:>8}  {distance:>8}  {score['better']}")
    lines += [f"{item['name']:20}{'-':>10}  left out: {item['why']}" for item in found["left_out"]]
    cells = found["held_out"]
    if cells:
        lines.append(
            f"held out: {len(cells['cells'])} cells, PSNR {cells['psnr']:.2f} dB; nearest training "
            f"video {cells['nearest_psnr']:.2f} dB"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Evaluate a run; 0 when evaluation.json is written, 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest, or a step (default: latest)"
    )
    parser.add_argument("--vgg", metavar="FILE", help=f"VGG16 weights (or ${ENVIRONMENT})")
    parser.add_argument("--no-mcs", action="store_true", help="leave MCS out, look for no weights")
    parser.add_argument("--videos", type=int, default=500, help="at most so many (default: 500)")
    parser.add_argument("--random", type=int, default=0, help="score N random pairs too")
    parser.add_argument("--seed", type=int, default=0, help="of the random pairs (default: 0)")
    parser.add_argument("--held-out", metavar="DIR", help="default: held-out beside the manifest")
    parser.add_argument(
        "--fit", metavar="STEPS", type=int, default=0,
        help="also fit latents to the held-out videos, networks frozen, and score them",
    )  # fmt: skip
    add_options(parser)
    options = parser.parse_args(argv)
    try:
        found = _evaluate(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(as_text(found))
    print(f"wrote {options.run / RESULT}")
    return 0


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from trainer.run import open_run

    if options.videos < 1 or options.random < 0 or options.fit < 0:
        raise UserError("--videos must be at least 1, --random and --fit at least 0")
    wanted = open_wanted(options)
    vgg, why = (None, "--no-mcs") if options.no_mcs else find_vgg(options.vgg)
    run = open_run(options.run, checkpoint=render.checkpoint_of(options.checkpoint))
    beside = Path(run.config.data.manifest.removesuffix(MANIFEST)) / "held-out"
    held_out = options.held_out or (str(beside) if beside.is_dir() else None)
    if options.fit and not held_out:
        raise UserError(f"--fit: no {beside}; give --held-out DIR, a prepared set of new videos")
    found = evaluate(
        run,
        videos=options.videos,
        randoms=options.random,
        seed=options.seed,
        vgg=vgg,
        held_out=held_out,
        fit_steps=options.fit,
        wanted=wanted,
    )
    if not vgg:
        found["left_out"].append({"name": "MCS", "why": why})
    part = run.folder / f".{RESULT}.part"
    part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    part.replace(run.folder / RESULT)
    return found


def find_vgg(file: str | None) -> tuple[Vgg | None, str]:
    """The feature network, or None and why MCS is left out.

    Raises:
        UserError: weights were named, and are not there or not VGG16's.
    """
    try:
        return open_vgg(file), ""
    except UserError as error:
        if file or os.environ.get(ENVIRONMENT):
            raise
        return None, f"{error}; or give --vgg FILE"


if __name__ == "__main__":
    sys.exit(main())
