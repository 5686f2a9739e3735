"""What a source hands to the preparation: a list of videos, and the frames of one of them.

A source lists its videos cheaply (names and files) and decodes one of them at a time, in whatever
process. A video that cannot be used raises `UnusableError`; it is listed in `rejects.csv` and never
becomes black frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data_shards.errors import UserError


class UnusableError(ValueError):
    """One video cannot be used. The message is its reason in `rejects.csv`."""


class Item(NamedTuple):
    """One source video before it is read."""

    name: str
    """Unique in its source: the path below the root, without suffix where that is enough."""
    files: tuple[str, ...] = ()
    """Below the root, in order of the frames."""
    identity: str = ""
    action: str = ""
    refusal: str = ""
    """Why it is not to be read; goes to `rejects.csv`."""
    payload: tuple[bytes, ...] = ()
    """The files themselves, where they came out of an archive."""
    load: Callable[[], dict[str, bytes]] | None = None
    """Fetches `files` with their bytes while the archive stands at this video."""

    def loaded(self) -> Item:
        """The item with what `load` fetches; where that cannot be used, with the reason.

        Raises:
            UserError: the archive is damaged.
        """
        item = self._replace(load=None)
        if self.load is None or self.refusal:
            return item
        try:
            found = self.load()
        except UnusableError as error:
            return item._replace(refusal=str(error))
        return item._replace(files=tuple(found), payload=tuple(found.values()))


class Listing(NamedTuple):
    """All videos of a source, in their order."""

    items: Iterable[Item]
    digest: str
    """Changes when files are added, removed or change their size; an archive's is of its first MiB,
    so that one that was fetched again is the same."""
    total: int
    """Of what `position` counts: videos, or bytes of an archive."""
    position: Callable[[], int] | None = None
    """Bytes of the archive read so far; None where videos are counted."""


class Footage(NamedTuple):
    """The frames of one video."""

    frames: Iterator[np.ndarray]
    """uint8 (H, W, 3), decoded when asked for."""
    count: int
    """All frames of the video; 0 where that shows only at its end."""
    segments: tuple[int, ...] = ()
    """Frames of each of its segments in turn, which no clip leaves; empty: it is one."""

    @property
    def longest(self) -> int:
        """Frames of the longest segment; 0 where that shows only at its end."""
        return max(self.segments, default=self.count)


@dataclass(frozen=True)
class SourceOptions:
    """What the sources ask about."""

    elevations: tuple[int, ...] = (20,)
    """chair_cad: elevations in degrees; each is a video of its own."""
    identities: int = 6
    """synthetic: appearances."""
    actions: int = 4
    """synthetic: motions."""
    length: int = 16
    """synthetic: frames of each video."""
    size: int = 64
    """synthetic: pixels of a side as rendered."""

    def __post_init__(self) -> None:
        if min(self.identities, self.actions, self.length, self.size) < 1:
            raise UserError("identities, actions, length, size: at least 1 of each")
        if not self.elevations:
            raise UserError("elevation: name at least one, such as 20")


class Source(NamedTuple):
    """One footage format."""

    listing: Callable[[Path, SourceOptions], Listing]
    """Every video below a root."""
    read: Callable[[Item, Path, SourceOptions], Footage]
    """The frames of one of them; raises `UnusableError`."""
    labels: str
    """Regular expression over names with the groups `identity` and `action`; what the option
    `--labels folders` means; may be empty."""
    labelled: bool
    """Whether `labels` applies unless the user says otherwise."""
    about: str
    """One line of help."""
    rooted: bool = True
    """Whether it reads files below a root."""
    listed: Callable[[PurePosixPath], PurePosixPath] = lambda entry: entry
    """The video that a line of a list file stands for."""
