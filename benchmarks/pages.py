"""Figures that benchmarks write into pages, each between two marks of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_shards.errors import UserError


def marks(name: str) -> tuple[str, str]:
    """The lines before and behind what `bench-NAME` writes."""
    return f"<!-- bench-{name}: begin -->", f"<!-- bench-{name}: end -->"


def around(path: Path, name: str) -> tuple[str, str]:
    """What stands before and behind the place of `bench-NAME` on a page.

    Raises:
        UserError: the page cannot be read or has no such place.
    """
    begin, end = marks(name)
    try:
        head, found, rest = path.read_text().partition(begin)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise UserError(f"{path}: has no place for the table, between {begin} and {end}")
    return f"{head}{begin}\n", f"\n{end}{tail}"


def option(parser: argparse.ArgumentParser) -> None:
    """Add `--write PAGE`."""
    parser.add_argument("--write", type=Path, help="page to put the table in, between its marks")


def ready(path: Path | None, *names: str) -> bool:
    """Whether a page, if any was asked for, has those places; if not, says what is wrong.

    To be asked before anything is measured.
    """
    try:
        for name in names if path else ():
            around(path, name)  # type: ignore[arg-type]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def put(path: Path | None, name: str, text: str) -> None:
    """Write into a page, if any was asked for, as it stands now: it may have changed meanwhile."""
    if path:
        path.write_text(text.join(around(path, name)))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
