"""The node's cache: bounded, shared by processes, and never an altered byte out of it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_shards.cache import AlteredError, NodeCache
from data_shards.errors import UserError
from data_shards.manifest import Shard


def shard(name: str, size: int) -> tuple[Shard, bytes]:
    """A file of so many letters: the first one of its name."""
    data = name[:1].encode() * size
    return Shard(name, 1, len(data), hashlib.sha256(data).hexdigest()), data


def writes(data: bytes, calls: list[Path] | None = None) -> Callable[[Path], None]:
    """A download; `calls` gets where each one went."""

    def fetch(part: Path) -> None:
        if calls is not None:
            calls.append(part)
        part.write_bytes(data)

    return fetch


def names(folder: Path, *suffixes: str) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in suffixes}


def test_the_cache_stays_in_bounds_and_drops_the_oldest(tmp_path):
    """Room for two: the third pushes out the one that was used longest ago; beside the copies
    nothing is left that would add up."""
    cache = NodeCache(tmp_path, limit=200, timeout=5, keep_damaged=False)
    items = [shard(name, 100) for name in "abc"]
    for age, (item, data) in enumerate(items):
        with cache.open(item, writes(data)) as descriptor:
            assert os.pread(descriptor, 200, 0) == data
        os.utime(tmp_path / f"{item.sha256}.tar", (age, age))
        assert cache.bytes() <= 200
    assert names(tmp_path, ".tar") == {f"{item.sha256}.tar" for item, _ in items[1:]}
    assert names(tmp_path, ".part", ".lock") == {"cache.lock"}


def test_a_shard_in_use_is_never_dropped(tmp_path):
    """Room for one, and somebody reads it: the next one has to wait, and says so in the end."""
    cache = NodeCache(tmp_path, limit=100, timeout=0.1, keep_damaged=False)
    (one, first), (other, second) = shard("a", 100), shard("b", 100)
    with cache.open(one, writes(first)) as descriptor:
        with pytest.raises(UserError, match=r"data\.cache_gib: no room for b"):
            cache.ensure(other, writes(second))
        assert os.pread(descriptor, 200, 0) == first
    assert cache.ensure(other, writes(second)).read_bytes() == second
    assert cache.bytes() == 100


def test_a_clip_table_has_its_place_in_the_bound(tmp_path):
    """A table's copy counts, stays for as long as somebody holds it, then goes when it is oldest;
    and it is never kept with other bytes than the manifest's."""
    cache = NodeCache(tmp_path, limit=200, timeout=0.1, keep_damaged=True)
    (table, rows), (one, first), (other, second) = (
        shard("t.npy", 100),
        shard("a", 100),
        shard("b", 100),
    )
    descriptor = cache.take(table, writes(rows))
    for item, data in ((one, first), (other, second)):
        cache.ensure(item, writes(data))
    assert names(tmp_path, ".tar", ".npy") == {f"{table.sha256}.npy", f"{other.sha256}.tar"}
    assert os.pread(descriptor, 200, 0) == rows
    os.close(descriptor)
    os.utime(cache.path(table), (0, 0))
    cache.ensure(one, writes(first))
    assert names(tmp_path, ".npy") == set() and cache.bytes() == 200
    with pytest.raises(AlteredError, match=r"t\.npy: .*SHA-256"):
        cache.ensure(table, writes(b"something else"))


