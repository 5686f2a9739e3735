"""Device, host and disk hold the same bits; fresh rows depend on nothing but their address."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from tests.support.dictionaries import contents, make, train
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from tests.support.training import train as training
from trainer import latents_config, residence, rowfile
from trainer.comm import Comm
from trainer.latents import LatentDictionary, Latents, LatentsConfig
from trainer.lowrank import METHODS, find_basis
from trainer.residence import initial_rows
from trainer.staging import STAGED
from trainer.table import ShardedTable, TableSpec


def everywhere(comm: Comm, folder: str) -> dict:
    out = {}
    for where in residence.RESIDENCES:
        for way in ("plain", "ahead", "staged"):
            with staged_on_cpus() if way == "staged" else nullcontext():
                dictionary = make(comm, residence=where, scratch=folder)
            on = [t.store._staging is not None for t in dictionary.tables.values()]
            assert on == [way == "staged" and where != "device"] * 2
            train(dictionary, comm, last=5, ahead=way != "plain")
            pages = {name: t.clone() for name, t in dictionary.export() if name[0] != "d"}
            dictionary.close()
            out[where, way] = contents(dictionary) | pages
    return out


@contextmanager
def staged_on_cpus() -> Iterator[None]:
    """Dictionaries that are made here stage rows as beside a GPU."""
    STAGED.add("cpu")
    try:
        yield
    finally:
        STAGED.discard("cpu")


@pytest.mark.ranks
@pytest.mark.parametrize("world", [1, 2])
def test_residences_agree_bit_for_bit(world: int, tmp_path: Path) -> None:
    """Five steps leave the same rows and optimiser state wherever they live, fetched or not, and
    where they are staged for a GPU."""
    for out in run_ranks(everywhere, world, str(tmp_path)):
        reference = out["device", "plain"]
        for place, tables in out.items():
            assert tables.keys() == reference.keys()
            for name, tensor in tables.items():
                assert torch.equal(tensor, reference[name]), (place, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["host", "disk"])
def test_a_staged_dictionary_is_pictured_and_goes_back(where: str, tmp_path: Path) -> None:
    """A snapshot holds the rows of its moment, moved ones on their way among them, and after it is
    read back the same steps give the same rows."""
    with staged_on_cpus():
        dictionary = make(Comm(), residence=where, scratch=str(tmp_path))
    plain = make(Comm())
    train(plain, Comm(), last=3)
    train(dictionary, Comm(), last=3, ahead=True)
    picture, want = dictionary.snapshot(), {n: t.clone() for n, t in plain.export()}
    train(dictionary, Comm(), first=3, last=6, ahead=True)
    later, saved = contents(dictionary), {name: rows.clone() for name, rows in picture}
    assert saved.keys() == want.keys()
    assert all(torch.equal(saved[name], rows) for name, rows in want.items())
    dictionary.restore(saved.__getitem__)
    back, then = contents(dictionary), contents(plain)
    assert all(torch.equal(back[kind], rows) for kind, rows in then.items())
    train(dictionary, Comm(), first=3, last=6, ahead=True)
    again = contents(dictionary)
    assert all(torch.equal(again[kind], rows) for kind, rows in later.items())
    dictionary.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned fetches need a GPU")
def test_rows_fetched_to_a_gpu_are_those_of_the_host(tmp_path: Path) -> None:
    """Pinned copies beside a busy stream bring what host and disk hold, before it is used."""
    place = torch.device("cuda")
    rows = torch.tensor([7, 0, 7, 100])
    for where in ("host", "disk"):
        here = make(Comm(), residence=where, scratch=str(tmp_path))
        there = make(Comm(device=place), residence=where, scratch=str(tmp_path))
        for _ in range(20):
            torch.randn(2048, 2048, device=place) @ torch.randn(2048, 2048, device=place)
            got, want = there.rows("transient", rows), here.rows("transient", rows)
            assert got.device.type == "cuda" and torch.equal(got.cpu(), want)
            assert len(there.rows("transient", rows[:0])) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="staging for a GPU needs one")
@pytest.mark.parametrize("where", ["host", "disk"])
def test_rows_staged_for_a_gpu_are_those_of_a_table_on_it(where: str, tmp_path: Path) -> None:
    """Fetched ahead by a stream of their own and stored behind the step by another, beside a busy
    one: the same bits as those of a table that never leaves the device."""
    comm = Comm(device=torch.device("cuda"))
    here = make(comm, residence="device")
    there = make(comm, residence=where, scratch=str(tmp_path))
    assert all(table.store._staging is not None for table in there.tables.values())
    with torch.cuda.stream(torch.cuda.Stream()):
        large = torch.randn(4096, 4096, device="cuda")
        for _ in range(200):
            large = (large @ large).sin_()
    torch.use_deterministic_algorithms(True)
    try:
        train(there, comm, last=20, ahead=True)
        train(here, comm, last=20)
    finally:
        torch.use_deterministic_algorithms(False)
    want, got = contents(here), contents(there)
    assert all(torch.equal(got[kind], rows) for kind, rows in want.items())
    there.close()


@pytest.mark.parametrize("where", ["host", "disk"])
def test_searches_and_pictures_leave_the_device_alone(where: str, tmp_path: Path) -> None:
    """Beside a device from which nothing can be read (meta), directions are found and rows saved,
    of those that training moves meanwhile, too, as on a CPU."""
    spec = TableSpec("transient", 131, (3, 6), 3, 1.0, "momentum", where, tmp_path)
    here, there = (
        ShardedTable(spec, np.arange(131), Comm(), torch.device(name)) for name in ("cpu", "meta")
    )
    slots = here.slots(torch.arange(100))
    state = {name: rows + 1 for name, rows in here.read_host(slots).items()}
    for table in (here, there):
        table.write_(slots, state)
    assert there.read(slots)["value"].is_meta
    for method in METHODS:
        found, want = (find_basis(table, rank=2, method=method) for table in (there, here))
        assert torch.equal(found.vectors_MR, want.vectors_MR)
    pages = there.snapshot()
    got = dict(islice(pages, 6))
    there.write_(slots, {name: torch.zeros_like(rows) for name, rows in state.items()})
    got |= dict(pages)
    want = dict(here.snapshot())
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], rows) for name, rows in want.items())


def without_room(comm: Comm, folder: str) -> str:
    try:
        make(comm, residence="disk", scratch=f"{folder}/{comm.rank}")
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.ranks
def test_what_one_rank_lacks_all_ranks_say(tmp_path: Path) -> None:
    """Where the second rank finds a file in place of its folder, no rank goes on without it."""
    (tmp_path / "1").touch()
    told = f"latents.scratch: {tmp_path}/1: File exists; choose another folder"
    assert run_ranks(without_room, 2, str(tmp_path), timeout=60) == [told, told]


def slow_word(index: int, key: int) -> int:
    """splitmix64's finaliser with Python's whole numbers."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    return mix((index * 0x9E3779B97F4A7C15 + mix(key)) & mask)


