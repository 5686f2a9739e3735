"""How far real footage is from itself: other windows of the same videos, as a table."""

from __future__ import annotations

import numpy as np

from launch.reproduce import figures
from launch.reproduce.context import Context, Table
from launch.reproduce.footage import FootageSet, prepared, read_clips
from trainer import cards
from trainer.run import Run

COLUMNS = ("", *figures.COLUMNS)


def other_windows(context: Context, footage: FootageSet, run: Run) -> Table | str:
    """The second window of each video against its first, where videos are long enough, beside the
    reference rows of the same videos; or why there is none. `run` is one of the set, for the
    protocol."""
    plan = context.plan
    if not footage.root:
        return f"synthetic videos have {plan.frames} frames"
    folder = prepared(
        footage, out=context.out, name="windows", frames=plan.frames, size=plan.size, windows="all"
    )
    clips = read_clips(folder, each=2)
    first = np.unique(clips.video_N, return_index=True)[1]
    second = [n + 1 for n in first if n + 1 < len(clips.video_N)
              and clips.video_N[n + 1] == clips.video_N[n]]  # fmt: skip
    if len(second) < 2:
        return f"{len(second)} of its videos have {2 * plan.frames} frames, two windows"
    at = np.array(second)
    truth = figures.truth_of(clips.frames_NTHWC[at - 1], vgg=context.vgg)
    row = figures.measure(clips.frames_NTHWC[at], truth, paired=False)
    lines = figures.reference_cells(figures.references(truth))
    lines.append(("other windows", *figures.cells([row], truth.fcs)))
    seen = f"{len(at)} that are long enough"
    own = {
        "clips": "other windows: the second of each video; all else, and what it is held against: "
        "the first",
        **cards.footage_card(clips.manifest, str(folder)),
    }
    return Table(
        f"Other windows of the real videos: {footage.name}",
        COLUMNS,
        tuple(lines),
        {**figures.card(run, videos=seen, vgg=context.vgg, columns=COLUMNS), **own},
        "How far real footage is from itself: another window is in another phase.",
    )
