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
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_shards.ending import ended
from data_shards.errors import UserError
from data_shards.manifest import MANIFEST
from trainer import render, summary
from trainer.cards import CELLS, Score, footage_card
from trainer.distances import (
    NOTHING,
    Wanted,
    add_options,
    check_wanted,
    extra_scores,
    open_wanted,
)
from trainer.fit import fit_set
from trainer.fitted import extended, open_like
from trainer.fitting import FitConfig
from trainer.held_out import NothingNewError, cell_scores, read_held_out, score_cells
from trainer.random_pairs import draw_random, random_scores
from trainer.reconstruction import score_clips, table_of
from trainer.vgg import ENVIRONMENT, Vgg, open_vgg

if TYPE_CHECKING:
    from trainer.run import Run

RESULT = "evaluation.json"
UNSEEN = "held-out"
"""Name of the fitted videos of an evaluation."""
STILL = "footage and generated videos move alike, to the last bit: the log10 of 0 is no figure"
AFAR = "the footage is in a store, where they are not looked for; give --held-out URL"


def evaluate(
    run: Run,
    *,
    videos: int = 500,
    randoms: int = 0,
    seed: int = 0,
    vgg: Vgg | None = None,
    held_out: str | None = None,
    cells_needed: bool = True,
    fit_steps: int = 0,
    wanted: Wanted = NOTHING,
) -> dict[str, Any]:
    """Every figure of a run, as evaluation.json holds them.

    Args:
        run: an opened run.
        videos: at most so many training videos, evenly spread; the first clip of each.
        randoms: so many random static x transient pairs are scored too (FCS, MCS), at most all
            that there are; 0 for none.
        seed: of the random pairs.
        vgg: feature network of MCS; None leaves MCS out.
        held_out: manifest of cells that were not trained on; None for none.
        cells_needed: whether it is an error that none of them is new to the run.
        fit_steps: steps of `trainer.fit` for the same videos, networks frozen; 0 leaves it out.
        wanted: figures beyond the paper's.

    Raises:
        UserError: damaged footage, or a figure that cannot be had of so few videos.
    """
    chosen = render.sound_videos(run, render.spread_videos(run, videos))
    seen = chosen.of(len(run.manifest.videos))
    drawn = draw_random(run, count=randoms, seed=seed) if randoms else None
    pairs = drawn.rows if drawn else None
    check_wanted(wanted, vgg=vgg, videos=[len(chosen.clips), *([len(pairs[0])] if pairs else [])])
    found = score_clips(run, chosen.clips, vgg=vgg)
    table = table_of(run, found, vgg=vgg, about={"videos": seen})
    if drawn:
        table += random_scores(run, found, drawn, vgg=vgg)
    made = drawn.words if drawn else ""
    table += extra_scores(run, chosen.clips, wanted, vgg=vgg, pairs=pairs, chosen=seen, made=made)
    cells, left_out = None, []
    if held_out:
        more, cells, left_out = held_out_scores(
            run, held_out, needed=cells_needed, steps=fit_steps, vgg=vgg
        )
        table += more
    show_extremes(run, chosen.names, chosen.clips, found.psnr_B)
    finite = [score for score in table if score.value != -math.inf]
    left_out += [{"name": s.name, "why": STILL} for s in table if s.value == -math.inf]
    per_video = zip(chosen.names, found.psnr_B, found.ssim_B, strict=True)
    return {
        "time": time.time(),
        "step": run.step,
        "scores": [score._asdict() for score in finite],
        "videos": [{"name": n, "psnr": float(p), "ssim": float(s)} for n, p, s in per_video],
        "held_out": cells,
        "left_out": left_out,
    }


def held_out_scores(
    run: Run, where: str, *, needed: bool, steps: int, vgg: Vgg | None
) -> tuple[list[Score], dict[str, Any] | None, list[dict[str, str]]]:
    """Figures of a held-out set, combined out of trained rows and, in so many `steps`, fitted: rows
    of the table, the cells, and what is left out.

    Raises:
        UserError: no cell is new to the run, one is `needed`, and nothing is fitted.
    """
    held, cells, table, left_out = read_held_out(run, where), None, [], []
    try:
        cells = score_cells(run, held)
        table = cell_scores(run, held, cells)
    except NothingNewError as error:
        if needed and not steps:  # to fit, videos need nothing in common with the training footage
            raise
        left_out = [{"name": CELLS, "why": str(error)}]
    if steps:
        table += unseen_scores(run, where, steps=steps, vgg=vgg)
    return table, cells, left_out


def unseen_scores(run: Run, where: str, *, steps: int, vgg: Vgg | None) -> list[Score]:
    """Figures of videos that were not trained on, once `trainer.fit` has found their latents.

    Unlike recombined ones they are in phase with their footage. Writes RUN/fitted/held-out.
    """
    fitted = fit_set(run, where, name=UNSEEN, config=FitConfig(steps=steps))
    more, first = extended(run, UNSEEN), run.manifest.clips
    clips = range(first, first + len(fitted.facts["videos"]))
    about = {
        "videos": f"{len(clips)} unseen, networks frozen, fitted in at most {steps} steps",
        **footage_card(open_like(run, where).manifest, where),
    }
    found = score_clips(more, clips, vgg=vgg)
    return table_of(more, found, vgg=vgg, about=about, suffix=", unseen")


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
            f"video {cells['nearest_psnr']:.2f} dB ({cells['compared']} compared)"
        )
        skipped = Counter(each["why"] for each in cells["skipped"])
        lines += [f"held out: {count} skipped: {why}" for why, count in skipped.items()]
    return "\n".join(lines)


@ended
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
    parser.add_argument(
        "--vgg", metavar="FILE",
        help=f"VGG16 weights, IMAGENET1K_FEATURES (or ${ENVIRONMENT})",
    )  # fmt: skip
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
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must be at least 0")
    wanted = open_wanted(options)
    run = open_run(options.run, checkpoint=render.checkpoint_of(options.checkpoint))
    beside = Path(run.config.data.manifest.removesuffix(MANIFEST)) / "held-out"
    held_out = options.held_out or (str(beside) if beside.is_dir() else None)
    if options.fit and not held_out:
        raise UserError(f"--fit: no {beside}; give --held-out DIR, a prepared set of new videos")
    vgg, why = (None, "--no-mcs") if options.no_mcs else find_vgg(options.vgg)
    check_wanted(wanted, vgg=vgg, videos=[options.videos, *filter(None, [options.random])])
    found = evaluate(
        run,
        videos=options.videos,
        randoms=options.random,
        seed=options.seed,
        vgg=vgg,
        held_out=held_out,
        cells_needed=bool(options.held_out),
        fit_steps=options.fit,
        wanted=wanted,
    )
    if not vgg:
        found["left_out"].append({"name": "MCS", "why": why})
    if not held_out and "://" in str(run.config.data.manifest):
        found["left_out"].append({"name": CELLS, "why": AFAR})
    part = run.folder / f".{RESULT}.part"
    part.unlink(missing_ok=True)  # whatever lies there, a link out of the folder too
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
