"""A run folder is read whatever its training does meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.support.training import train
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
