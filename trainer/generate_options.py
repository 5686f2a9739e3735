"""The command line of `trainer.generate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

COUNTS = {"sheet": 8, "sample": 16, "recombine": 6, "random": 500, "explore": 8}


def parser(told: Mapping[str, str], *, description: str) -> argparse.ArgumentParser:
    """Of the commands in `told`, each with a line about it."""
    whole = argparse.ArgumentParser(
        prog="python -m trainer.generate",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("run", metavar="RUN", help="run folder")
    _shared(whole)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added = {name: commands.add_parser(name, help=line) for name, line in told.items()}
    for name, count in COUNTS.items():
        added[name].add_argument("--count", type=int, default=count, help=f"default: {count}")
    for name in ("sample", "random"):
        added[name].add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    for name in ("sheet", "reconstruct"):
        required = name == "reconstruct"
        added[name].add_argument(
            "--videos", nargs="+", required=required, metavar="NAME", help="names, or all"
        )
    for name in ("static", "transient"):
        help_ = f"videos that give the {name} latents (default: evenly spread)"
        added["recombine"].add_argument(f"--{name}", nargs="+", metavar="NAME", help=help_)
    between = added["interpolate"]
    between.add_argument("--video", required=True, metavar="NAME")
    between.add_argument("--between", type=int, nargs=2, default=(2, 5), metavar="FRAME")
    between.add_argument("--k", type=int, default=3, help="frames in between (default: 3)")
    for command in added.values():
        # No defaults here: they would hide what was given before the command.
        _shared(command, default=argparse.SUPPRESS)
    return whole


def _shared(to: argparse.ArgumentParser, **default: Any) -> None:
    """Options that may stand before the command and behind it; the last one counts."""

    def add(name: str, **words: Any) -> None:
        to.add_argument(name, **{**words, **default})

    add("--checkpoint", default="latest", help="latest, or a step")
    add("--fitted", metavar="NAME", help="with the videos of trainer.fit's NAME")
    add("--out", metavar="DIR", help="folder of the pictures (default: RUN/samples)")
    add("--fps", type=float, default=8.0, help="frames per second (default: 8)")
