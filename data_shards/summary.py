"""What a prepared set holds, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from data_shards.manifest import CLIPS, REJECTS, read_manifest

_SHOWN = 6


def rejects_csv(rejects: Sequence[Sequence[str]]) -> bytes:
    """The bytes of `rejects.csv`: one row (video, reason) for each rejected video."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "reason"])
    table.writerows(rejects)
    return text.getvalue().encode("utf-8", "backslashreplace")


def read_rejects(folder: Path) -> list[list[str]]:
    """Rows [video, reason] of a set's `rejects.csv`; none without that file."""
    path = folder / REJECTS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def facts(folder: Path) -> dict[str, str]:
    """The summary's rows of the prepared set in `folder`."""
    manifest = read_manifest(folder)
    records = np.load(folder / CLIPS, mmap_mode="r", allow_pickle=False)
    rejects = read_rejects(folder)
    size = sum(shard.bytes for shard in manifest.shards)
    return {
        "source": f"{manifest.source} ({manifest.name})",
        "videos": f"{len(manifest.videos):,}",
        "clips": f"{manifest.clips:,}",
        "frames": f"{int(records['frames'].sum()):,} of {manifest.width}x{manifest.height}",
        "windows": f"{manifest.windows}, {manifest.frames} frames, stride {manifest.stride}",
        "bytes": f"{size:,} as {manifest.codec} in {len(manifest.shards)} shards",
        "identities": _labels(manifest.identities, [v.identity for v in manifest.videos]),
        "actions": _labels(manifest.actions, [v.action for v in manifest.videos]),
        "rejects": _rejects(rejects),
    }


def _labels(names: tuple[str, ...], rows: list[int]) -> str:
    if not names:
        return "no labels"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    missing = rows.count(-1)
    return f"{len(names)}: {shown}" + (f"; {missing} videos without" if missing else "")


def _rejects(rejects: list[list[str]]) -> str:
    if not rejects:
        return "none"
    lines = [f"{name}: {reason}" for name, reason in rejects[:_SHOWN]]
    more = [f"... see {REJECTS}"] if len(rejects) > _SHOWN else []
    return "\n".join([f"{len(rejects)}", *lines, *more])


def show(folder: Path, *, stream: TextIO, width: int | None = None) -> None:
    """Print the summary of a prepared set, and of what was held out beside it."""
    table = Table("", str(folder), title="Prepared footage", title_justify="left")
    for name, value in facts(folder).items():
        table.add_row(name, value)
    Console(file=stream, width=width, markup=False, highlight=False).print(table)
