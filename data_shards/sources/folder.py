"""`folder`: any tree of video files, through PyAV; the folder that holds a video is its action."""

from __future__ import annotations

from pathlib import Path

from data_shards import frames
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions
from data_shards.sources.tree import Tree


def list_videos(root: Path, options: SourceOptions) -> Listing:
    """Every video file below a root."""
    tree = Tree(root, frames.SUFFIXES)
    return tree.listing(tree.one_file_each(), wanted="video files (.mp4, .avi, .mov, ...)")


def read_video(item: Item, root: Path, options: SourceOptions) -> Footage:
    """The frames of a video file."""
    return frames.open_video(root / item.files[0])


SOURCE = Source(
    listing=list_videos,
    read=read_video,
    labels=r"(?:.*/)?(?P<action>[^/]+)/[^/]+",
    labelled=True,
    about="any tree of video files: ACTION/anything.mp4",
)