def test_a_killed_download_leaves_nothing_in_the_way(tmp_path):
    """The part of a process that was killed in the middle is replaced, and its room is found."""
    item, data = shard("a", 100)
    code = (
        "import os, sys; from pathlib import Path; from data_shards.cache import NodeCache;"
        "from data_shards.manifest import Shard;"
        "cache = NodeCache(Path(sys.argv[1]), limit=150, timeout=5, keep_damaged=False);"
        "shard = Shard('a', 1, 100, sys.argv[2]);"
        "cache.ensure(shard, lambda part: (part.write_bytes(b'half'), os.kill(os.getpid(), 9)))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), item.sha256], check=False)
    assert killed.returncode == -9 and names(tmp_path, ".part")
    cache = NodeCache(tmp_path, limit=150, timeout=5, keep_damaged=False)
    other, more = shard("b", 100)
    cache.ensure(other, writes(more))
    assert names(tmp_path, ".part", ".lock") == {"cache.lock"}
    assert cache.ensure(item, writes(data)).read_bytes() == data


def test_ranks_of_a_node_download_a_shard_once(tmp_path):
    """Eight readers at once, each with its own view of the folder: one download."""
    item, data = shard("a", 1000)
    calls: list[Path] = []

    def read(_: int) -> bytes:
        cache = NodeCache(tmp_path, limit=5000, timeout=5, keep_damaged=False)
        with cache.open(item, writes(data, calls)) as descriptor:
            return os.pread(descriptor, 5000, 0)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {data}
    assert len(calls) == 1


def test_a_downloader_that_stands_still_is_an_error_and_no_hang(tmp_path):
    """Somebody holds the shard's lock and its part does not grow: one line names the lock."""
    item, data = shard("a", 10)
    cache = NodeCache(tmp_path, limit=100, timeout=0.05, keep_damaged=False)
    with (tmp_path / f"{item.sha256}.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"data\.cache_dir: .*\.lock"):
            cache.ensure(item, writes(data))


def test_a_dead_store_is_told_to_all_who_wait_for_it(tmp_path):
    """Of three who want a shard one tries the store; the others, which have waited for as long, are
    told what it met. Who comes later tries again, and leaves nothing behind."""
    item, data = shard("a", 10)
    here, calls = threading.Barrier(3), []

    def dead(part: Path) -> None:
        calls.append(part)
        time.sleep(0.5)  # until the others wait
        raise UserError("http://store: nothing came")

    def ask(_: int) -> str:
        cache = NodeCache(tmp_path, limit=100, timeout=5, keep_damaged=False)
        here.wait()
        with pytest.raises(UserError) as told:
            cache.ensure(item, dead)
        return str(told.value)

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(ask, range(3))) == {"http://store: nothing came"}
    assert len(calls) == 1
    cache = NodeCache(tmp_path, limit=100, timeout=5, keep_damaged=False)
    assert cache.ensure(item, writes(data)).read_bytes() == data
    assert names(tmp_path, ".failed", ".lock", ".tmp") == {"cache.lock"}


def test_who_asks_again_does_not_keep_the_others_waiting(tmp_path):
    """Readers that begin anew after a failure, and fail again, may have every next turn: who has
    waited since before is told of the first."""
    item, _ = shard("a", 10)
    cache, begun = NodeCache(tmp_path, limit=100, timeout=5, keep_damaged=False), threading.Event()

    def dead(_: Path) -> None:
        begun.set()
        time.sleep(1.0)
        raise UserError("nothing came")

    def again() -> None:
        for _ in range(3):
            with pytest.raises(UserError, match="nothing came"):
                cache.ensure(item, dead)

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(again) for _ in range(4)]
        assert begun.wait(5)
        start = time.monotonic()
        with pytest.raises(UserError, match="nothing came"):
            cache.ensure(item, dead)
        waited = time.monotonic() - start
        for other in others:
            other.result()
    assert waited < 2.0


@pytest.mark.parametrize("other", [{"store": "s3://another"}, {"timeout": 0.2}])
def test_another_store_is_not_told_of_a_dead_one(tmp_path, other):
    """Who fetches the same bytes elsewhere, or gives up later, tries itself."""
    item, data = shard("a", 10)
    words = {"store": "http://store", "timeout": 5.0}
    mine = NodeCache(tmp_path, limit=100, keep_damaged=False, **words)
    theirs = NodeCache(tmp_path, limit=100, keep_damaged=False, **(words | other))
    begun = threading.Event()

    def dead(_: Path) -> None:
        begun.set()
        time.sleep(0.3)  # until the other one waits
        raise UserError("nothing came")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(theirs.ensure, item, dead)
        assert begun.wait(5)
        assert mine.ensure(item, writes(data)).read_bytes() == data
        assert isinstance(first.exception(), UserError)


def test_a_fetch_that_was_ended_is_no_dead_store(tmp_path):
    """Another process that waited for it tries itself."""
    item, data = shard("a", 10)
    cache, stop = NodeCache(tmp_path, limit=100, timeout=5, keep_damaged=False), threading.Event()
    begun = threading.Event()

    def ended(_: Path) -> None:
        begun.set()
        time.sleep(0.3)  # until the other one waits
        stop.set()
        raise UserError("download abandoned")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.ensure, item, ended, stop)
        assert begun.wait(5)
        assert cache.ensure(item, writes(data)).read_bytes() == data
        assert isinstance(first.exception(), UserError)


