"""Readers of a run verify what they take of a checkpoint, a resume every byte of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_shards.errors import UserError
from tests.support import checkpoints as little
from trainer import commit, streamed
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.ownership import PAGES
from trainer.saved import damage_of

ROWS = "own-0-of-1.safetensors"


def saver(folder: Path) -> Checkpointer:
    return Checkpointer(folder, CheckpointConfig(), comm=Comm())


def flip(file: Path, at: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def test_readers_hash_what_they_read_whole_and_a_resume_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What grows with the rows is not read when a run is opened, but before it goes on."""
    checkpoints, facts, hashed = saver(tmp_path), commit.facts_of, []
    little.save(checkpoints, 1, Comm())

    def seen(path: Path) -> commit.FileFacts:
        hashed.append(path.name)
        return facts(path)

    monkeypatch.setattr(commit, "facts_of", seen)
    whole = ["common-average.safetensors", "common-networks.safetensors", "state.json"]
    assert checkpoints.latest() is not None and sorted(hashed) == whole
    assert checkpoints.at(1).is_dir() and sorted(hashed) == sorted(2 * whole)
    hashed.clear()
    assert checkpoints.recover() is not None and sorted(hashed) == sorted([*whole, ROWS])


@pytest.mark.parametrize("what", ["cut", "gone", "header"])
def test_a_file_of_rows_that_is_none_is_found_when_a_run_is_opened(
    tmp_path: Path, what: str
) -> None:
    """Its size and its header are looked at, and the checkpoint before is read."""
    checkpoints = saver(tmp_path)
    little.save(checkpoints, 1, Comm())
    path = little.save(checkpoints, 2, Comm())
    assert path is not None and damage_of(path, whole=False) is None
    raw = (path / ROWS).read_bytes()
    if what == "gone":
        (path / ROWS).unlink()
    else:
        (path / ROWS).write_bytes(raw[:-1] if what == "cut" else raw[:8] + b"[" + raw[9:])
    assert (damage_of(path, whole=False) or "").startswith(ROWS)
    assert (checkpoints.latest() or path).name == "step-00000001"


def test_a_row_that_changed_is_found_when_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its block of rows and no other; a resume finds it first, and takes the one before."""
    monkeypatch.setattr(streamed, "BLOCK", 64)  # of ten rows of 16 bytes: 4, 4 and 2
    checkpoints = saver(tmp_path)
    for step in (1, 2):
        own = iter([("static.value.03", torch.rand(10, 4))])
        checkpoints.save(step, common={}, own=own, state={})
    newest = tmp_path / "checkpoints" / "step-00000002"
    flip(newest / ROWS, 8 + streamed.ROOM + 5 * 16)
    assert checkpoints.latest() == newest
    held = checkpoints.open(newest).held()
    held.check("static", 3 + PAGES * torch.tensor([0, 3, 9, 8, 0]))
    for row in (4, 5, 7):
        with pytest.raises(UserError, match=r"damaged \(rows of static.value.03 do not match"):
            held.check("static", 3 + PAGES * torch.tensor([1, row]))
    found = checkpoints.recover()
    assert found is not None and found.name == "step-00000001"


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (1, 3), (7, 3), (8, 4), (9, 40), (5, 0)])
def test_a_reader_cuts_a_page_as_it_was_cut(
    monkeypatch: pytest.MonkeyPatch, rows: int, width: int
) -> None:
    """The number of digests tells the rows of a block, whatever a block's size was: of no rows, of
    rows that blocks do not divide, that are larger than a block, that are empty."""
    monkeypatch.setattr(streamed, "BLOCK", 32)
    page = torch.rand(rows, width)
    told = streamed.digests_of(page)
    size = streamed.block_rows(rows, len(told) // 64)
    blocks = [page[at : at + size] for at in range(0, max(1, rows), size)]
    assert told == "".join(map(streamed.digest_of, blocks))


def test_a_checkpoint_without_digests_of_rows_is_verified_whole(tmp_path: Path) -> None:
    """One that was saved before there were any is read as ever, and no byte of it taken on
    trust."""
    checkpoints = saver(tmp_path)
    path = little.save(checkpoints, 1, Comm())
    assert path is not None
    raw = json.loads((path / commit.MANIFEST).read_text())
    assert len(raw["digests"]) == little.PAGES
    facts = {key: value for key, value in raw.items() if key not in ("seal", "digests")}
    sealed = json.dumps({**facts, "seal": commit._seal(facts)})
    (path / commit.MANIFEST).write_text(sealed)
    assert checkpoints.latest() == path and little.holds(path, 1)
    checkpoints.open(path).held().check("static", torch.arange(3))
    flip(path / ROWS, -1)
    assert damage_of(path, whole=False) == f"{ROWS} does not match its SHA-256"
