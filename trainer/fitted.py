"""Latents found for videos that were not trained on: their files, and a run that has them too.

`python -m trainer.fit` writes `RUN/fitted/NAME.safetensors` (latents) and `NAME.json` (of which
videos, from where, how well). `extended` gives a run whose dictionary goes on with them: their rows
come after the trained ones, so whatever takes a run can reconstruct, recombine, interpolate them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data_shards.errors import UserError
from data_shards.manifest import Shard
from trainer.commit import replace_durable
from trainer.run import Run

FOLDER = "fitted"
FORMAT = 2


class Fitted(NamedTuple):
    """Latents of new videos, with what is known of them."""

    static_VS: torch.Tensor
    transient_VTM: torch.Tensor
    facts: dict[str, Any]
    """`step` of the run, `data` (folder; below `RUN/fitted` where it is relative) and its
    `fingerprint`, `compared` (training clips among which the nearest was sought, `K of N`),
    `videos` (a list with `name`, `clip`, `psnr`, ...)."""


def write_fitted(run: Run, name: str, fitted: Fitted) -> Path:
    """Write both files of a set of fitted videos; returns the JSON file, which comes last.

    Raises:
        UserError: a name that is not a plain file name.
    """
    path = _path(run, name)
    tensors = {"static": fitted.static_VS, "transient": fitted.transient_VTM}
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    path.parent.mkdir(exist_ok=True)
    replace_durable(path.with_suffix(".safetensors"), save(kept))
    text = json.dumps({"format": FORMAT, **fitted.facts}, indent=1, allow_nan=False) + "\n"
    replace_durable(path, text.encode())
    return path


def read_fitted(run: Run, name: str) -> Fitted:
    """Read a set of fitted videos.

    Raises:
        UserError: not there, damaged, or fitted to other weights than the run's.
    """
    path = _path(run, name)
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json"))
        there = f"there are {', '.join(known)}" if known else "run trainer.fit first"
        raise UserError(f"--fitted {name}: no {path}; {there}")
    try:
        facts = json.loads(path.read_text())
        if facts["format"] != FORMAT:
            raise UserError(f"{path}: of another version of navsynth; fit again")
        tensors = load_file(path.with_suffix(".safetensors"))
        static_VS, transient_VTM = tensors["static"], tensors["transient"]
        widths = (run.config.latents.static, run.config.latents.transient)
        if (static_VS.shape[1], transient_VTM.shape[2]) != widths:
            raise UserError(f"{path}: widths {static_VS.shape[1]}, {transient_VTM.shape[2]}; the "
                            f"run has {widths[0]}, {widths[1]}; fit again")  # fmt: skip
        if len(facts["videos"]) != len(static_VS):
            raise UserError(f"{path}: its two files do not belong together; fit again")
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); fit again") from None
    if facts["step"] != run.step:
        raise UserError(
            f"{path}: fitted to step {facts['step']}, the run is at step {run.step}; fit again, or "
            f"give --checkpoint {facts['step']}"
        )
    return Fitted(static_VS, transient_VTM, facts)


def extended(run: Run, name: str) -> Run:
    """The run with the videos of `RUN/fitted/NAME` after its own.

    A fitted video keeps its name, and is called `NAME/video` where the run has one of that name.
    """
    fitted = read_fitted(run, name)
    known = {video.name for video in run.manifest.videos}
    frames = run.manifest.frames
    facts = [v["name"] for v in fitted.facts["videos"]]
    names = [f"{name}/{video}" if video in known else video for video in facts]
    keys = run.config.latents.static_key, run.config.latents.transient_key
    old = run.manifest
    video = old.videos[0]._replace(identity=-1, action=-1, frames=frames)
    manifest = dataclasses.replace(
        old,
        videos=old.videos + tuple(video._replace(name=each) for each in names),
        shards=(*old.shards, Shard("fitted", len(names), 1, "")),
        identities=old.identities + (tuple(names) if "identity" in keys else ()),
        actions=old.actions + (tuple(names) if "action" in keys else ()),
    )
    parts = {field.name: getattr(run, field.name) for field in dataclasses.fields(Run)}
    return ExtendedRun(**{**parts, "manifest": manifest}, base=run, fitted=fitted)


@dataclass(frozen=True)
class ExtendedRun(Run):
    """A run that goes on with fitted videos: clips and rows beyond the trained ones are theirs."""

    base: Run
    fitted: Fitted

    def latents(
        self, static_rows_B: torch.Tensor, transient_rows_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, S) and (B, T, M) of trained and fitted rows."""
        ends = self._rows()
        rows = static_rows_B, transient_rows_B
        inside = [row.clamp_max(end - 1) for row, end in zip(rows, ends, strict=True)]
        trained = self.base.latents(inside[0], inside[1])
        found = []
        new = self.fitted.static_VS, self.fitted.transient_VTM
        for row_B, end, old, values in zip(rows, ends, trained, new, strict=True):
            at = (row_B - end).clamp_min(0)
            here = (row_B >= end).view(-1, *[1] * (old.ndim - 1)).to(old.device)
            found.append(torch.where(here, values[at].to(old), old[..., : values.shape[-1]]))
        return self.networks.told(found[0], *rows), found[1]

    def clip_rows(self, clips_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of trained clips, and those behind them of fitted ones."""
        clips, ends = self.base.manifest.clips, self._rows()
        trained = self.base.clip_rows(clips_B.clamp_max(clips - 1))
        first, second = (
            torch.where(clips_B >= clips, clips_B - clips + end, row)
            for row, end in zip(trained, ends, strict=True)
        )
        return first, second

    def real(self, clips_B: torch.Tensor) -> torch.Tensor:
        """Footage of trained and fitted clips, uint8 (B, T, C, H, W)."""
        clips, size = self.base.manifest.clips, self.manifest
        new_B = clips_B >= clips
        facts = self.fitted.facts
        at = torch.tensor([video["clip"] for video in facts["videos"]])
        parts = torch.empty(
            len(clips_B), size.frames, 3, size.height, size.width, dtype=torch.uint8
        )
        if (~new_B).any():
            parts[~new_B] = self.base.real(clips_B[~new_B])
        if new_B.any():
            opened = open_footage(self.base, facts)
            new = dataclasses.replace(self.base, opened=opened).real(at[clips_B[new_B] - clips])
            parts[new_B] = new
        return parts

    def sound(self, clips: Sequence[int] | np.ndarray) -> list[int]:
        """Trained clips that are whole, and fitted ones: they were, and `real` refuses others."""
        wanted, count = np.asarray(clips, np.int64), self.base.manifest.clips
        whole = set(self.base.sound(wanted[wanted < count]))
        return [clip for clip in wanted.tolist() if clip >= count or clip in whole]

    def row_name(self, table: int, row: int) -> str:
        """A trained row by its key, a fitted one by its video, whatever the layout shares."""
        end = self._rows()[table]
        if row < end:
            return self.base.row_name(table, row)
        return self.manifest.videos[len(self.base.manifest.videos) + row - end].name

    def clip_of_video(self, name: str) -> int:
        """First clip of a trained video, the clip of a fitted one."""
        trained = len(self.base.manifest.videos)
        fitted = [video.name for video in self.manifest.videos[trained:]]
        if name in fitted:
            return self.base.manifest.clips + fitted.index(name)
        return self.base.clip_of_video(name)

    def _rows(self) -> tuple[int, int]:
        layout, facts = self.config.latents, self.base.manifest
        return facts.rows(layout.static_key), facts.rows(layout.transient_key)


def open_like(run: Run, where: str) -> Any:
    """Open a prepared set that is cut as the run's footage was.

    Raises:
        UserError: unreadable, or of other frames, stride or size.
    """
    from data_shards.stream import open_manifest

    opened = open_manifest(where, config=run.config.data)
    for name in ("frames", "stride", "height", "width"):
        ours, theirs = getattr(run.manifest, name), getattr(opened.manifest, name)
        if ours != theirs:
            raise UserError(f"{where}: {name} is {theirs}, the run was trained on {ours}")
    return opened


def place_of(run: Run, where: str) -> str:
    """How the folder of fitted footage is written down: relative below `RUN/fitted`, so that a run
    may be moved with it."""
    if not Path(where).exists():
        return where
    path, home = Path(where).resolve(), (run.folder / FOLDER).resolve()
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


def open_footage(run: Run, facts: dict[str, Any]) -> Any:
    """Open the footage that videos were fitted to.

    Raises:
        UserError: it is not there, or other footage is.
    """
    where = facts["data"]
    if "://" not in where:
        where = str(run.folder / FOLDER / where)
    opened = open_like(run, where)
    if opened.manifest.fingerprint != facts["fingerprint"]:
        raise UserError(f"{where}: is not the footage that the latents were fitted to; fit again")
    return opened


def read_footage(run: Run, where: str, clips_V: torch.Tensor) -> torch.Tensor:
    """The first T frames of clips of a prepared set, uint8 (V, T, C, H, W).

    Raises:
        UserError: unreadable, damaged, or cut otherwise.
    """
    return dataclasses.replace(run, opened=open_like(run, where)).real(clips_V)


def check_name(name: str) -> str:
    """A name for fitted videos.

    Raises:
        UserError: it is not the plain name of a file.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"{name!r}: not a name for fitted videos; give letters and digits")
    return name


def _path(run: Run, name: str) -> Path:
    return run.folder / FOLDER / f"{check_name(name)}.json"
