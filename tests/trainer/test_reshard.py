"""Pages of W ranks on W' ranks, videos added and removed, and pictures of a table in motion."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.dictionary_steps import one_step, resident_bytes
from data_shards.errors import UserError
from data_shards.keys import row_keys
from data_shards.manifest import clip_key
from data_shards.options import Options
from data_shards.prepare import prepare
from data_shards.stream import OpenManifest, open_manifest
from tests.support.dictionaries import FRAMES, ROWS, contents, make, train
from tests.support.ranks import run_ranks
from tests.support.raw_footage import moving, write_image
from trainer import aside, ownership, snapshot
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig
from trainer.latents_config import WORKSPACE, promise_bytes
from trainer.lowrank import LowRankConfig, find_basis
from trainer.reshard import saved_rows
from trainer.residence import initial_rows
from trainer.spread import AT_ONCE

LOW = LowRankConfig(rank=2, scope="dictionary", every=3)
PASS = LowRankConfig(rank=2, scope="dictionary")
KINDS: dict[str, dict[str, Any]] = {
    "momentum": {},
    "adam": {"optimiser": "adam", "rate": 0.05, "residence": "host"},
    "low": {"low_rank": LOW, "replicate_kib": 64},
    "once a pass of five steps": {"low_rank": PASS, "clips": 30},
    "a part after every step": {
        "low_rank": LowRankConfig(rank=2, scope="dictionary", every=6),
        "rows": {"static": 5, "transient": AT_ONCE + 700},
    },
    "a part of QR after every step": {
        "low_rank": LowRankConfig(rank=2, scope="dictionary", every=6, method="tsqr"),
        "rows": {"static": 5, "transient": AT_ONCE + 700},
    },
}


def save(comm: Comm) -> dict:
    out = {}
    for name, settings in KINDS.items():
        dictionary = make(comm, **settings)
        train(dictionary, comm, last=4)
        out[name] = {key: tensor.clone() for key, tensor in dictionary.export()}
    return out


def resume(comm: Comm, saved: dict[int, dict]) -> dict:
    out = {}
    for world, kinds in saved.items():
        for name, settings in KINDS.items():
            dictionary = make(comm, **settings)
            counts = dictionary.restore(kinds[name].__getitem__)
            again = {key: tensor.clone() for key, tensor in dictionary.export()}
            train(dictionary, comm, first=4, last=7)
            out[world, name] = {"again": again, "last": contents(dictionary), "counts": counts}
    return out


def merged(results: list[dict]) -> dict:
    """The pages of all ranks in one dictionary per kind, none saved twice."""
    whole: dict = {name: {} for name in KINDS}
    for result in results:
        for name, pages in result.items():
            assert not whole[name].keys() & pages.keys()
            whole[name] |= pages
    return whole


@pytest.fixture(scope="module")
def saved() -> dict[int, dict]:
    return {world: merged(run_ranks(save, world)) for world in (1, 2, 3, 4)}


@pytest.mark.ranks
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_all_pairs_of_worlds_are_bit_equal(world: int, saved: dict[int, dict]) -> None:
    """What W ranks saved, W' restore exactly, save again and train on as if never stopped."""
    straight = {}
    for name, settings in KINDS.items():
        dictionary = make(Comm(), **settings)
        train(dictionary, Comm(), last=7)
        straight[name] = contents(dictionary)
    results = run_ranks(resume, world, saved)
    for before, kinds in saved.items():
        for name, pages in kinds.items():
            again: dict = {}
            for result in results:
                out = result[before, name]
                again |= out["again"]
                count = KINDS[name].get("rows", ROWS)["transient"]
                assert tuple(out["counts"]["transient"]) == (count, 0, 0)
                for kind, rows in straight[name].items():
                    assert torch.equal(out["last"][kind], rows), (before, world, name)
            assert again.keys() == pages.keys()
            assert all(torch.equal(again[key], tensor) for key, tensor in pages.items())


