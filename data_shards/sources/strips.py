"""`strips`: one image for each video, its square frames side by side or stacked.

The layout that MoCoGAN published Weizmann in: `<action>/<person>.png`.
"""

from __future__ import annotations

from pathlib import Path

from data_shards import images
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions
from data_shards.sources.tree import Tree


def _listing(root: Path, options: SourceOptions) -> Listing:
    tree = Tree(root, images.SUFFIXES)
    return tree.listing(tree.one_file_each(), wanted="images")


def _read(item: Item, root: Path, options: SourceOptions) -> Footage:
    path = root / item.files[0]
    strip_HWC = images.decode_image(images.read_bytes(path), what=path.name)
    stacked = strip_HWC.shape[0] > strip_HWC.shape[1]
    frames = images.split_strip(strip_HWC, stacked=stacked)
    return Footage(iter(frames), len(frames))


SOURCE = Source(
    listing=_listing,
    read=_read,
    labels=r"(?:.*/)?(?P<action>[^/]+)/(?P<identity>[^/]+)",
    labelled=True,
    about="one image a video, frames side by side or stacked: ACTION/IDENTITY.png",
)
