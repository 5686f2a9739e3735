"""A run folder, read back: for generation, evaluation, fitting and reports.

Nothing here needs the process group; a checkpoint of many ranks is read by one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_shards.dataset import ClipReader, Part, Request, problem_of
from data_shards.errors import UserError
from data_shards.manifest import Manifest
from data_shards.rows import rows_of
from data_shards.stream import OpenManifest, open_manifest
from trainer import render, setup
from trainer.average import WeightAverage
from trainer.checkpoint import Checkpointer
from trainer.comm import Comm
from trainer.config import Config, resolve
from trainer.devices import own_device
from trainer.networks import NavSynth
from trainer.reshard import saved_rows
from trainer.saved import Held

CONFIG = "config.yaml"
READ_AT_ONCE = 64
"""Clips."""


@dataclass(frozen=True)
class Run:
    """A trained model with its dictionary and footage."""

    folder: Path
    config: Config
    manifest: Manifest
    opened: OpenManifest
    networks: NavSynth
    pages: Held
    """Pages of the checkpoint's dictionary by name; only rows that are asked for are verified and
    read, and its files stay open, also where a training replaces the checkpoint."""
    step: int

    def latents(
        self, static_rows_B: torch.Tensor, transient_rows_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, S) and (B, T, M) of dictionary rows, without gradients; for a conditional
        generator the static ones have the rows' labels behind them (`NavSynth.told`).

        Raises:
            UserError: a row that the dictionary does not have, or that is damaged.
        """
        found = []
        layout = self.config.latents
        for kind, key, rows_B in (
            ("static", layout.static_key, static_rows_B),
            ("transient", layout.transient_key, transient_rows_B),
        ):
            count = self.manifest.rows(key)
            if len(rows_B) and not 0 <= int(rows_B.min()) <= int(rows_B.max()) < count:
                raise UserError(
                    f"latents: row {int(rows_B.min())}..{int(rows_B.max())} of the {kind} table, "
                    f"which has {count} rows; is a label absent?"
                )
            self.pages.check(kind, rows_B)
            found.append(saved_rows(self.pages, kind, rows_B))
        return self.networks.told(found[0], static_rows_B, transient_rows_B), found[1]

    def clip_rows(self, clips_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, int64 (B,) each, of the static and the transient table that clips belong to."""
        layout = self.config.latents
        return (
            rows_of(self.opened, clips_B, layout.static_key),
            rows_of(self.opened, clips_B, layout.transient_key),
        )

    def real(self, clips_B: torch.Tensor) -> torch.Tensor:
        """Footage of clips, uint8 (B, T, C, H, W): the first T frames of each.

        Raises:
            UserError: one of them is damaged, also where training leaves damaged clips out: such a
                clip has no frames that could be shown or judged (see `sound`).
        """
        part = self._read(clips_B.numpy())
        problem = problem_of(part, on_damage="fail")
        if problem:
            raise UserError(problem)
        return part.frames_BTCHW

    def sound(self, clips: Sequence[int] | np.ndarray) -> list[int]:
        """Those of some clips that are whole, where `data.on_damage` lets a training leave damaged
        ones out; else all of them, and `real` names what is damaged.

        Raises:
            UserError: the footage is out of reach.
        """
        clips_B = np.asarray(clips, np.int64)
        if self.config.data.on_damage == "fail":
            return clips_B.tolist()
        found: list[int] = []
        for start in range(0, len(clips_B), READ_AT_ONCE):
            part = self._read(clips_B[start : start + READ_AT_ONCE])
            if part.error:
                raise UserError(part.error)
            found += part.request.clip_B[part.valid_B.numpy()].tolist()
        return found

    def row_name(self, table: int, row: int) -> str:
        """What a row of the static (0) or the transient table (1) stands for, in words."""
        layout = self.config.latents
        return render.row_name(self.manifest, (layout.static_key, layout.transient_key)[table], row)

    def _read(self, clip_B: np.ndarray) -> Part:
        return ClipReader(self.opened)[Request(0, clip_B, np.zeros(len(clip_B), np.int64))]

    def clip_of_video(self, name: str) -> int:
        """Number of the first clip of a video.

        Raises:
            UserError: no such video; the nearest name is given.
        """
        first = self._first_clips
        if name not in first:
            near = difflib.get_close_matches(name, first, n=1, cutoff=0.0)
            raise UserError(f"{name}: no such video in this run; did you mean {near[0]}?")
        return first[name]

    @cached_property
    def _first_clips(self) -> dict[str, int]:
        """First clip of each video, found for all of them at once."""
        videos_V, first_V = np.unique(self.opened.table["video"], return_index=True)
        names = [self.manifest.videos[video].name for video in videos_V.tolist()]
        return dict(zip(names, first_V.tolist(), strict=True))


def open_run(folder: str | Path, checkpoint: str | int = "latest") -> Run:
    """Read a run folder: its config, footage and one checkpoint (`latest` or a step's number).

    The networks carry the running average of the weights where the run keeps one, and lie on the
    GPU where there is one; latents are read into host memory.

    Raises:
        UserError: not a run folder, no checkpoint yet, footage gone or not the run's.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a run folder (no {CONFIG}); runs/ holds them")
    config = resolve(file=str(folder / CONFIG))
    opened = open_manifest(config.data.manifest, config=config.data)
    checkpoints = Checkpointer(folder, config.checkpoint, comm=Comm())
    path = checkpoints.latest() if checkpoint == "latest" else checkpoints.at(int(checkpoint))
    if path is None:
        raise UserError(f"{folder}: no checkpoint yet; train it first")
    saved = checkpoints.open(path)
    pages = saved.held()
    if saved.state.get("fingerprint") != opened.manifest.fingerprint:
        raise UserError(
            f"{config.data.manifest}: not the footage that {folder} was trained on; prepare that "
            "again, or train a run of another name"
        )
    networks = setup.build_networks(config, opened.manifest)
    networks.load_state_dict(saved.common("networks"))
    average = WeightAverage(networks, decay=config.train.average)
    average.load(saved.common("average"))
    average.show_()
    networks.eval().requires_grad_(False).to(own_device()).generator.arrange_()
    return Run(folder, config, opened.manifest, opened, networks, pages, int(saved.state["step"]))
