"""Data sets: found by the layout of a folder, and prepared as an experiment wants them."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards.dataset import ClipReader, Request
from data_shards.disk import disk_errors
from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.manifest import MANIFEST, Manifest, read_manifest
from data_shards.options import Cell, Options
from data_shards.prepare import HELD_OUT, prepare
from data_shards.stream import DataConfig, open_manifest
from data_shards.writer import PARTIAL
from launch.reproduce.digests import footage_digest
from trainer.commit import clean, replace_durable, retire
from trainer.pictures import channels_last


@dataclass(frozen=True)
class FootageSet:
    """One data set, not prepared yet."""

    name: str
    source: str
    """Format, a name out of `data_shards.sources.SOURCES`."""
    root: str
    """Folder, or an archive of it; empty for synthetic footage."""
    preset: str
    """Preset of its trainings."""
    paper: str
    """Its column in the paper's tables; empty: none."""
    unseen: str
    """What `unseen` keeps from training: `videos`, `identities` or `actions`."""
    held_out: int = 0
    """Cells of the identity x action matrix that `exchange` holds out; 0: it has no matrix."""
    identities: int = 6
    """Synthetic footage: appearances."""
    actions: int = 4
    """Synthetic footage: motions."""
    limit: int = 0
    """At most so many videos, drawn with seed 0; 0: all."""


FOUND: dict[str, FootageSet] = {
    "rendered_chairs": FootageSet(
        "chairs", "chair_cad", "", "chair_cad", "chair_cad", "videos", limit=820
    ),
    "chair_cad": FootageSet(
        "chair_cad", "chair_cad", "", "chair_cad", "chair_cad", "videos", limit=820
    ),
    "weizmann_strips": FootageSet(
        "weizmann_strips", "strips", "", "weizmann", "weizmann", "actions", held_out=6
    ),
    "weizmann": FootageSet(
        "weizmann", "weizmann", "", "weizmann", "weizmann", "actions", held_out=20
    ),
    "golf": FootageSet("golf", "golf", "", "golf", "golf", "videos", limit=500),
}
"""By folder name below --data. Both chairs' folders are of one layout; the original archive, which
has 1,393 models, unpacks to `rendered_chairs`, and what has at most 820 of them is taken whole."""
PACKED = {"golf": ("golf.tar.bz2", "golf.tar.gz", "golf.tar")}
"""Archives that are read as they are, where there is no folder of that name."""
SYNTHETIC = FootageSet("synthetic", "synthetic", "", "demo", "", "identities", held_out=4)
"""Always there."""


class Clips(NamedTuple):
    """Footage in memory."""

    frames_NTHWC: np.ndarray
    """uint8."""
    video_N: np.ndarray
    identity_N: np.ndarray
    action_N: np.ndarray
    manifest: Manifest


def find_sets(where: str) -> tuple[FootageSet, ...]:
    """The data sets below a folder, and the synthetic one.

    Raises:
        UserError: no such folder, or it holds none of the known ones.
    """
    if not where:
        return (SYNTHETIC,)
    root = Path(where)
    if not root.is_dir():
        raise UserError(f"--data {where}: no such folder")
    places = {name: _place(root, name) for name in FOUND}
    found = [_there(FOUND[name], place) for name, place in places.items() if place]
    if not found:
        packed = ", ".join(name for names in PACKED.values() for name in names)
        raise UserError(
            f"--data {where}: holds none of the folders {', '.join(FOUND)}, nor {packed}"
        )
    return (SYNTHETIC, *found)


def _place(root: Path, name: str) -> Path | None:
    """Where a set is: its folder, else the first of its archives that is there."""
    if (root / name).is_dir():
        return root / name
    return next((root / file for file in PACKED.get(name, ()) if (root / file).is_file()), None)


def _there(row: FootageSet, place: Path) -> FootageSet:
    """A set at its place; chairs of which there are no more than wanted are not drawn."""
    row = replace(row, root=str(place))
    if row.source == "chair_cad" and sum(1 for _ in place.glob("*/renders")) <= row.limit:
        return replace(row, limit=0)
    return row


