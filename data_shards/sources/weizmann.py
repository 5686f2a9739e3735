"""`weizmann`: the original Weizmann Human Action videos (Gorelick et al. 2007).

One file for each video, `<person>_<action>.avi`; a digit after the action counts takes
(`lena_run1.avi`, `lena_run2.avi`), but for `wave1` and `wave2`, waving one hand and both.
"""

from __future__ import annotations

from data_shards.footage import Source
from data_shards.sources.folder import list_videos, read_video

SOURCE = Source(
    listing=list_videos,
    read=read_video,
    labels=r"(?:.*/)?(?P<identity>[^/_]+)_(?P<action>wave[12]|[^/_]+?)\d*",
    labelled=True,
    about="one video file a take: PERSON_ACTION.avi",
)
