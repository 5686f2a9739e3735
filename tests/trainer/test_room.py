"""What checkpoints take of the disk is known and said before training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from tests.support.footage import tiny_set
from tests.support.training import SMALL, run_script, tensors, train
from trainer import room
from trainer.comm import Comm
from trainer.config import Config, resolve
from trainer.estimate import estimate


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return tiny_set(folder, identities=3, actions=2, frames=6, size=32)


def config_of(data: Path, *words: str) -> Config:
    return resolve([f"data.manifest={data}", *SMALL, *words])


@pytest.mark.parametrize("optimiser", ["adam", "momentum"])
def test_a_checkpoint_takes_what_was_said(tmp_path: Path, data: Path, optimiser: str) -> None:
    """Of a real one, all tensors together, to 2 %."""
    words = (f"latents.optimiser={optimiser}", "train.pictures=false", "train.steps=2")
    assert train(tmp_path, data, *words) == 0
    found = sum(tensor.nbytes for tensor in tensors(tmp_path / "run", 2).values())
    told = estimate(config_of(data, *words), open_manifest(str(data))).room.one
    assert told == pytest.approx(found, rel=0.02)


def test_checkpoints_are_counted(data: Path) -> None:
    """The newest, the best, the one that is being written, and rows that are set aside meanwhile
    where memory has no room for them."""
    manifest = open_manifest(str(data)).manifest

    def told(*words: str) -> room.Room:
        return room.room_of(config_of(data, *words), manifest, parameters=9)

    assert (told().count, told("checkpoint.keep=5", "checkpoint.best=false").count) == (4, 6)
    large = ("latents.transient=100000", "checkpoint.minutes=5")
    row = 4 * 6 * 100_000 * 3 + 8
    assert 6 * row < told(*large).aside < 6 * (row + 4096)
    assert not told(*large, "checkpoint.background=false").aside
    assert not told("checkpoint.minutes=5").aside
    text = told(*large).text("runs/x")
    assert text.startswith("up to 4 x 41.2 MiB in runs/x, up to 41.")
    assert text.endswith(" MiB of rows set aside while one is written")
    assert told("checkpoint.keep=0").text("x") == "all are kept, each 0.0 MiB in x"
    every = told("checkpoint.every=100").text()
    assert every == "up to 4 x 0.0 MiB, and those at multiples of 100 steps"
    found = estimate(config_of(data), open_manifest(str(data)))
    assert f"\ncheckpoints: {found.room.text('runs/x')}" in found.text("runs/x")


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A disk with so many free bytes."""
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def test_a_disk_with_too_little_room_is_told_before_training(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even one checkpoint is an error, unless training is to go on without; fewer than there
    are at once is a warning, to which those of an earlier life do not count."""
    manifest, run = open_manifest(str(data)).manifest, tmp_path / "run"

    def look(*words: str) -> str:
        caplog.clear()
        config = config_of(data, *words)
        room.require(config, manifest, run, parameters=10**6, comm=Comm(), fresh=True)
        return caplog.text

    found = room.room_of(config_of(data), manifest, parameters=10**6)
    free(monkeypatch, found.most)
    assert look() == ""
    free(monkeypatch, found.most - 1)
    assert "MiB free and checkpoints take up to 4 x 15.3 MiB; free some space" in look()
    assert look("checkpoint.best=false") == look("checkpoint.keep=0") == ""
    earlier = run / "checkpoints" / "step-00000001"
    earlier.mkdir(parents=True)
    (earlier / "state.json").write_text("{}")
    assert look() == ""
    free(monkeypatch, found.one - 1)
    with pytest.raises(UserError, match=r"run: its disk has 15.3 MiB free and a checkpoint takes"):
        look()
    assert "a checkpoint takes 15.3 MiB; free some space" in look("checkpoint.on_full=continue")


def test_rows_on_the_same_disk_take_their_room_first(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh run nothing of them is on the disk yet; of other disks and in a run that goes on
    (whose rows were read back) nothing is counted twice."""
    manifest, words = open_manifest(str(data)).manifest, ("latents.transient=100000",)
    scratch = (*words, "latents.residence=disk", f"latents.scratch={tmp_path}")
    one = room.room_of(config_of(data, *words), manifest, parameters=9).one
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")

    def look(words: tuple[str, ...], *, fresh: bool = True) -> None:
        room.require(
            config_of(data, *words), manifest, tmp_path, parameters=9, comm=Comm(), fresh=fresh
        )

    free(monkeypatch, one + 10)
    look(words)
    look(scratch, fresh=False)
    told = r" 0\.0 MiB free beside the .* MiB of rows in latents\.scratch and a checkpoint takes"
    with pytest.raises(UserError, match=told):
        look(scratch)


NO_ROOM = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda path: SimpleNamespace(free=1000, total=10**9, used=0)
"""


def test_a_run_without_room_does_not_begin_and_a_finished_one_is_looked_at(
    tmp_path: Path, data: Path
) -> None:
    """One line and code 2, and the folder is nobody's; what needs no checkpoint needs no room."""
    script, words = tmp_path / "full.py", ("train.steps=2", "train.pictures=false")
    ended = run_script(script, NO_ROOM, tmp_path, data, *words)
    assert ended.returncode == 2, ended.stderr
    assert "0.0 MiB free and a checkpoint takes" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert train(tmp_path, data, *words) == 0
    again = run_script(script, NO_ROOM, tmp_path, data, *words)
    assert again.returncode == 0, again.stderr
