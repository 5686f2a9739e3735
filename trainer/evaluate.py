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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from data_shards.manifest import MANIFEST
from trainer import generate, render, scores, summary
from trainer.cards import FCS, MCS, PSNR, SSIM, Score, network, protocol
from trainer.distances import NOTHING, Wanted, add_options, extra_scores, open_wanted
from trainer.held_out import cell_scores, read_held_out, score_cells
from trainer.progress import progress
from trainer.vgg import ENVIRONMENT, Vgg, motion_of, open_vgg

if TYPE_CHECKING:
    from trainer.run import Run

RESULT = "evaluation.json"
HIGHEST_DB = 100.0
"""PSNR of equal frames, which is infinite, in means and files."""


class Scored(NamedTuple):
    """Figures of each video, and the mean motion features; of a part of them, their sums."""

    psnr_B: np.ndarray
    ssim_B: np.ndarray
    fcs_B: np.ndarray
    bound_B: np.ndarray
    fake_K: torch.Tensor | None
    real_K: torch.Tensor | None


def evaluate(
    run: Run,
    *,
    videos: int = 500,
    randoms: int = 0,
    seed: int = 0,
    vgg: Vgg | None = None,
    held_out: str | None = None,
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
    cells = None
    if held_out:
        held = read_held_out(run, held_out)
        cells = score_cells(run, held, vgg=vgg)
        table += cell_scores(run, held, cells, vgg=vgg)
    show_extremes(run, names, clips, found.psnr_B)
    per_video = zip(names, found.psnr_B, found.ssim_B, strict=True)
    return {
        "time": time.time(),
        "step": run.step,
        "scores": [score._asdict() for score in table],
        "videos": [{"name": n, "psnr": float(p), "ssim": float(s)} for n, p, s in per_video],
        "held_out": cells,
        "left_out": [],
    }


def score_clips(run: Run, clips: Sequence[int], *, vgg: Vgg | None) -> Scored:
    """Compare clips with their reconstructions, a few at a time."""
    parts = []
    for part in _in_parts(clips, label="scoring"):
        real, fake = render.real_clips(run, part), render.render_clips(run, part)
        psnr_B = np.minimum(scores.video_psnr(fake, real), HIGHEST_DB)
        ssim_B = scores.ssim(fake, real).mean(axis=1)
        features = (_motion(vgg, fake), _motion(vgg, real)) if vgg else (None, None)
        parts.append(Scored(psnr_B, ssim_B, scores.fcs(fake), scores.fcs(real), *features))
    return Scored(
        *(np.concatenate([part[i] for part in parts]) for i in range(4)),  # pyright: ignore
        *(sum(part[i] for part in parts) / len(clips) if vgg else None for i in (4, 5)),
    )


def training_scores(run: Run, found: Scored, *, vgg: Vgg | None) -> list[Score]:
    """PSNR, SSIM, FCS and MCS of reconstructed training videos."""
    count = len(found.psnr_B)

    def card(definition: str, **more: str) -> dict[str, str]:
        return protocol(
            run, videos=f"{count} of {len(run.manifest.videos)}", definition=definition, **more
        )

    fcs, bound = float(found.fcs_B.mean()), float(found.bound_B.mean())
    table = [
        Score("PSNR", float(found.psnr_B.mean()), "dB", "higher", None, None, card(PSNR)),
        Score("SSIM", float(found.ssim_B.mean()), "", "higher", None, None, card(SSIM)),
        Score("FCS", fcs, "", "higher, up to the bound", bound, abs(fcs - bound), card(FCS)),
    ]
    if vgg and found.real_K is not None and found.fake_K is not None:
        still = scores.mcs(found.real_K, torch.zeros_like(found.real_K))
        more = {**network(vgg), "of a frozen first frame": f"{still:.2f}"}
        value = scores.mcs(found.real_K, found.fake_K)
        table.append(Score("MCS", value, "", "lower", None, None, card(MCS, **more)))
    return table


def random_scores(
    run: Run, found: Scored, *, count: int, seed: int, vgg: Vgg | None
) -> list[Score]:
    """FCS and MCS of random pairs of rows against the same real videos (Sec. 4.4.1)."""
    static, transient = generate.draw_pairs(run, count=count, seed=seed)
    consistency, motion = [], []
    for part in _in_parts(range(count), label="random videos"):
        videos = render.render(run, static[list(part)], transient[list(part)])
        consistency.append(scores.fcs(videos))
        if vgg:
            motion.append(_motion(vgg, videos))
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


def _motion(vgg: Vgg, videos_BTHWC: np.ndarray) -> torch.Tensor:
    """Motion feature, float64 (K,), times the number of videos."""
    return motion_of(vgg, torch.from_numpy(videos_BTHWC)) * len(videos_BTHWC)


def _in_parts(items: Sequence[int], *, label: str) -> Iterator[Sequence[int]]:
    starts = range(0, len(items), render.CLIPS_AT_ONCE)
    for start in progress(starts, label=label):
        yield items[start : start + render.CLIPS_AT_ONCE]


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

    if options.videos < 1 or options.random < 0:
        raise UserError("--videos must be at least 1 and --random at least 0")
    wanted = open_wanted(options)
    vgg, why = (None, "--no-mcs") if options.no_mcs else find_vgg(options.vgg)
    run = open_run(options.run, checkpoint=render.checkpoint_of(options.checkpoint))
    beside = Path(run.config.data.manifest.removesuffix(MANIFEST)) / "held-out"
    held_out = options.held_out or (str(beside) if beside.is_dir() else None)
    found = evaluate(
        run,
        videos=options.videos,
        randoms=options.random,
        seed=options.seed,
        vgg=vgg,
        held_out=held_out,
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
