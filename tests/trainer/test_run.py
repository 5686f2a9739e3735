"""A run folder is read whatever its training does meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.support.training import train
from trainer.commit import read_manifest
from trainer.reshard import saved_rows
from trainer.run import open_run
from trainer.saved import Saved


def test_a_checkpoint_that_is_replaced_is_read_on_and_not_called_damaged(tmp_path: Path) -> None:
    """An opened run has its files open; who comes too late is told to run again."""
    data = tiny_set(tmp_path, identities=2, actions=2, frames=6, size=32)
    assert train(tmp_path, data, "train.steps=2", "train.pictures=false") == 0
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    shutil.copytree(newest, tmp_path / "copy")
    run, late, rows = open_run(tmp_path / "run"), Saved(newest), torch.arange(4)
    shutil.rmtree(newest)
    kept = Saved(tmp_path / "copy").read
    for found, kind in zip(run.latents(rows, rows), ("static", "transient"), strict=True):
        assert torch.equal(found, saved_rows(kept, kind, rows))
    for read in (lambda: late.common("networks"), late.held, lambda: Saved(newest)):
        with pytest.raises(UserError, match="has replaced it by a newer checkpoint: run the same"):
            read()


def test_a_file_that_is_missing_is_damage_while_the_checkpoint_is_there(tmp_path: Path) -> None:
    """Counters that are gone are not taken for none."""
    data = tiny_set(tmp_path, identities=2, actions=2, frames=6, size=32)
    assert train(tmp_path, data, "train.steps=2", "train.pictures=false") == 0
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    (newest / "state.json").unlink()
    with pytest.raises(UserError, match=r"damaged checkpoint \(state.json is missing\)"):
        Saved(newest)


def test_a_row_that_is_damaged_is_named_and_not_shown(tmp_path: Path) -> None:
    """A run with a flipped bit in one row opens, gives the other rows and refuses that one."""
    data = tiny_set(tmp_path, identities=2, actions=2, frames=6, size=32)
    assert train(tmp_path, data, "train.steps=2", "train.pictures=false") == 0
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    file = newest / read_manifest(newest).index["transient.value.02"]
    raw = bytearray(file.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    raw[8 + size + header["transient.value.02"]["data_offsets"][0]] ^= 1
    file.write_bytes(raw)
    run, rows = open_run(tmp_path / "run"), torch.tensor([0, 1, 3])
    assert len(run.latents(rows, rows)[1]) == 3
    with pytest.raises(UserError, match=r"rows of transient.value.02 do not match their SHA-256"):
        run.latents(torch.tensor([0, 0]), torch.tensor([1, 2]))
