"""`chair_cad`: turntables of rendered models, in the layout of Aubry et al. 2014.

`<model>/renders/image_<nnn>_p<elevation>_t<azimuth>_r<distance>.png`; the views of one model at one
elevation, by azimuth, are one video.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from data_shards import images
from data_shards.footage import Item, Listing, Source, SourceOptions
from data_shards.sources.frames import read_images
from data_shards.sources.tree import Tree, printable

_VIEW = re.compile(r"(?P<model>.+)/renders/[^/]*_p(?P<elevation>\d+)_t(?P<azimuth>\d+)[^/]*")


def _listing(root: Path, options: SourceOptions) -> Listing:
    tree = Tree(root, images.SUFFIXES)
    models: dict[str, dict[int, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for file in tree.files:
        if view := _VIEW.fullmatch(file):
            models[view["model"]][int(view["elevation"])].append((int(view["azimuth"]), file))
    items = [
        _item(model, elevation, views, alone=len(options.elevations) == 1)
        for model, views in models.items()
        for elevation in options.elevations
    ]
    return tree.listing(items, wanted="MODEL/renders/*_pNNN_tNNN_*.png")


def _item(model: str, elevation: int, views: dict, *, alone: bool) -> Item:
    name = printable(PurePosixPath(model).as_posix() + ("" if alone else f"/p{elevation:03d}"))
    if elevation not in views:
        there = ", ".join(map(str, sorted(views)))
        return Item(name, refusal=f"no views at elevation {elevation}: there are {there}")
    return Item(name, tuple(file for _, file in sorted(views[elevation])))


SOURCE = Source(
    listing=_listing,
    read=read_images,
    labels=r"(?P<identity>.+?)(?:/(?P<action>p\d{3}))?",
    labelled=True,
    about="turntables: MODEL/renders/image_NNN_pELEVATION_tAZIMUTH_rNNN.png",
)