def test_fresh_rows_follow_their_address() -> None:
    """A row's first value is the plain-integer draw of (seed, table, row, element)."""
    import zlib

    rows = torch.tensor([5, 0, 583_507])
    got = initial_rows(rows, (2, 3), seed=7, table="transient", scale=0.5)
    key = (7 * 0x9E3779B97F4A7C15 ^ zlib.crc32(b"transient")) % 2**64
    for row, values in zip(rows.tolist(), got, strict=True):
        for frame in range(2):
            words = [slow_word(row * 6 + frame * 3 + m, key) for m in range(3)]
            draws = [sum(w >> k & 0xFFFF for k in (0, 16, 32, 48)) - 131070 for w in words]
            x = np.array(draws) * 0.5 * np.sqrt(3) / (65536 * np.sqrt(3))
            x = x / max(1.0, float(np.sqrt((x * x).sum())))
            np.testing.assert_allclose(values[frame].numpy(), x, rtol=1e-6)
    one = initial_rows(rows[1:2], (2, 3), seed=7, table="transient", scale=0.5)
    assert torch.equal(one[0], got[1])


def test_fresh_rows_look_normal() -> None:
    """Mean 0, the asked norm, no correlation of neighbours, other draws per table and seed."""
    rows = torch.arange(400)
    draws = initial_rows(rows, (16, 50), seed=0, table="a", scale=0.5).double() * 50**0.5 / 0.5
    assert abs(float(draws.mean())) < 0.01
    assert abs(float(draws.std()) - 1) < 0.01
    assert abs(float((draws**4).mean()) - 2.7) < 0.1
    assert abs(float((draws[..., 1:] * draws[..., :-1]).mean())) < 0.01
    for other in ({"seed": 1, "table": "a"}, {"seed": 0, "table": "b"}):
        assert abs(float((initial_rows(rows, (16, 50), scale=0.5, **other) * draws).mean())) < 0.01


