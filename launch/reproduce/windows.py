"""How far real footage is from itself: other windows of the same videos, as a table."""

from __future__ import annotations

import numpy as np

from launch.reproduce import figures
from launch.reproduce.context import Context, Table
from launch.reproduce.footage import FootageSet, prepared, read_clips
from trainer import cards


def other_windows(context: Context, footage: FootageSet, card: dict[str, str]) -> Table | None:
    """The second window of each video against its first, where videos are long enough, beside the
    reference rows of the same videos; `card` is that of other figures of the set."""
    if not footage.root:
        return None
    plan = context.plan
    folder = prepared(
        footage, out=context.out, name="windows", frames=plan.frames, size=plan.size, windows="all"
    )
    clips = read_clips(folder, first=False)
    first = np.unique(clips.video_N, return_index=True)[1]
    second = [n + 1 for n in first if n + 1 < len(clips.video_N)
              and clips.video_N[n + 1] == clips.video_N[n]]  # fmt: skip
    if len(second) < 2:
        return None
    at = np.array(second)
    real = clips.frames_NTHWC[at - 1]
    row = figures.measure(clips.frames_NTHWC[at], real, vgg=context.vgg, paired=False)
    lines = figures.reference_cells(figures.references(real, vgg=context.vgg))
    lines.append(("other windows", *figures.cells([row], figures.bound_of(real))))
    own = {"videos": f"{len(at)} that are long enough", **cards.footage_card(clips.manifest)}
    return Table(
        f"Other windows of the real videos: {footage.name}",
        ("", "MCS", "FCS", "distance to the bound"),
        tuple(lines),
        {**card, **own},
        "How far real footage is from itself: another window is in another phase.",
    )