def test_room_that_others_are_about_to_leave_is_waited_for(tmp_path):
    """A shard that comes slowly has the room for longer than the timeout: while it comes, those who
    need room wait, and who waits for one of them."""
    (slow, data), (item, more) = shard("a", 10), shard("b", 10)
    cache, begun = NodeCache(tmp_path, limit=15, timeout=1.5, keep_damaged=False), threading.Event()

    def trickle(part: Path) -> None:
        for size in range(1, 11):
            part.write_bytes(data[:size])
            begun.set()
            time.sleep(0.25)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.ensure, slow, trickle)
        assert begun.wait(5)
        queued = pool.submit(cache.ensure, item, writes(more))  # has the turn, and no part yet
        assert cache.ensure(item, writes(more)).read_bytes() == more
        assert queued.result() == cache.path(item) and first.result() == cache.path(slow)


def test_a_part_may_go_while_it_is_being_looked_at(tmp_path, monkeypatch):
    """Somebody who waits for a download looks at its part just as that is put in place."""
    monkeypatch.setattr("data_shards.cache._POLL", 0.0)
    item, data = shard("a", 100)
    part = tmp_path / f"{item.sha256}.{item.bytes}.part"
    cache = NodeCache(tmp_path, limit=1000, timeout=30, keep_damaged=False)
    with (
        ThreadPoolExecutor(1) as pool,
        (tmp_path / f"{item.sha256}.lock").open("ab") as held,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(cache.ensure, item, writes(data))
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not waiting.done():
            part.write_bytes(b"x")
            part.unlink()
        fcntl.flock(held, fcntl.LOCK_UN)
        assert waiting.result(30).read_bytes() == data


def test_a_copy_that_was_cut_short_is_fetched_again(tmp_path):
    """As a crash of the machine may leave it: found by its size when it is opened."""
    item, data = shard("a", 100)
    calls: list[Path] = []
    cache = NodeCache(tmp_path, limit=1000, timeout=5, keep_damaged=False)
    with cache.ensure(item, writes(data, calls)).open("r+b") as file:
        file.truncate(7)
    with cache.open(item, writes(data, calls)) as descriptor:
        assert os.pread(descriptor, 200, 0) == data
    assert len(calls) == 2


def test_an_altered_copy_is_dropped_once(tmp_path):
    """Two readers find it altered: one drops it and both read again; what one finds altered after
    that it keeps."""
    item, data = shard("a", 100)
    calls: list[Path] = []
    cache = NodeCache(tmp_path, limit=1000, timeout=5, keep_damaged=False)
    one, two = (cache.take(item, writes(data, calls)) for _ in range(2))
    assert cache.discard(item, one) and cache.discard(item, two)
    new = cache.take(item, writes(data, calls))
    assert len(calls) == 2 and not cache.discard(item, new)
    assert names(tmp_path, ".tar") == {f"{item.sha256}.tar"}
    for descriptor in (one, two, new):
        os.close(descriptor)


def test_a_copy_gets_its_name_when_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    """Bytes first, then the name, then the folder: a power cut leaves it whole, or not there."""
    item, data = shard("a", 100)
    cache = NodeCache(tmp_path, limit=1000, timeout=5, keep_damaged=False)
    seen, fsync = [], os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        seen.append((os.fstat(descriptor).st_ino, cache.path(item).exists()))

    monkeypatch.setattr(os, "fsync", watched)
    path = cache.ensure(item, writes(data))
    assert seen == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_disk_that_refuses_is_named_by_its_setting(tmp_path):
    """A cache folder that is none any more is one line that names `data.cache_dir`."""
    item, data = shard("a", 100)
    cache = NodeCache(tmp_path / "cache", limit=1000, timeout=5, keep_damaged=False)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*: Not a directory; .*folder$"):
        cache.ensure(item, writes(data))
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*: File exists; .*folder$"):
        NodeCache(tmp_path / "cache", limit=1000, timeout=5, keep_damaged=False)
