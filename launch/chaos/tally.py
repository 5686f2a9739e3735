"""What became of the promises: steps lost, checkpoints that load, bits that differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer.commit import committed, step_name
from trainer.journal import read
from trainer.saved import Saved, damage_of


@dataclass
class Tally:
    """Counts over all kills; filled in place."""

    seed: int
    interval: int
    kills: int = 0
    runs: int = 0
    survived: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    """Steps, by kill."""
    without: int = 0
    stuck: int = 0
    bits: int = 0

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.survived == self.runs
            and not (self.without or self.bits or self.stuck)
            and max(self.lost, default=0) <= self.interval
        )

    def text(self) -> str:
        """The tally, to be read."""
        lost = f"at most {max(self.lost, default=0)} (a save interval: {self.interval})"
        rows = (
            ("killed", _counts(self.targets)),
            ("while", _counts(self.moments)),
            ("runs survived", f"{self.survived} of {self.runs}"),
            ("steps lost", lost),
            ("bits different", str(self.bits)),
            ("moments without a checkpoint", f"{self.without} after the first save"),
            ("processes that did not end", str(self.stuck)),
        )
        head = f"seed {self.seed}: {self.kills} kills, promises {'kept' if self.kept else 'BROKEN'}"
        return "\n".join([head, *(f"  {name:30}{value}" for name, value in rows)])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def last_step(run: Path) -> int:
    """The last step that a run has logged."""
    path = run / "metrics.jsonl"
    return max((int(line["step"]) for line in read(path)), default=0) if path.exists() else 0


def newest_whole(run: Path) -> int | None:
    """Step of the newest checkpoint that loads."""
    folder = run / "checkpoints"
    for step in reversed(committed(folder)):
        if damage_of(folder / step_name(step)) is None:
            return step
    return None


def bits_different(one: Path, other: Path) -> int:
    """Bits in which two checkpoints differ; every bit of a tensor that only one of them has."""
    mine, theirs = (_tensors(path) for path in (one, other))
    count = 0
    for name in mine.keys() | theirs.keys():
        a, b = (
            tensors[name].reshape(-1).view(torch.uint8) if name in tensors else None
            for tensors in (mine, theirs)
        )
        if a is None or b is None or a.shape != b.shape:
            count += 8 * max(x.numel() for x in (a, b) if x is not None)
        elif not torch.equal(a, b):
            count += int((a ^ b).long().apply_(lambda byte: byte.bit_count()).sum())
    return count


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    saved = Saved(path)
    found = {f"own/{name}": saved.read(name) for name in saved.names}
    for file in saved.manifest.files:
        if file.startswith("common-"):
            kind = file.removeprefix("common-").removesuffix(".safetensors")
            found |= {f"{kind}/{name}": x for name, x in saved.common(kind).items()}
    return found
