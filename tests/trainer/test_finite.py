"""Values that are not finite stop a step on every rank, before anything moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.finite import Evidence, all_finite, check
from trainer.leaving import NonFinite


def evidence(*, spoil: str = "", value: float = float("nan")) -> Evidence:
    """A step of two clips in which one thing may be spoiled."""
    parts = {
        "terms": {"rec": torch.tensor(1.0), "static": torch.tensor(2.0)},
        "gradients": {"motion.w": torch.ones(3, 2), "generator.w": torch.ones(4)},
        "rows": {"static": torch.ones(2, 3), "transient.grad": torch.ones(2, 5, 3)},
    }
    for tensors in parts.values():
        if spoil in tensors:
            tensors[spoil].view(-1)[-1] = value
    batch = {"frames": torch.zeros(2, 5, 3, 4, 4, dtype=torch.uint8), "clip": torch.tensor([4, 9])}
    weights = {"w": torch.ones(2)}
    return Evidence(**parts, batch=batch, clips=["walk@0", "jump@16"], weights=weights)


def test_finite_values_pass(tmp_path: Path) -> None:
    """Nothing happens and nothing is written."""
    check(3, evidence(), comm=Comm(), folder=tmp_path, state={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spoil", ["static", "motion.w", "transient.grad", "rec"])
def test_one_bad_element_is_found(tmp_path: Path, spoil: str, value: float) -> None:
    """Whatever holds it is named, with the clips of a row, and the files replay the step."""
    with pytest.raises(NonFinite, match="step 3 is not finite: rank 0") as caught:
        bad = evidence(spoil=spoil, value=value)
        check(3, bad, comm=Comm(), folder=tmp_path, state={"seed": 5})
    assert spoil in str(caught.value)
    where = tmp_path / "nonfinite" / "step-00000003"
    told = json.loads((where / "rank-0.json").read_text())
    assert (told["step"], told["seed"]) == (3, 5)
    if spoil == "transient.grad":
        assert told["clips"] == ["jump@16"] and "clips jump@16" in str(caught.value)
    saved = load_file(where / "rank-0.safetensors")
    assert torch.equal(saved["batch.clip"], torch.tensor([4, 9]))
    assert saved["rows.static"].shape == (2, 3)
    assert load_file(where / "weights.safetensors").keys() == {"w"}


def test_the_fast_check_sees_everything() -> None:
    """Large finite values pass, empty and integer tensors count nothing."""
    assert bool(all_finite([]))
    assert bool(all_finite([torch.tensor([3e38, -3e38]), torch.zeros(0), torch.tensor([1])]))
    assert not bool(all_finite([torch.ones(4), torch.tensor([1.0, float("nan")])]))
    half = torch.tensor([float("inf")], dtype=torch.bfloat16)
    assert not bool(all_finite([torch.ones(4, dtype=torch.float64), half]))


def one_bad_rank(comm: Comm, folder: str) -> str:
    spoil = "generator.w" if comm.rank == 1 else ""
    try:
        check(8, evidence(spoil=spoil), comm=comm, folder=Path(folder), state={})
    except NonFinite as error:
        return str(error)
    return "went on"


@pytest.mark.ranks
def test_all_ranks_stop_for_one(tmp_path: Path) -> None:
    """The rank with the bad gradient is named on every rank, and each writes its part."""
    told = run_ranks(one_bad_rank, 2, str(tmp_path))
    assert told[0] == told[1] and "rank 1: gradients generator.w" in told[0]
    names = {p.name for p in (tmp_path / "nonfinite" / "step-00000008").iterdir()}
    ranks = {f"rank-{rank}.{kind}" for rank in (0, 1) for kind in ("json", "safetensors")}
    assert names == {*ranks, "weights.safetensors"}