@pytest.mark.parametrize("wide", [3, 500])
def test_rows_of_a_file_come_in_any_order(
    tmp_path: Path, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Following slots, single ones, backward ones, none and those never written, all fields or the
    first: as in memory, in records of whole pages and in smaller ones."""
    fields = {
        "value": rowfile.Field((2, wide), torch.float32),
        "momentum": rowfile.Field((2, wide), torch.float32),
        "steps": rowfile.Field((), torch.int64),
    }
    monkeypatch.setattr(rowfile, "PARTS", 16)  # runs of four and of eight records
    file = rowfile.RowFile(tmp_path, fields, 50)
    assert file.record == {3: 56, 500: 8192}[wide]
    memory = {name: torch.zeros(50, *f.trail, dtype=f.dtype) for name, f in fields.items()}
    draw = torch.Generator().manual_seed(0)
    for slots in ([4, 5, 6, 9, 2, 3, 30], [49], [], [8, 7, 6], list(range(10, 40))):
        at = torch.tensor(slots, dtype=torch.int64)
        for names in (tuple(fields), ("value",)):
            rows = {n: (torch.rand(len(at), *fields[n].trail) * 99).to(fields[n].dtype)
                    for n in names}  # fmt: skip
            file.write_(at, rows)
            for name, tensor in rows.items():
                memory[name][at] = tensor
        asked = torch.randint(50, (80,), generator=draw)
        for wanted in (asked, asked.sort().values, at, torch.arange(50)):
            for names in (("value",), tuple(fields)):
                found = file.read(wanted, names)
                assert found.keys() == set(names)
                assert all(torch.equal(found[n], memory[n][wanted]) for n in names)
    with pytest.raises(ValueError, match="are not the first of"):
        file.read(torch.tensor([0]), ("steps",))


def test_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scratch folder, or one that is too small for both tables of all ranks of the machine, is
    said before training."""
    with pytest.raises(UserError, match=r"latents\.scratch"):
        make(Comm(), residence="disk")
    with pytest.raises(UserError, match=r"GB free and the dictionary needs .* GB"):
        make(Comm(), residence="disk", scratch=str(tmp_path), transient=1 << 40)
    sizes = {"static_rows": 5, "transient_rows": 7, "frames": 3}
    config = LatentsConfig(residence="disk", scratch=str(tmp_path))
    need = latents_config.promise_bytes(config, **sizes).disk
    room = SimpleNamespace(free=4 * need - 1)
    monkeypatch.setattr(latents_config.shutil, "disk_usage", lambda _: room)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    latents_config.check_scratch(config, comm=Comm(), **sizes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"GB free and the dictionary needs .* GB"):
        latents_config.check_scratch(config, comm=Comm(), **sizes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    """A write that finds no room ends in one line, not in a signal."""
    dictionary = make(Comm(), residence="disk", scratch=str(tmp_path))
    store = dictionary.tables["static"].store
    with Path("/dev/full").open("r+b", buffering=0) as full:
        assert store._file is not None
        store._file._file = full  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"latents\.scratch: .* is full"):
            dictionary.assign("static", torch.zeros(5, 4))


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_refused_in_a_line() -> None:
    """Before training, with its setting, whoever asks."""
    with pytest.raises(
        UserError, match=r"^latents\.scratch: /sys/kernel: .*; choose another folder"
    ):
        make(Comm(), residence="disk", scratch="/sys/kernel", static=1, transient=1)


def test_rows_live_on_a_disk_of_a_system_that_takes_no_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has neither posix_fadvise nor fdatasync: the same rows, fetched ahead and saved."""
    for name in ("posix_fadvise", "fdatasync"):
        monkeypatch.delattr(rowfile.os, name)
    found = []
    for where in ("device", "disk"):
        dictionary = make(Comm(), residence=where, scratch=str(tmp_path))
        train(dictionary, Comm(), last=5, ahead=True)
        found.append(dict(dictionary.snapshot()) | contents(dictionary))
        dictionary.close()
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())


def test_a_snapshot_of_rows_that_were_not_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of a lost write only when it is asked: a snapshot asks before it ends."""

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    dictionary = make(Comm(), residence="disk", scratch=str(tmp_path))
    monkeypatch.setattr(rowfile.os, "fdatasync", fails)
    with pytest.raises(
        UserError, match=r"latents\.scratch: .*: rows .* could not be written: Input/output error; "
    ):
        list(dictionary.snapshot())


def test_an_error_of_the_fetching_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch that fails in the background is not lost."""
    dictionary = make(Comm(), residence="disk", scratch=str(tmp_path))
    dictionary.fetch_ahead(torch.tensor([0]), torch.tensor([0]))
    monkeypatch.setattr(dictionary.tables["static"].store, "_file", object())
    with pytest.raises(AttributeError, match="fetch"):  # by the next fetch, or at the end
        dictionary.fetch_ahead(torch.tensor([0]), torch.tensor([0]))
        dictionary.close()


@pytest.mark.parametrize("keys", [("identity", "action"), ("dataset", "clip")])
def test_a_training_announces_the_rows_of_each_coming_visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, str]
) -> None:
    """What a visit asks for was being read from disk while the one before it computed."""
    announced, asked = [], []
    ahead, gather = LatentDictionary.fetch_ahead, LatentDictionary.gather

    def seen_ahead(self: LatentDictionary, *rows: torch.Tensor) -> None:
        announced.append([sorted(set(r.tolist())) for r in rows])
        ahead(self, *rows)

    def seen_gather(self: LatentDictionary, *rows: torch.Tensor) -> Latents:
        asked.append([sorted(set(r.tolist())) for r in rows])
        return gather(self, *rows)

    monkeypatch.setattr(LatentDictionary, "fetch_ahead", seen_ahead)
    monkeypatch.setattr(LatentDictionary, "gather", seen_gather)
    data = tiny_set(tmp_path, size=32)
    words = (f"latents.static_key={keys[0]}", f"latents.transient_key={keys[1]}")
    disk = ("latents.residence=disk", f"latents.scratch={tmp_path}", "begin.latents=random")
    assert training(tmp_path / "runs", data, *words, *disk, "train.steps=7") == 0
    assert len(announced) == 7 and announced[:-1] == asked[1:7]  # then the final evaluation asks


def test_a_table_of_huge_pages_is_a_table() -> None:
    """From two megabytes on: zeros of the shape asked for, which keep what is written."""
    for slots in (3, 1024, 1025):
        table = residence._host_table(slots, rowfile.Field((4, 256), torch.float32))
        assert table.shape == (slots, 4, 256) and not table.any()
        rows = torch.rand(3, 4, 256)
        table.index_copy_(0, torch.tensor([0, slots - 1, 1]), rows)
        assert torch.equal(table[[0, slots - 1, 1]], rows) and table.is_contiguous()


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not PAGES.is_file() or "[never]" in PAGES.read_text(), reason="this system has no huge pages"
)
def test_a_large_table_lies_in_huge_pages_and_is_not_forked() -> None:
    """The kernel says so: as much of the process's memory is huge pages as has been written; and a
    forked process, which has none of the table, ends well."""

    def huge() -> int:
        text = Path("/proc/self/smaps_rollup").read_text()
        line = next(x for x in text.splitlines() if x.startswith("AnonHugePages"))
        return int(line.split()[1]) << 10

    size, probe = 64 << 20, huge()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as plain:
        plain.madvise(mmap.MADV_HUGEPAGE)
        plain.write(b"x" * size)
        if huge() - probe < size - 2 * residence.HUGE:
            pytest.skip("this system has no huge pages left")
    before = huge()
    table = residence._host_table(size // 4096, rowfile.Field((4, 256), torch.float32))
    table.fill_(1.0)
    assert huge() - before >= size - 2 * residence.HUGE
    pid = os.fork()
    if not pid:
        del table
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert bool((table == 1).all())
