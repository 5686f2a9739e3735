"""`golf`: VGAN's golf scenes (Vondrick et al. 2016): a folder of JPEGs for each video.

Each JPEG (`VIDEO/0000.jpg`) holds 16 to 34 stacked frames that were stabilised together: a segment
of its video. Segments follow one another in natural order of their names, and no clip leaves its
own. An image in no folder below the root is a video of its own.

The root is the unpacked folder, or the archive itself (`golf.tar.bz2`, `.tar`, `.tar.gz`), which is
read once from front to back and never unpacked (`sources.golf_archive`). Going on after an
interruption has to decompress the part that is done once more, but decodes none of its images.
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from data_shards import images
from data_shards.errors import UserError
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions, UnusableError
from data_shards.sources import bzip2
from data_shards.sources.golf_archive import MODES, SUFFIXES, Archive, check_bounds
from data_shards.sources.tree import Tree, printable

_IDENTIFYING_BYTES = 1 << 20


def _listing(root: Path, options: SourceOptions) -> Listing:
    if root.is_file():
        return _archive(root)
    tree = Tree(root, SUFFIXES)
    return tree.listing(_videos(tree), wanted="stacked images (.jpg)")


def _archive(path: Path) -> Listing:
    if path.suffix not in MODES:
        raise UserError(f"{path}: not a folder nor a .tar, .tar.bz2 or .tar.gz archive")
    # Not its size or time: fetched again after it had been cut off, it is the same archive.
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_IDENTIFYING_BYTES)).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if MODES[path.suffix] == "r|bz2" and not bzip2.parallel():
        print(
            f"{path}: one core decompresses it; all do with pip install 'navsynth[golf]'",
            file=sys.stderr,
        )
    archive = Archive(path)
    return Listing(archive, digest, path.stat().st_size, archive.position)


def _videos(tree: Tree) -> list[Item]:
    loose = tree.one_file_each([file for file in tree.files if "/" not in file])
    inside = sorted((file for file in tree.files if "/" in file), key=_folder)
    holes = {
        _folder(item.name): f"{PurePosixPath(item.name).name} is {item.refusal}"
        for item in tree.refused
        if item.name.lower().endswith(SUFFIXES)
    }
    folders = [
        Item(name := printable(folder), tuple(files), refusal=holes.get(name, ""))
        for folder, files in groupby(inside, _folder)
    ]
    return loose + folders


def _folder(file: str) -> str:
    return str(PurePosixPath(file).parent)


def _read(item: Item, root: Path, options: SourceOptions) -> Footage:
    if not item.payload:
        sizes = [(root / file).stat().st_size for file in item.files]
        check_bounds(len(sizes), sum(sizes))
    segments = tuple(
        _frames_in(item.payload[number] if item.payload else root / file, Path(file).name)
        for number, file in enumerate(item.files)
    )
    return Footage(_frames(item, root), sum(segments), segments)


def _frames_in(image: bytes | Path, what: str) -> int:
    height, width = _size(image, what)
    if height % width:
        raise UnusableError(f"{what}: its height {height} is no multiple of its width {width}")
    return height // width


def _size(image: bytes | Path, what: str) -> tuple[int, ...]:
    """Height and width, out of the header."""
    file = io.BytesIO(image) if isinstance(image, bytes) else image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("JPEG", "PNG")) as opened:
                return opened.height, opened.width
    except Exception:
        # What is wrong with it, decoding tells.
        data = image if isinstance(image, bytes) else images.read_bytes(image)
        return images.decode_image(data, what=what).shape[:2]


def _frames(item: Item, root: Path) -> Iterator[np.ndarray]:
    for number, file in enumerate(item.files):
        data = item.payload[number] if item.payload else images.read_bytes(root / file)
        strip_HWC = images.decode_image(data, what=Path(file).name)
        yield from images.split_strip(strip_HWC, stacked=True)


def _listed(entry: PurePosixPath) -> PurePosixPath:
    """VGAN's own list, `golf.txt`, names images: each stands for its video."""
    in_folder = entry.suffix.lower() in SUFFIXES and entry.parent.name
    return entry.parent if in_folder else entry


SOURCE = Source(
    listing=_listing,
    read=_read,
    labels=r"(?:.*/)?(?P<identity>[^/]+)",
    labelled=False,
    about="VGAN's golf scenes: VIDEO/0000.jpg of stacked frames, in a folder or golf.tar.bz2",
    listed=_listed,
)
