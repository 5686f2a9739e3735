"""From rows of the dictionary to pixels: what `generate`, `evaluate` and `summary` share.

A run (`trainer.run.Run`) brings latents and networks together; here rows are looked up, names are
given to rows and rows to names, and clips are rendered a few at a time so that memory stays small.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from trainer.pictures import channels_last, to_pixels
from trainer.progress import progress

if TYPE_CHECKING:
    from trainer.run import Run

CLIPS_AT_ONCE = 16

log = logging.getLogger("navsynth")


class TrainedRows(NamedTuple):
    """Rows that some clip trained: a label whose videos were all rejected has no such row."""

    static_N: np.ndarray
    transient_N: np.ndarray


@torch.inference_mode()
def render(
    run: Run, static_B: Sequence[int] | np.ndarray, transient_B: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Videos of static row i with transient row i: uint8 (B, T, H, W, 3)."""
    static = torch.as_tensor(np.asarray(static_B, np.int64))
    transient = torch.as_tensor(np.asarray(transient_B, np.int64))
    parts = []
    for start in progress(range(0, len(static), CLIPS_AT_ONCE), label="rendering"):
        part = slice(start, start + CLIPS_AT_ONCE)
        images, _ = run.networks(*run.latents(static[part], transient[part]))
        parts.append(to_pixels(images))
    return np.concatenate(parts)


def render_clips(run: Run, clips_B: Sequence[int] | np.ndarray) -> np.ndarray:
    """Training clips as the networks reproduce them: uint8 (B, T, H, W, 3)."""
    rows = rows_of(run, clips_B)
    return render(run, rows.static_N, rows.transient_N)


def real_clips(run: Run, clips_B: Sequence[int] | np.ndarray) -> np.ndarray:
    """Training clips as they were filmed: uint8 (B, T, H, W, 3)."""
    return channels_last(run.real(torch.as_tensor(np.asarray(clips_B, np.int64))))


def rows_of(run: Run, clips_B: Sequence[int] | np.ndarray) -> TrainedRows:
    """Static and transient rows of clips, one of each for every clip."""
    rows = run.clip_rows(torch.as_tensor(np.asarray(clips_B, np.int64)))
    static, transient = (np.asarray(row) for row in rows)
    if min(static.min(initial=0), transient.min(initial=0)) < 0:
        raise UserError(
            "latents: a clip has no label for its key; train with a layout that the footage has"
        )
    return TrainedRows(static, transient)


def trained_rows(run: Run) -> TrainedRows:
    """Every row that training has touched, each once, in order."""
    static, transient = (
        np.unique(np.asarray(rows)) for rows in run.clip_rows(torch.arange(run.manifest.clips))
    )
    return TrainedRows(static[static >= 0], transient[transient >= 0])


class Pairs:
    """A set of pairs of a static and a transient row, 8 bytes each."""

    def __init__(self, static_N: np.ndarray, transient_N: np.ndarray) -> None:
        """Pairs (static_N[i], transient_N[i]), but not those with an absent row (-1)."""
        known_N = (static_N >= 0) & (transient_N >= 0)
        self._width = int(transient_N.max(initial=-1)) + 1
        self._codes = np.unique(static_N[known_N] * self._width + transient_N[known_N])

    def hold(self, static_B: np.ndarray, transient_B: np.ndarray) -> np.ndarray:
        """Which pairs of rows are in the set, bool (B,)."""
        codes_B = static_B * self._width + transient_B
        return np.isin(codes_B, self._codes) & (transient_B < self._width)


def trained_pairs(run: Run) -> Pairs:
    """Pairs of a static and a transient row that some training clip has; those of fitted clips,
    which lie behind the training clips, are not among them."""
    static_N, transient_N = run.clip_rows(torch.arange(len(run.opened.table)))
    return Pairs(static_N.numpy(), transient_N.numpy())


def row_name(manifest: Manifest, kind: str, row: int) -> str:
    """What a row of a key kind stands for, in words."""
    if kind == "clip":
        return f"clip {row}"
    if kind == "dataset":
        return manifest.name
    if kind == "video":
        return manifest.videos[row].name
    return {"action": manifest.actions, "identity": manifest.identities}[kind][row]


def check_names(manifest: Manifest, asked: Sequence[str]) -> None:
    """Refuse names that no video has.

    Raises:
        UserError: naming the first of them and the nearest name that there is.
    """
    names = [video.name for video in manifest.videos]
    known = set(names)
    for name in asked:
        if name not in known:
            raise UserError(f"video {name!r}: not in {manifest.name}{nearest(name, names)}")


def nearest(name: str, names: Sequence[str]) -> str:
    """Ending of an error message: the likeliest name meant."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; did you mean {close[0]!r}?" if close else "; it is empty"


def checkpoint_of(text: str) -> str | int:
    """A checkpoint as `open_run` takes it: `latest`, or a step's number.

    Raises:
        UserError: anything else.
    """
    if text != "latest" and not text.isdecimal():
        raise UserError(f"--checkpoint {text}: give latest or the number of a step")
    return text if text == "latest" else int(text)


def names_of(run: Run, asked: Sequence[str] | None) -> list[str]:
    """The names asked for; `all` alone stands for every video, unless one has that very name."""
    every = [video.name for video in run.manifest.videos]
    return every if list(asked or ()) == ["all"] and "all" not in every else list(asked or ())


def clips_of(run: Run, names: Sequence[str]) -> list[int]:
    """First clip of each video named."""
    check_names(run.manifest, names)
    return [int(run.clip_of_video(name)) for name in names]


def spread(count: int, total: int) -> list[int]:
    """At most `count` of 0..total-1, evenly spread, first and last among them."""
    count = min(count, total)
    return np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist()


def spread_videos(run: Run, count: int) -> list[str]:
    """Names of at most `count` videos, evenly spread over the manifest."""
    videos = run.manifest.videos
    return [videos[index].name for index in spread(count, len(videos))]


class Videos(NamedTuple):
    """Some videos, the first clip of each, and how many more were asked for that are damaged."""

    names: list[str]
    clips: list[int]
    damaged: int

    def of(self, total: int) -> str:
        """How many they are, for a card."""
        text = f"{len(self.names)} of {total}"
        return f"{text}, {self.damaged} left out as damaged" if self.damaged else text


def sound_videos(run: Run, names: Sequence[str]) -> Videos:
    """Those of some videos whose first clip is whole; what `data.on_damage=quarantine` has left out
    of training is neither judged nor shown.

    Raises:
        UserError: an unknown name, or none of them is whole.
    """
    clips = clips_of(run, names)
    whole = set(run.sound(clips))
    kept = [(name, clip) for name, clip in zip(names, clips, strict=True) if clip in whole]
    if not kept:
        raise UserError(f"{run.manifest.name}: damaged, all {len(clips)} videos that were chosen")
    damaged = len(clips) - len(kept)
    if damaged:
        log.warning("%d of %d videos are damaged and left out", damaged, len(clips))
    return Videos([name for name, _ in kept], [clip for _, clip in kept], damaged)


def chosen_videos(
    run: Run, asked: Sequence[str] | None, *, count: int = 0
) -> tuple[list[str], list[int]]:
    """Names and first clips of the videos asked for, else of `count` evenly spread ones. Where they
    were not named one by one, damaged ones are left out.

    Raises:
        UserError: an unknown name, or none of them is whole.
    """
    names = names_of(run, asked) or spread_videos(run, count)
    if asked and names == list(asked):
        return names, clips_of(run, names)
    found = sound_videos(run, names)
    return found.names, found.clips
