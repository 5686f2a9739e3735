"""A tiny run to look at: real tensors and a real (untrained) module, no files and no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from data_shards.manifest import CLIP_RECORD, Manifest, Shard, Video
from trainer import render

SIZE = 24
FRAMES = 8


class TinyNetworks(torch.nn.Module):
    """Sum of what the static and the transient code say: a frame for every code."""

    def __init__(self, static: int = 6, transient: int = 4, size: int = SIZE):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(static + transient, 3 * 3 * 3, generator=generator)
        self.register_buffer("weights_DP", weights)
        self.size = size

    def forward(
        self, static_BS: torch.Tensor, transient_BTM: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frames = transient_BTM.shape[1]
        static_BTS = static_BS[:, None].expand(-1, frames, -1)
        codes = torch.cat([static_BTS, transient_BTM], dim=-1) @ self.get_buffer("weights_DP")
        coarse = codes.reshape(-1, 3, 3, 3)
        images = torch.nn.functional.interpolate(coarse, size=(self.size, self.size))
        return images.reshape(-1, frames, *images.shape[1:]), transient_BTM


def tiny_manifest(names: list[str] | None = None, *, identities: int = 2) -> Manifest:
    """One clip a video; identity = index // actions, action = index % actions."""
    names = names or [f"person{i}/wave{j}" for i in range(identities) for j in range(3)]
    actions = max(1, len(names) // identities)
    videos = tuple(
        Video(name, min(index // actions, identities - 1), index % actions, FRAMES)
        for index, name in enumerate(names)
    )
    return Manifest(
        name="tiny",
        source="synthetic",
        height=SIZE,
        width=SIZE,
        frames=FRAMES,
        stride=1,
        windows="first",
        codec="png",
        clips_sha256="0" * 64,
        shards=(Shard("shard-000000.tar", len(names), 1024, "0" * 64),),
        videos=videos,
        identities=tuple(f"person{i}" for i in range(identities)),
        actions=tuple(f"wave{j}" for j in range(actions)),
    )


@dataclass
class TinyRun:
    """What `trainer.run.open_run` gives, in memory."""

    folder: Path
    manifest: Manifest
    static_key: str = "video"
    transient_key: str = "video"
    step: int = 7
    noise: int = 0
    """Grey levels by which the footage differs from what the networks make."""

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        rows = self.manifest.rows(self.static_key), self.manifest.rows(self.transient_key)
        self.static_NS = torch.randn(rows[0], 6, generator=draw) / 6
        self.transient_NTM = torch.randn(rows[1], FRAMES, 4, generator=draw) / 6
        self.networks = TinyNetworks().eval()
        keys = {"static_key": self.static_key, "transient_key": self.transient_key}
        table = np.zeros(self.manifest.clips, CLIP_RECORD)
        table["video"] = np.arange(self.manifest.clips)
        self.opened = SimpleNamespace(table=table)
        self.config = SimpleNamespace(
            latents=SimpleNamespace(**keys, static=6, transient=4),
            data=SimpleNamespace(manifest="unused"),
        )

    def latents(
        self, static_B: torch.Tensor, transient_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.static_NS[static_B], self.transient_NTM[transient_B]

    def clip_rows(self, clips_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def rows(kind: str) -> torch.Tensor:
            table = {
                "dataset": [0] * self.manifest.clips,
                "identity": [video.identity for video in self.manifest.videos],
                "action": [video.action for video in self.manifest.videos],
                "video": list(range(self.manifest.clips)),
                "clip": list(range(self.manifest.clips)),
            }[kind]
            return torch.tensor(table)[clips_B]

        return rows(self.static_key), rows(self.transient_key)

    def real(self, clips_B: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            images, _ = self.networks(*self.latents(*self.clip_rows(clips_B)))
        pixels = images.add(1).mul(127.5).round().clamp(0, 255)
        return (pixels + self.noise).clamp(0, 255).to(torch.uint8)

    def sound(self, clips: Sequence[int] | np.ndarray) -> list[int]:
        return np.asarray(clips, np.int64).tolist()

    def row_name(self, table: int, row: int) -> str:
        return render.row_name(self.manifest, (self.static_key, self.transient_key)[table], row)

    def clip_of_video(self, name: str) -> int:
        return [video.name for video in self.manifest.videos].index(name)
