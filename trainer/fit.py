"""Find latents for videos that were not trained on, with the networks frozen.

    python -m trainer.fit RUN VIDEO... [--name NAME] [--steps 600] [--starts 3]
    python -m trainer.fit RUN DATA [--videos NAME...]

Each VIDEO is a file, of which the first clip is cut as the run's footage is; DATA is a prepared set
that is cut so. Prints each video's PSNR beside that of the nearest training video, and writes
RUN/fitted/NAME, which `trainer.generate --fitted NAME` takes.
`trainer.fitting` says how they are found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from data_shards.ending import ended
from data_shards.errors import UserError
from trainer import render
from trainer.fitted import Fitted, check_name, open_like, place_of, read_footage, write_fitted
from trainer.fitting import FitConfig, fit
from trainer.run import Run, open_run
from trainer.settings import fields_of
from trainer.videos import is_video, prepare_videos


def fit_set(
    run: Run, where: str, *, name: str = "", videos: Sequence[str] = (), config: FitConfig
) -> Fitted:
    """Fit the first clip of each video (named) of a prepared set, and write RUN/fitted/NAME.

    Raises:
        UserError: a set that is cut otherwise, an unknown video, a bad name.
    """
    opened = open_like(run, where)
    name = check_name(name or opened.manifest.name)  # not only after the search
    render.check_names(opened.manifest, videos)
    table = opened.table["video"]
    every = [video.name for video in opened.manifest.videos]
    chosen = list(videos) or every
    clips = [int(np.flatnonzero(table == every.index(video))[0]) for video in chosen]
    frames_VTCHW = read_footage(run, where, torch.tensor(clips))
    found, near = fit(run, frames_VTCHW, config=config)
    trained = [run.manifest.videos[v].name for v in run.opened.table["video"][near.clip_V]]
    facts = {
        "step": run.step,
        "data": place_of(run, where),
        "fingerprint": opened.manifest.fingerprint,
        "compared": near.compared,
        "settings": {f.name: getattr(config, f.name) for f in fields(config)},
        "videos": [
            {"name": n, "clip": c, "psnr": float(p), "nearest": t, "nearest_psnr": float(q)}
            for n, c, p, t, q in zip(chosen, clips, found.psnr_V, trained, near.psnr_V, strict=True)
        ],
    }
    fitted = Fitted(found.static_VS, found.transient_VTM, facts)
    write_fitted(run, name, fitted)
    return fitted


def _footage(run: Run, words: Sequence[str], *, name: str) -> str:
    """The prepared set that words of the command line mean."""
    files = [word for word in words if is_video(word)]
    if len(files) == len(words):
        name = name or (Path(files[0]).stem if len(files) == 1 else "videos")
        return str(prepare_videos(run, files, name=check_name(name)))
    if len(words) > 1:
        raise UserError(f"{', '.join(words)}: give video files, or one prepared set")
    return words[0]


# Entry point ---------------------------------------------------------------------------------


def as_text(fitted: Fitted) -> str:
    """One line a video, and the means."""
    videos = fitted.facts["videos"]
    width = max(len(video["name"]) for video in videos)
    compared = f"nearest training video ({fitted.facts['compared']} clips compared)"
    lines = [f"{'':{width}}    fitted   {compared}"]
    lines += [
        f"{v['name']:{width}}  {v['psnr']:5.2f} dB  {v['nearest_psnr']:5.2f} dB  {v['nearest']}"
        for v in videos
    ]
    means = (float(np.mean([v[key] for v in videos])) for key in ("psnr", "nearest_psnr"))
    return "\n".join([*lines, f"{'mean':{width}}  {next(means):5.2f} dB  {next(means):5.2f} dB"])


@ended
def main(argv: list[str] | None = None) -> int:
    """Fit videos; 0 when RUN/fitted/NAME is written, 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.fit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("data", nargs="+", metavar="VIDEO", help="video files, or a prepared set")
    parser.add_argument("--videos", nargs="+", default=(), metavar="NAME", help="default: all")
    parser.add_argument(
        "--name", default="", help="of the result (default: the set's, or the video's)"
    )
    parser.add_argument("--checkpoint", default="latest", help="latest, or a step")
    for field in fields_of(FitConfig):
        kind = float if field.type == "float" else int
        default = getattr(FitConfig, field.path)
        said = field.doc.replace("%", "%%")
        parser.add_argument(f"--{field.path}", type=kind, default=default,
                            help=f"{said} (default: {default})")  # fmt: skip
    options = parser.parse_args(argv)
    try:
        config = FitConfig(**{f.name: getattr(options, f.name) for f in fields(FitConfig)})
        run = open_run(options.run, checkpoint=render.checkpoint_of(options.checkpoint))
        where = _footage(run, options.data, name=options.name)
        fitted = fit_set(run, where, name=options.name, videos=options.videos, config=config)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(as_text(fitted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
