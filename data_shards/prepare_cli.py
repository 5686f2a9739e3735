"""The command line of `data_shards.prepare`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.frames import WINDOWS, shortest
from data_shards.images import FITS
from data_shards.options import Cell, Options
from data_shards.payloads import CODECS
from data_shards.pool import cores
from data_shards.sources import SOURCES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see python -m data_shards.prepare --help")


def parse(argv: list[str] | None) -> tuple[Options, Path, int]:
    """Options, output folder and number of processes out of command-line words.

    Raises:
        UserError: words that cannot be understood.
    """
    words = vars(_parser().parse_args(argv))
    height, width = _size(words["size"])
    length = words["length"] or shortest(
        frames=max(1, words["frames"]), stride=max(1, words["stride"])
    )
    about = SourceOptions(
        elevations=_elevations(words["elevation"]),
        identities=words["identities"],
        actions=words["actions"],
        length=length,
        size=max(height, width),
    )
    same = ("source", "root", "name", "frames", "stride", "windows", "crop", "fit", "labels")
    same += ("videos", "seed", "limit", "codec", "shard_clips", "shard_mib")
    options = Options(
        **{name: words[name] for name in same},
        height=height,
        width=width,
        hold_out=_cells(words["hold_out"]),
        list_file=words["list"],
        about=about,
    )
    workers = words["workers"]
    if workers < 0:
        raise UserError(f"--workers: at least 0, not {workers}")
    return options, Path(words["out"] or f"footage/{options.title}"), workers


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise UserError(f"--size: {text!r} is neither a number such as 64 nor HxW such as 96x128")
    return int(match[1]), int(match[2] or match[1])


def _elevations(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--elevation: {text!r} is not degrees such as 20 or 20,30")
    return tuple(int(part) for part in text.split(","))


def _cells(text: str | None) -> tuple[Cell, ...] | None:
    if text is None or text in ("", "none"):
        return None if text is None else ()
    cells = []
    for part in text.split(","):
        identity, colon, action = part.strip().rpartition(":")
        if not (identity and colon and action):
            raise UserError(f"--hold-out: {part!r} is not IDENTITY:ACTION")
        cells.append((identity, action))
    return tuple(cells)


def _parser() -> argparse.ArgumentParser:
    sources = "\n".join(f"  {name:10} {source.about}" for name, source in SOURCES.items())
    parser = _Parser(
        prog="python -m data_shards.prepare",
        description="Turn footage into WebDataset shards and a manifest.\n\nsources:\n" + sources,
        epilog="The same command goes on after an interruption. Videos that cannot be used are "
        "listed in OUT/rejects.csv.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="footage format: " + ", ".join(SOURCES))
    parser.add_argument("--root", default="", help="folder with the footage; golf: or its archive")
    parser.add_argument(
        "--out", default="", help="new folder for shards and manifest (footage/NAME)"
    )
    parser.add_argument("--name", default="", help="name of the set (default: the root's)")
    _add_clips(parser.add_argument_group("clips"))
    _add_choice(parser.add_argument_group("which videos"))
    _add_sources(parser.add_argument_group("single sources"))
    _add_storage(parser.add_argument_group("storage"))
    return parser


def _add_clips(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--frames", type=int, default=16, help="frames of a clip (%(default)s)")
    group.add_argument("--stride", type=int, default=1, help="keep every n-th frame (%(default)s)")
    group.add_argument(
        "--windows",
        default="first",
        metavar="|".join(WINDOWS),
        help="one clip a video, one of each of its segments (golf: of each JPEG), clips end to "
        "end, or whole videos of which training draws windows",
    )
    group.add_argument("--size", default="64", help="pixels: 64, or HxW (%(default)s); "
                       "training takes squares of 32, 64 or 128")  # fmt: skip
    group.add_argument("--crop", type=int, default=0, help="cut out a centred square first, pixels")
    group.add_argument(
        "--fit",
        default="crop",
        metavar="|".join(FITS),
        help="how frames of another shape become the wanted one (%(default)s)",
    )


def _add_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--labels",
        default="",
        help="folders, none, or a regular expression over names (the path below the root without "
        "suffix) with groups (?P<identity>...) and/or (?P<action>...); default: the source's way",
    )
    group.add_argument(
        "--hold-out",
        metavar="IDENTITY:ACTION,...",
        help="prepare these cells apart, in OUT/held-out with the same tables; none: no cells",
    )
    group.add_argument("--videos", type=int, default=0, help="draw this many videos")
    group.add_argument("--seed", type=int, default=0, help="of that draw (%(default)s)")
    group.add_argument("--list", default="", metavar="FILE", help="only videos that FILE names")
    group.add_argument("--limit", type=int, default=0, help="only the first so many videos")


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--elevation", default="20", help="chair_cad: degrees, 20 or 20,30")
    group.add_argument("--identities", type=int, default=6, help="synthetic: appearances (6)")
    group.add_argument("--actions", type=int, default=4, help="synthetic: motions (4)")
    group.add_argument("--length", type=int, default=0, help="synthetic: frames (just one clip)")


def _add_storage(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--codec", default="png", metavar="|".join(CODECS), help="png and raw are exact (png)"
    )
    group.add_argument("--shard-clips", type=int, default=4096, help="most clips (%(default)s)")
    group.add_argument("--shard-mib", type=int, default=64, help="full at this size (%(default)s)")
    group.add_argument("--workers", type=int, default=cores(), help="processes (%(default)s)")