def prepared(
    footage: FootageSet,
    *,
    out: Path,
    name: str,
    frames: int,
    size: int,
    stride: int = 1,
    length: int = 0,
    windows: str = "first",
    hold_out: Sequence[Cell] = (),
    only: Sequence[str] | None = None,
) -> Path:
    """Prepare a variant of a set into out/data, once, and anew when the footage is another; returns
    its folder.

    Args:
        footage: which.
        out: output folder of the whole reproduction.
        name: of the variant.
        frames: of a clip (T).
        size: pixels of a side.
        stride: every how many source frames one is kept.
        length: frames of each synthetic video; 0: what a clip takes.
        windows: `first` or `all`.
        hold_out: cells prepared apart, in a folder `held-out`.
        only: names of the videos wanted, at least one (UserError); None: all.
    """
    list_file = ""
    if only is not None:
        if not only:
            raise UserError(f"{footage.name}: no video is left for the set {name!r}")
        digest = hashlib.sha256("\n".join(only).encode()).hexdigest()[:8]
        path = out / "lists" / f"{footage.name}-{name}-{digest}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{video}.x\n" for video in only))
        list_file = str(path.resolve())
    options = Options(
        source=footage.source,
        root=footage.root,
        name=f"{footage.name}-{name}",
        frames=frames,
        stride=stride,
        windows=windows,
        height=size,
        width=size,
        hold_out=tuple(hold_out),
        list_file=list_file,
        videos=0 if only is not None else footage.limit,
        about=SourceOptions(
            identities=footage.identities,
            actions=footage.actions,
            length=length or (frames - 1) * stride + 1,
            size=size,
        ),
    )
    folder = out / "data" / f"{footage.name}-{name}"
    _prepare_once(options, folder)
    return folder


@cache
def _prepare_once(options: Options, folder: Path) -> None:
    """Stages ask for the same sets again and again; looking at the footage each time takes long."""
    digest = footage_digest(options.root)
    with disk_errors(folder):
        _drop_stale(folder, digest)
    prepare(options, out=folder)


def _drop_stale(folder: Path, digest: str) -> None:
    """Remove a prepared set that is of other footage, or of none on record; a file beside it says
    of which it is. A folder that is no prepared set is left for `prepare` to refuse."""
    note = folder.with_name(f"{folder.name}.footage")
    if note.is_file() and note.read_text() == digest:
        return
    note.unlink(missing_ok=True)  # first, so that whatever is cut short here begins again
    folder.parent.mkdir(parents=True, exist_ok=True)
    clean(folder.parent)
    if (folder / MANIFEST).is_file() or (folder / PARTIAL).is_dir():
        if folder.is_symlink():
            raise UserError(f"{folder}: a link to a set of other footage or code; remove it")
        print(f"{folder}: of other footage or code; prepared anew", file=sys.stderr)
        shutil.rmtree(retire(folder))
    replace_durable(note, digest.encode())


def cells_of(manifest: Manifest, count: int) -> tuple[Cell, ...]:
    """Cells to hold out: a diagonal of the matrix, so that every person and action is still seen.

    Walks the identities in order and the actions in turn, over cells that have a video, and takes
    one only while its identity and its action keep another one.
    """
    there = {(v.identity, v.action) for v in manifest.videos if min(v.identity, v.action) >= 0}
    left, chosen = set(there), []
    rows, columns = len(manifest.identities), len(manifest.actions)
    for turn in range(columns):
        for identity in range(rows):
            cell = (identity, (identity + turn) % columns)
            rest = left - {cell}
            if cell in left and len(chosen) < count and _seen(rest, cell):
                left, chosen = rest, [*chosen, cell]
    return tuple((manifest.identities[i], manifest.actions[a]) for i, a in chosen)


def _seen(rest: set[tuple[int, int]], cell: tuple[int, int]) -> bool:
    return any(i == cell[0] for i, _ in rest) and any(a == cell[1] for _, a in rest)


def read_clips(folder: Path, *, each: int = 1) -> Clips:
    """A prepared set in memory: the first `each` clips of every video (0: all clips).

    Raises:
        UserError: unreadable or damaged.
    """
    opened = open_manifest(str(folder), config=DataConfig(manifest=str(folder)))
    video_N = opened.table["video"].astype(np.int64)
    clips = np.arange(len(video_N))
    if each:
        _, start_V, of_N = np.unique(video_N, return_index=True, return_inverse=True)
        clips = clips[clips - start_V[of_N] < each]  # a video's clips follow each other
    part = ClipReader(opened)[Request(0, clips, np.zeros(len(clips), np.int64))]
    if part.error or part.damages:
        raise UserError(part.error or part.damages[0].reason)
    labels = np.array([(v.identity, v.action) for v in opened.manifest.videos], np.int64)
    chosen = labels[video_N[clips]]
    return Clips(
        channels_last(part.frames_BTCHW), video_N[clips], chosen[:, 0], chosen[:, 1],
        opened.manifest,
    )  # fmt: skip


def manifest_of(folder: Path) -> Manifest:
    """Facts of a prepared set."""
    return read_manifest(folder)


def held_out_folder(folder: Path) -> Path:
    """Where a set's held-out cells are."""
    return folder / HELD_OUT