def test_rows_are_read_straight_from_pages(saved: dict[int, dict]) -> None:
    """A checkpoint's rows come without a dictionary, in any order, inside the kept directions."""
    rows = torch.tensor([130, 0, 64, 0])
    for name, settings in KINDS.items():
        pages = saved[3][name]
        dictionary = make(Comm(), **settings)
        dictionary.restore(pages.__getitem__)
        got = saved_rows(pages.__getitem__, "transient", rows)
        torch.testing.assert_close(got, dictionary.rows("transient", rows))
    with pytest.raises(KeyError):
        saved_rows(pages.__getitem__, "moving", rows)


def change(comm: Comm, pages: dict, names: list[int], kib: int, settings: dict) -> dict:
    rows = {"static": 5, "transient": names}
    dictionary = make(comm, rows=rows, replicate_kib=kib, **settings)
    counts = dictionary.restore(pages.__getitem__)
    fresh = make(comm, rows=rows, **settings)
    state = by_row(dict(dictionary.export()), rows=len(names))
    return {"counts": counts, "now": contents(dictionary), "fresh": contents(fresh), "state": state}


def by_row(pages: dict[str, torch.Tensor], *, rows: int) -> dict[tuple[str, int], torch.Tensor]:
    """What the row optimiser keeps of the transient rows that are among `pages`."""
    found = {}
    for name, saved in pages.items():
        kind, field, *page = name.split(".")
        if kind == "transient" and field not in ("key", "value"):
            at = ownership.page_rows(int(page[0]), rows).tolist()
            found |= {(field, row): part.clone() for row, part in zip(at, saved, strict=True)}
    return found


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize(("world", "kib"), [(1, 0), (3, 0), (2, 64)])
def test_videos_may_come_and_go(world: int, kib: int, kind: str, saved: dict[int, dict]) -> None:
    """Rows follow their keys to new places with all that the row optimiser knows of them; new
    videos begin anew; the counts say so."""
    names = [500, *range(130, 9, -1), 501, 502]
    old, state = make(Comm(), **KINDS[kind]), {}
    train(old, Comm(), last=4)
    want, kept = contents(old)["transient"], by_row(dict(old.export()), rows=131)
    for out in run_ranks(change, world, saved[2][kind], names, kib, KINDS[kind]):
        state |= out["state"]
        assert tuple(out["counts"]["transient"]) == (121, 3, 10)
        assert tuple(out["counts"]["static"]) == (5, 0, 0)
        now, fresh = out["now"]["transient"], out["fresh"]["transient"]
        for place, name in enumerate(names):
            assert torch.equal(now[place], want[name] if name < 131 else fresh[place])
    fields = {field for field, _ in kept}
    assert len(state) == len(fields) * len(names) and any(bool(x.any()) for x in kept.values())
    for field in fields:
        for place, name in enumerate(names):
            known = kept[field, name] if name < 131 else torch.zeros_like(kept[field, 0])
            assert torch.equal(state[field, place], known), (field, name)


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    """Other data, another optimiser or another width is named in one line, of a checkpoint as it
    lies on a disk."""
    old, checkpoints = make(Comm()), Checkpointer(tmp_path, CheckpointConfig(), comm=Comm())
    train(old, Comm(), last=2)
    path = checkpoints.save(2, common={}, own=old.export(), state={})
    assert path is not None
    pages = checkpoints.open(path).read
    with pytest.raises(UserError, match="no key of the checkpoint is in this data set"):
        make(Comm(), rows={"static": 5, "transient": range(1000, 1100)}).restore(pages)
    with pytest.raises(UserError, match=r"exp_avg.* another latents.optimiser than 'adam'"):
        make(Comm(), optimiser="adam").restore(pages)
    with pytest.raises(
        UserError, match=r"rows of shape \(3, 6\) and the settings ask for \(3, 8\)"
    ):
        make(Comm(), transient=8).restore(pages)
    twice = make(Comm(), rows={"static": 5, "transient": [1, 2, 65, 1]})
    with pytest.raises(UserError, match="two rows have the same key"):
        twice.restore(pages)


