"""What a preparation is asked to do, checked; every fact that its output depends on."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.frames import WINDOWS
from data_shards.images import FITS
from data_shards.manifest import MAX_SIDE, MOST_BYTES, plain
from data_shards.payloads import CODECS
from data_shards.sources import SOURCES

Cell = tuple[str, str]


@dataclass(frozen=True)
class Options:
    """One preparation. Equal options on equal footage make equal bytes."""

    source: str
    """A name out of `sources.SOURCES`."""
    root: str = ""
    """Where the footage is."""
    name: str = ""
    """Of the set; the root's own name unless given."""
    frames: int = 16
    """Frames of a clip (T)."""
    stride: int = 1
    """Every how many source frames one is kept."""
    windows: str = "first"
    """`first`, `each`, `all` or `whole`, see `manifest.Manifest.windows`."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    crop: int = 0
    """Side of the centred square that is cut out first, pixels; 0: none."""
    fit: str = "crop"
    """How another aspect becomes the wanted one: `crop` or `stretch`."""
    labels: str = ""
    """`folders`, `none`, a regular expression with groups `identity` and/or `action`; empty: the
    source's own way."""
    hold_out: tuple[Cell, ...] | None = ()
    """Cells (identity, action) that are prepared apart; None: the source's own."""
    videos: int = 0
    """How many videos to draw; 0: all."""
    seed: int = 0
    """Of that draw."""
    list_file: str = ""
    """File that names the wanted videos, one a line."""
    limit: int = 0
    """Only the first so many videos; 0: all."""
    codec: str = "png"
    """A name out of `payloads.CODECS`."""
    shard_clips: int = 4096
    """Most clips of a shard."""
    shard_mib: int = 64
    """Size at which a shard is full, MiB."""
    about: SourceOptions = field(default_factory=SourceOptions)
    """What the sources ask about."""

    def __post_init__(self) -> None:
        _among("SOURCE", self.source, SOURCES)
        _among("--windows", self.windows, WINDOWS)
        _among("--fit", self.fit, FITS)
        _among("--codec", self.codec, CODECS)
        for name in ("frames", "stride", "height", "width", "shard_clips", "shard_mib"):
            _at_least(name, getattr(self, name), 1)
        for name in ("crop", "videos", "limit"):
            _at_least(name, getattr(self, name), 0)
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise UserError(f"--seed: {self.seed} does not fit into 64 bits")
        if max(self.height, self.width) > MAX_SIDE:
            raise UserError(f"--size: at most {MAX_SIDE} pixels a side")
        if 3 * self.frames * self.height * self.width > MOST_BYTES:
            raise UserError(
                f"--frames, --size: clips of more than {MOST_BYTES >> 30} GiB when decoded; give "
                "fewer frames or smaller ones"
            )
        if SOURCES[self.source].rooted and not self.root:
            raise UserError(f"--root: {self.source} needs the folder with the footage")
        if not plain(self.title):
            raise UserError(f"--name: {self.title!r} is not a plain name, as of a folder")
        self.pattern()

    def pattern(self) -> re.Pattern[str] | None:
        """The regular expression that finds the labels in a video's name; None without labels."""
        source = SOURCES[self.source]
        if self.labels == "none" or (not self.labels and not source.labelled):
            return None
        text = source.labels if self.labels in ("", "folders") else self.labels
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UserError(f"--labels: {text!r} is no regular expression ({error})") from None
        if not pattern.groupindex or set(pattern.groupindex) - {"identity", "action"}:
            raise UserError(
                f"--labels: {text!r} needs a group (?P<identity>...) or (?P<action>...), no other"
            )
        return pattern

    @property
    def title(self) -> str:
        """Name of the set."""
        if self.name or not self.root:
            return self.name or self.source
        return Path(self.root).resolve().name.split(".")[0] or self.source

    def facts(self) -> dict:
        """Everything that the output depends on, as JSON can hold it."""
        return {**asdict(self), "root": str(Path(self.root).resolve()) if self.root else ""}


def _among(option: str, value: str, choices: object) -> None:
    names = list(choices)  # type: ignore[call-overload]
    if value not in names:
        raise UserError(f"{option}: {value!r} is none of {', '.join(names)}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"--{name.replace('_', '-')}: at least {least}, not {value}")
