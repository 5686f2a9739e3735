"""Train a NAVSynth model.

Run: accelerate launch --config_file accelerate_config.yaml trainer/main.py \\
         preset=weizmann data.manifest=DIR train.minutes=10
The same command again resumes. Settings are words `a.b=c`, over `--config FILE`, over a preset.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from trainer import settings
from trainer.config import Config, resolve
from trainer.leaving import DONE, ENDINGS, USER_ERROR, leave
from trainer.presets import PRESETS

RUNS = Path("runs")


def parser() -> argparse.ArgumentParser:
    """The command line; its help lists every setting with default and docstring."""
    lines = []
    for field in settings.fields_of(Config):
        lines.append(f"  {field.path}={field.default}  ({field.type})")
        if field.doc:
            lines.append(f"      {field.doc}")
    made = argparse.ArgumentParser(
        prog="trainer/main.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=f"presets: {', '.join(PRESETS)}\n\nsettings:\n" + "\n".join(lines),
    )
    made.add_argument("words", nargs="*", metavar="setting=value", help="see the list below")
    made.add_argument("--config", metavar="FILE", help="YAML file of settings")
    made.add_argument("--runs", type=Path, default=RUNS, help="folder of run folders (%(default)s)")
    made.add_argument(
        "--change-footage", action="store_true",
        help="resume a run on other footage: what is in both keeps its rows, the rest begins anew",
    )  # fmt: skip
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print config, sizes, memory per rank and disk, and leave",
    )
    made.add_argument(
        "--ranks",
        type=int,
        help="with --dry-run: processes to reckon with (default: those launched)",
    )
    made.add_argument(
        "--gpus", action=argparse.BooleanOptionalAction, default=None,
        help="with --dry-run: reckon with a GPU for each process, or without (default: as here)",
    )  # fmt: skip
    return made


def run_name(config: Config, data_name: str) -> str:
    """Folder of a run under runs/: the name set, or the preset and the data set."""
    return config.name or (
        config.preset if config.preset == data_name else f"{config.preset}-{data_name}"
    )


def anchored(config: Config) -> Config:
    """The config with an absolute path to footage on a disk, to be read from anywhere."""
    where = config.data.manifest
    if "://" not in where:
        where = str(Path(where).absolute())
    return replace(config, data=replace(config.data, manifest=where))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: `leaving.ENDINGS`."""
    args = parser().parse_intermixed_args(argv)
    first = os.environ.get("RANK", "0") == "0"
    try:
        config = resolve(args.words, file=args.config)
        if not config.data.manifest:
            raise UserError(
                "data.manifest: not set; give the folder that data_shards.prepare wrote"
            )
        if not args.dry_run and (args.ranks is not None or args.gpus is not None):
            raise UserError("--ranks, --gpus: with --dry-run alone; accelerate says how many train")
        config = anchored(config)
        opened = open_manifest(config.data.manifest, config=config.data)
        folder = args.runs / run_name(config, opened.manifest.name)
        if args.dry_run:
            from trainer.estimate import estimate  # measures what a training imports

            ranks = int(os.environ.get("WORLD_SIZE", "1")) if args.ranks is None else args.ranks
            if ranks < 1:
                raise UserError(f"--ranks: {ranks} is below 1")
            told = estimate(config, opened, ranks=ranks, gpu=args.gpus).text(folder)
            if first:
                print(settings.to_yaml(config))
                print(told)
            return DONE.code
        from trainer.job import run_job  # torch's process group is not needed before

        return run_job(config, opened, folder=folder, change_footage=args.change_footage).code
    except UserError as error:
        if first or os.environ.get("LOCAL_RANK") == "0":  # of each machine: others may be well
            who = "" if first else f"rank {os.environ['RANK']}: "
            print(f"error: {who}{error}", file=sys.stderr)
        return USER_ERROR.code


if __name__ == "__main__":
    code = main()
    leave(next(ending for ending in ENDINGS if ending.code == code))
