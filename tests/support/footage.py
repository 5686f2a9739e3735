"""Tiny prepared sets for tests: real shards, real manifests, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

from data_shards.footage import SourceOptions
from data_shards.options import Options
from data_shards.prepare import prepare


def tiny_set(
    folder: Path,
    *,
    identities: int = 3,
    actions: int = 2,
    frames: int = 4,
    length: int = 0,
    size: int = 16,
    windows: str = "first",
    codec: str = "png",
    shard_clips: int = 4,
    hold_out: tuple[tuple[str, str], ...] | None = (),
    name: str = "set",
) -> Path:
    """Prepare synthetic footage of identities x actions videos; returns the set's folder.

    Each video has `length` frames (default: `frames`), so `windows="all"` makes `length // frames`
    clips of it. Nothing is held out unless asked for (None: the source's own cells).
    """
    about = SourceOptions(
        identities=identities, actions=actions, length=length or frames, size=size
    )
    options = Options(
        source="synthetic",
        frames=frames,
        windows=windows,
        height=size,
        width=size,
        codec=codec,
        shard_clips=shard_clips,
        hold_out=hold_out,
        about=about,
    )
    prepare(options, out=folder / name)
    return folder / name
