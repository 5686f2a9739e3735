"""`frames`: a folder of images for each video, in natural order of their names."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path, PurePosixPath

from data_shards import images
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions
from data_shards.sources.tree import Tree, printable


def _listing(root: Path, options: SourceOptions) -> Listing:
    tree = Tree(root, images.SUFFIXES)
    by_folder = sorted(tree.files, key=_folder)
    items = [
        Item(printable(folder if folder != "." else tree.root.name), tuple(files))
        for folder, files in groupby(by_folder, _folder)
    ]
    return tree.listing(items, wanted="images")


def _folder(file: str) -> str:
    return str(PurePosixPath(file).parent)


def read_images(item: Item, root: Path, options: SourceOptions) -> Footage:
    """One frame from each of an item's files."""
    frames = (
        images.decode_image(images.read_bytes(root / file), what=Path(file).name, upright=True)
        for file in item.files
    )
    return Footage(frames, len(item.files))


SOURCE = Source(
    listing=_listing,
    read=read_images,
    labels=r"(?:.*/)?(?P<action>[^/]+)/(?P<identity>[^/]+)",
    labelled=True,
    about="a folder of images a video: ACTION/IDENTITY/0001.png",
)
