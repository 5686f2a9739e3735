"""`golf`: VGAN's golf scenes (Vondrick et al. 2016), one JPEG for each video, frames stacked.

The root is the unpacked folder, or the archive itself (`golf.tar.bz2`, `.tar`, `.tar.gz`), which is
read once from front to back and never unpacked; bzip2 on all cores where it can be
(`sources.bzip2`). Going on after an interruption has to decompress the part that is done once more,
but decodes none of its images.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from data_shards import images
from data_shards.errors import UserError
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions
from data_shards.sources import bzip2
from data_shards.sources.tree import Tree, printable

_SUFFIXES = (".jpg", ".jpeg", ".png")
_MODES = {".bz2": "r|bz2", ".tbz2": "r|bz2", ".tar": "r|", ".gz": "r|gz", ".tgz": "r|gz"}


class _Header(tarfile.TarInfo):
    """A member header; a missing or damaged one is an error, where tarfile just stops."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[name-defined]
        try:
            return super().fromtarfile(tarfile)
        except (_TRUNCATED, _EMPTY, _INVALID) as error:
            raise _READ_ERROR(str(error)) from None


_READ_ERROR = tarfile.ReadError
_TRUNCATED, _EMPTY, _INVALID = (
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
)


def _listing(root: Path, options: SourceOptions) -> Listing:
    if not root.is_file():
        tree = Tree(root, _SUFFIXES)
        return tree.listing(tree.one_file_each(), wanted="stacked images (.jpg)")
    if root.suffix not in _MODES:
        raise UserError(f"{root}: not a folder nor a .tar, .tar.bz2 or .tar.gz archive")
    stat = root.stat()
    archive = _Archive(root)
    digest = hashlib.sha256(repr((stat.st_size, stat.st_mtime_ns)).encode()).hexdigest()
    return Listing(archive, digest, stat.st_size, archive.position)


class _Archive:
    """The images of an archive, each iteration from its front."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
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
        mode = _MODES[self.path.suffix]
        opened = partial(self.path.open, "rb")
        if mode == "r|bz2" and bzip2.parallel():
            mode, opened = "r|", partial(bzip2.open_parallel, self.path)
        with (
            self._damage(),
            opened() as self._file,
            tarfile.open(fileobj=self._file, mode=mode, tarinfo=_Header) as archive,  # type: ignore
        ):
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]
                if item := self._item(archive, member):
                    yield item
                self._last = member.name

    def _item(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Item | None:
        item = _describe(member)
        if item is None or item.refusal:
            return item
        return item._replace(load=partial(self._load, archive, member))

    def _load(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        with self._damage():
            file = archive.extractfile(member)
            data = file.read() if file else b""
            if len(data) != member.size:
                raise tarfile.ReadError("unexpected end of data")
            return data

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (tarfile.TarError, EOFError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            where = f"after {printable(self._last)}" if self._last else "at its start"
            raise UserError(
                f"{self.path}: damaged or cut off {where} ({reason}); fetch it again, then run the "
                "same command to go on"
            ) from None


def _describe(member: tarfile.TarInfo) -> Item | None:
    path = PurePosixPath(member.name)
    if member.isdir() or path.suffix.lower() not in _SUFFIXES:
        return None
    name = printable(str(path.with_suffix("")))
    if path.is_absolute() or ".." in path.parts:
        return Item(name, refusal="its name leads out of the archive")
    if not member.isreg():
        return Item(name, refusal="not a plain file")
    if member.size > images.MAX_FILE_BYTES:
        return Item(name, refusal=f"larger than {images.MAX_FILE_BYTES >> 20} MiB")
    return Item(name, (path.name,))


def _read(item: Item, root: Path, options: SourceOptions) -> Footage:
    data = item.payload or images.read_bytes(root / item.files[0])
    strip_HWC = images.decode_image(data, what=Path(item.files[0]).name)
    frames = images.split_strip(strip_HWC, stacked=True)
    return Footage(iter(frames), len(frames))


SOURCE = Source(
    listing=_listing,
    read=_read,
    labels=r"(?:.*/)?(?P<identity>[^/]+)/[^/]+",
    labelled=False,
    about="VGAN's golf scenes: stacked JPEGs in a folder or golf.tar.bz2",
)
