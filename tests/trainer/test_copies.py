"""What saves copy lies in memory that was there before the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.footage import tiny_set
from tests.support.training import train
from trainer.commons import Commons, Copies, Sets


def test_copies_are_of_their_moment_and_in_kept_memory() -> None:
    """They do not follow what they are of, keep its strides, and take no new memory; a tensor of
    another shape gets some."""
    weight = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    sets, copies = {"networks": {"weight": weight}}, Copies()
    copies.reserve(sets)
    places = {copies._kept["networks", "weight"].data_ptr()}
    for _ in range(2):
        want = weight.clone()
        taken = copies.take(sets, {"step": 1}, copy=True).sets["networks"]["weight"]
        weight.add_(1)
        assert torch.equal(taken, want) and taken.stride() == weight.stride()
        places.add(taken.data_ptr())
    assert len(places) == 1 and weight.data_ptr() not in places
    assert copies.take(sets, {}, copy=False).sets is sets
    other = {"networks": {"weight": torch.ones(2)}}
    assert copies.take(other, {}, copy=True).sets["networks"]["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("background", [True, False])
def test_a_training_reserves_them_after_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    """All of them, moments and averages too, where saves are made beside it, and else none."""
    asked: list[bool] = []
    take = Copies.take

    def seen(self: Copies, sets: Sets, state: Any, *, copy: bool) -> Commons:
        if not asked:
            names = {(name, key) for name, tensors in sets.items() for key in tensors}
            asked.append(names == self._kept.keys() and any(n == "optimiser" for n, _ in names))
        return take(self, sets, state, copy=copy)

    monkeypatch.setattr(Copies, "take", seen)
    words = ("checkpoint.steps=4", f"checkpoint.background={background}", "train.steps=9")
    assert train(tmp_path / "runs", tiny_set(tmp_path / "set", size=32), *words) == 0
    assert asked == [background]