def refused(comm: Comm, pages: dict, names: list[int], kib: int) -> str:
    rows = {"static": 5, "transient": names}
    dictionary = make(comm, rows=rows, replicate_kib=kib)
    try:
        dictionary.restore(pages.__getitem__)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.ranks
@pytest.mark.parametrize("places", [(1, 65), (0, 63)], ids=["one rank", "two ranks"])
@pytest.mark.parametrize(("world", "kib"), [(1, 0), (2, 0), (3, 0), (2, 64)])
def test_two_rows_of_one_key_are_refused_by_all_ranks(
    world: int, kib: int, places: tuple[int, int], saved: dict[int, dict]
) -> None:
    """Whichever ranks own the two rows, every rank raises the same error, and none waits."""
    names = list(range(131))
    names[places[1]] = names[places[0]]
    told = run_ranks(refused, world, saved[1]["momentum"], names, kib, timeout=60)
    message = "transient table: two rows have the same key; keys must be distinct"
    assert told == [message] * world


@pytest.mark.parametrize(("where", "held"), [("device", 1 << 30), ("host", 1 << 30), ("host", 0)])
def test_a_snapshot_is_of_one_moment(
    where: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages read between and beside steps are those of the moment the snapshot was taken, whether
    rows are set aside in memory or in a file."""
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", 300)  # two transient rows
    monkeypatch.setattr(aside, "HELD", held)
    monkeypatch.setattr(aside, "UNDER_WAY", 1000)  # a step's rows, and not two steps'
    dictionary = make(Comm(), residence=where)
    train(dictionary, Comm(), last=4)
    want = {name: tensor.clone() for name, tensor in dictionary.export()}
    pages, got = dictionary.snapshot(), {}
    pages.set_aside_in(tmp_path)
    step = 4
    for name, tensor in pages:
        got[name] = tensor
        if name.startswith("transient.value") and step < 30:
            train(dictionary, Comm(), first=step, last=step + 1)
            step += 1
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())

    now = {name: tensor.clone() for name, tensor in dictionary.export()}
    pages, beside = dictionary.snapshot(), {}
    pages.set_aside_in(tmp_path)
    thread = threading.Thread(target=lambda: beside.update(pages))
    thread.start()
    train(dictionary, Comm(), first=30, last=40)
    thread.join()
    assert all(torch.equal(beside[name], tensor) for name, tensor in now.items())
    assert any(not torch.equal(now[name], tensor) for name, tensor in dictionary.export())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pages", [range(64), range(10, 20)])
def test_rows_set_aside_go_as_they_are_read(pages: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the pages that are read are held until their block is, each block's in memory of its
    own, and no longer; the picture shows what was overwritten."""
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", 300)  # two transient rows
    table = make(Comm()).tables["transient"]
    sizes = {page: len(table.page_keys(page)) for page in pages}
    picture = snapshot.Snapshot(table.store, table.lock, sizes, table.pages.start, table.depth)
    slots = table.slots(torch.arange(table.count))
    want = table.read(slots)
    picture.keep(slots)
    table.store.write_(slots, {name: torch.zeros_like(rows) for name, rows in want.items()})
    left = sum(sizes.values())
    for page, fields in picture.pages():
        left -= sizes[page]
        held = [part for parts in picture.aside.held.values() for part in parts]
        assert sum(len(kept) for kept, _ in held) == left
        tensors = [tensor for kept, rows in held for tensor in (kept, *rows.values())]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        mine = ownership.page_rows(page, table.count)
        assert all(torch.equal(tensor, want[name][mine]) for name, tensor in fields.items())
    assert left == 0 and picture.done


def test_a_disk_that_takes_no_rows_costs_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps go on when rows cannot be set aside; who reads the snapshot is told, and the next one
    is as good as any."""
    monkeypatch.setattr(aside, "HELD", 0)
    dictionary = make(Comm())
    pages = dictionary.snapshot()
    pages.set_aside_in(tmp_path / "gone")
    train(dictionary, Comm(), last=6)
    with pytest.raises(FileNotFoundError, match="gone"):
        list(pages)
    straight = make(Comm())
    train(straight, Comm(), last=6)
    assert all(
        torch.equal(rows, contents(straight)[kind]) for kind, rows in contents(dictionary).items()
    )
    assert len(list(dictionary.snapshot())) == 3 + 64 * 3 * 2


SLOW_ROWS, SLOW_BATCH = 8000, 100


def beside_a_slow_reader(comm: Comm, folder: str) -> dict:
    """What a rank takes while a whole table is overwritten after a snapshot of which one page has
    been read: bytes, those promised, and whether the picture is right."""
    dictionary = make(
        comm, rows={"static": 1, "transient": SLOW_ROWS}, transient=2000, residence="host"
    )
    table, before = dictionary.tables["transient"], 0
    for part in table.owned(torch.arange(SLOW_ROWS)).split(64):
        table.write_(table.slots(part), table.read(table.slots(part)))
    for _ in range(5):
        one_step(dictionary, comm, torch.arange(SLOW_BATCH))
        before = max(before, resident_bytes())
    pages = dictionary.snapshot()
    pages.set_aside_in(Path(folder))
    pages.lend()
    right, peak = [], before
    for name, _ in pages:
        if name.startswith("transient.value"):
            break
    for first in range(0, SLOW_ROWS, SLOW_BATCH):
        one_step(dictionary, comm, torch.arange(first, first + SLOW_BATCH))
        peak = max(peak, resident_bytes())
    for name, tensor in pages:
        if name.startswith("transient.value"):
            rows = ownership.page_rows(int(name[-2:]), SLOW_ROWS)[SLOW_BATCH // 64 + 1 :: 31]
            want = initial_rows(rows, table.trail, seed=3, table="transient", scale=1.0)
            right.append(torch.equal(tensor[rows // ownership.PAGES], want))
        peak = max(peak, resident_bytes())
    promise = promise_bytes(
        dictionary.config, static_rows=1, transient_rows=SLOW_ROWS, frames=FRAMES,
        world=comm.world, batch=SLOW_BATCH,
    )  # fmt: skip
    return {"grown": peak - before, "promised": promise.saving + promise.aside, "right": right}


@pytest.mark.ranks
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_slow_reader_costs_the_memory_that_was_promised(tmp_path: Path) -> None:
    """With one page of a table read while all of it, 192 MB a rank, is overwritten, memory grows by
    what was promised at most, which is half of that; the picture is whole."""
    for told in run_ranks(beside_a_slow_reader, 2, str(tmp_path)):
        assert len(told["right"]) == 31 and all(told["right"])
        assert told["promised"] < 100e6
        assert told["grown"] <= 1.1 * told["promised"] + WORKSPACE


@pytest.mark.parametrize("residence", ["host", "disk"])
def test_no_step_waits_for_rows_that_a_snapshot_draws(
    residence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were never written are drawn while steps may take the table's lock; they are what a
    read gives."""
    dictionary = make(Comm(), residence=residence, scratch=str(tmp_path))
    train(dictionary, Comm(), last=2)
    table = dictionary.tables["transient"]
    fresh, locked = table.store._fresh, []

    def seen(slots: torch.Tensor) -> torch.Tensor:
        locked.append(table.lock.locked())
        return fresh(slots)

    monkeypatch.setattr(table.store, "_fresh", seen)
    pages = dict(dictionary.snapshot())
    assert locked and not any(locked)
    for number in table.own_pages:
        rows = ownership.page_rows(number, table.count)
        for name, value in table.read_host(table.slots(rows)).items():
            assert torch.equal(pages[f"transient.{name}.{number:02d}"], value)
    dictionary.close()


def test_low_rank_may_be_turned_on_later(saved: dict[int, dict]) -> None:
    """A run that had no directions finds them when it is restored; its rows stay."""
    pages = saved[2]["momentum"].__getitem__
    dictionary = make(Comm(), low_rank=LOW)
    dictionary.restore(pages)
    assert dictionary.basis is not None
    assert dictionary.basis.vectors_MR.shape == (6, 2)
    values = torch.linalg.svdvals(contents(dictionary)["transient"].reshape(-1, 6).double())
    assert values[2] < 1e-5 * values[0]


def test_saved_directions_are_taken_where_they_fit(saved: dict[int, dict]) -> None:
    """Whatever the interval is now; with another rank, those of the restored rows are found."""
    pages = saved[2]["low"]
    for every in (0, 3, 100):
        dictionary = make(Comm(), low_rank=dataclasses.replace(LOW, every=every))
        dictionary.restore(pages.__getitem__)
        assert dictionary.basis is not None
        assert torch.equal(dictionary.basis.vectors_MR, pages["dictionary.basis"])
        for mine, file in zip(dictionary.basis[:2], ("basis", "singular"), strict=True):
            assert mine.data_ptr() != pages[f"dictionary.{file}"].data_ptr()  # keeps no file mapped
    for rank in (1, 3, 9):
        dictionary = make(Comm(), low_rank=dataclasses.replace(LOW, rank=rank))
        dictionary.restore(pages.__getitem__)
        found = find_basis(dictionary.tables["transient"], rank=rank, method=LOW.method)
        assert dictionary.basis is not None and found.vectors_MR.shape == (6, min(rank, 6))
        assert torch.equal(dictionary.basis.vectors_MR, found.vectors_MR)


def still_videos(folder: Path, names: Sequence[str]) -> OpenManifest:
    """Videos of eight frames that are one and the same picture; two clips of each."""
    for name in names:
        for frame in range(8):
            write_image(folder / "raw" / name / f"{frame:04d}.png", moving(1)[0])
    options = Options(
        source="frames", root=str(folder / "raw"), frames=4, windows="all", height=16, width=16
    )
    prepare(options, out=folder / "set")
    return open_manifest(str(folder / "set"))


def rows_of_clips(opened: OpenManifest) -> LatentDictionary:
    """A dictionary with a row for every clip."""
    keys = {
        kind: row_keys(opened.manifest, opened.table, key)
        for kind, key in (("static", "dataset"), ("transient", "clip"))
    }
    config = LatentsConfig(static=4, transient=6, optimiser="momentum", rate=0.3)
    return LatentDictionary(config, frames=FRAMES, keys=keys, comm=Comm(), seed=3)


def test_clips_of_equal_pixels_keep_their_rows(tmp_path: Path) -> None:
    """Two still videos of two clips each, all of the same pixels: a third video, which comes before
    them, takes no row away, and a clip's row finds the clip of its video and its place there."""
    few = still_videos(tmp_path / "few", ["walk/b", "walk/c"])
    more = still_videos(tmp_path / "more", ["walk/a", "walk/b", "walk/c"])
    assert len(np.unique([*few.table["content"], *more.table["content"]])) == 1
    old = rows_of_clips(few)
    train(old, Comm(), last=6)
    pages = {name: tensor.clone() for name, tensor in old.export()}
    new, fresh = rows_of_clips(more), contents(rows_of_clips(more))["transient"]
    assert tuple(new.restore(pages.__getitem__)["transient"]) == (4, 2, 0)
    want, got = (contents(dictionary)["transient"] for dictionary in (old, new))
    places = [clip_key(few.manifest, record) for record in few.table]
    for place, record in enumerate(more.table):
        name = clip_key(more.manifest, record)
        expected = want[places.index(name)] if name in places else fresh[place]
        assert torch.equal(got[place], expected), name


def test_two_snapshots_at_once_are_refused() -> None:
    """A second picture before the first is read would share its rows: it is an error."""
    dictionary = make(Comm())
    first = dictionary.snapshot()
    next(first), next(first)
    with pytest.raises(RuntimeError, match="still being read"):
        dictionary.snapshot()
    del first
    assert len(list(dictionary.snapshot())) == 3 + 64 * 3 * 2
