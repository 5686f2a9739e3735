"""The archive of VGAN's golf scenes, read from front to back and never unpacked.

A video is a folder of images that follow one another in the archive: all of one folder are in
memory at a time, and only where the video is wanted. bzip2 is decompressed on all cores where it
can be (`sources.bzip2`); in a plain `.tar` what is not wanted is skipped.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_shards.errors import UserError
from data_shards.footage import Item, UnusableError
from data_shards.sources import bzip2
from data_shards.sources.tree import natural, printable

SUFFIXES = (".jpg", ".jpeg", ".png")
MODES = {".bz2": "r|bz2", ".tbz2": "r|bz2", ".tar": "r:", ".gz": "r|gz", ".tgz": "r|gz"}
"""How `tarfile` opens them: `|` is a stream."""
MOST_IMAGES = 1000
"""Of one video; VGAN's have 100 at most."""
MOST_BYTES = 256 << 20
"""Of the images of one video."""
MOST_REMARK = 1 << 20
"""Bytes of a member that only tells of the next one (a long name, pax records)."""

_LEADS_OUT = "its name leads out of the archive"
_APART = "images apart from the others of their folder, which must follow one another in an archive"


def check_bounds(images: int, size: int) -> None:
    """Refuse a folder that cannot be one video: too many images, or bytes (UnusableError)."""
    if images > MOST_IMAGES:
        raise UnusableError(f"more than {MOST_IMAGES} images in one folder")
    if size > MOST_BYTES:
        raise UnusableError(f"larger than {MOST_BYTES >> 20} MiB")


class _Header(tarfile.TarInfo):
    """A member header; a missing or damaged one is an error, where tarfile just stops."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[name-defined]
        try:
            return super().fromtarfile(tarfile)
        except (_TRUNCATED, _EMPTY, _INVALID) as error:
            raise _READ_ERROR(str(error)) from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """What `tarfile` does with a header that was read; names and remarks it reads whole."""
        if self.type in _REMARKS and self.size > MOST_REMARK:
            raise _READ_ERROR(f"a name or remark of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


_REMARKS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_READ_ERROR = tarfile.ReadError
_TRUNCATED, _EMPTY, _INVALID = (
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
)


class _Image(NamedTuple):
    member: tarfile.TarInfo
    path: PurePosixPath
    folder: str
    """That holds the images of its video; empty: it is a video of its own."""
    refusal: str

    @property
    def video(self) -> str:
        return printable(self.folder or str(self.path.with_suffix("")))

    def belongs(self, first: _Image) -> bool:
        """Whether it is of the video that begins with `first`."""
        return self is first or (self.folder != "" and self.folder == first.folder)


def _describe(member: tarfile.TarInfo) -> _Image | None:
    path = PurePosixPath(member.name)
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    if member.isdir() or hidden or path.suffix.lower() not in SUFFIXES:
        return None
    if path.is_absolute() or ".." in path.parts:
        return _Image(member, path, "", _LEADS_OUT)
    folder = str(path.parent) if len(path.parts) > 2 else ""
    return _Image(member, path, folder, "" if member.isreg() else "not a plain file")


class Archive:
    """The videos of an archive, each iteration from its front.

    Everything lies in the archive's top folder: an image in a folder below that belongs to this
    folder's video, an image in the top folder itself is a video of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._ahead: _Image | None = None
        self._last = ""

    def position(self) -> int:
        """Bytes of the archive read so far."""
        if self._file is None:
            return 0
        if self._file.closed:
            return self.path.stat().st_size
        bits = getattr(self._file, "tell_compressed", None)
        return self._file.tell() if bits is None else bits() // 8

    def __iter__(self) -> Iterator[Item]:
        self._last = ""
        mode = MODES[self.path.suffix]
        opened = partial(self.path.open, "rb")
        if mode == "r|bz2" and bzip2.parallel():
            mode, opened = "r|", partial(bzip2.open_parallel, self.path)
        with (
            self._damage(),
            opened() as self._file,
            tarfile.open(fileobj=self._file, mode=mode, tarinfo=_Header) as archive,  # type: ignore
        ):
            yield from self._items(archive)

    def _items(self, archive: tarfile.TarFile) -> Iterator[Item]:
        images = self._images(archive)
        before: set[str] = set()
        self._ahead = next(images, None)
        while (first := self._ahead) is not None:
            refusal = "" if first.folder else first.refusal
            if first.folder in before:
                refusal = _APART
            load = None if refusal else partial(self._load, archive, images, first)
            yield Item(first.video, refusal=refusal, load=load)
            if first.folder:
                before.add(first.folder)
            while self._ahead is not None and self._ahead.belongs(first):
                self._ahead = next(images, None)

    def _images(self, archive: tarfile.TarFile) -> Iterator[_Image]:
        tops: dict[str, str] = {}
        in_top = False
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]
            image = _describe(member)
            if image is not None and image.refusal != _LEADS_OUT:
                tops.setdefault(image.path.parts[0], printable(member.name))
                in_top = in_top or len(image.path.parts) == 2
                if in_top and len(tops) > 1:
                    raise UserError(
                        f"{self.path}: {' and '.join(list(tops.values())[:2])} lie in no common "
                        "folder; pack the folders of the videos in one folder, or unpack it"
                    )
            if image is not None:
                yield image
            self._last = member.name

    def _load(
        self, archive: tarfile.TarFile, images: Iterator[_Image], first: _Image
    ) -> dict[str, bytes]:
        """The images of the video at which the archive stands, in natural order of their names."""
        found: dict[str, bytes] = {}
        size = 0
        with self._damage():
            while self._ahead is not None and self._ahead.belongs(first):
                image, name = self._ahead, printable(self._ahead.path.name)
                size += image.member.size
                check_bounds(len(found) + 1, size)
                if image.refusal or name in found:
                    raise UnusableError(f"{name}: {image.refusal or 'comes twice'}")
                found[name] = self._bytes(archive, image.member)
                self._ahead = next(images, None)
        return {name: found[name] for name in sorted(found, key=natural)}

    def _bytes(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        data = file.read() if file else b""
        if len(data) != member.size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (UserError, UnusableError):
            raise
        except (tarfile.TarError, EOFError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            where = f"after {printable(self._last)}" if self._last else "at its start"
            raise UserError(
                f"{self.path}: damaged or cut off {where} ({reason}); fetch it again, then run the "
                "same command to go on"
            ) from None
