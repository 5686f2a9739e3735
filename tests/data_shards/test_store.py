"""Stores: real HTTP and S3 servers on this machine, their failures, and the node's cache."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.cache import NodeCache
from data_shards.config import DataConfig
from data_shards.dataset import ClipReader
from data_shards.errors import UserError
from data_shards.manifest import CLIPS, MANIFEST, Shard
from data_shards.store import Store
from data_shards.stream import DamagedShard, Stream, make_plan, open_manifest
from tests.support.shards import write_set

COUNTS = (5, 4, 3)
SHARDS = tuple(f"shard-{number:05d}.tar" for number in range(len(COUNTS)))


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, counts what is asked for and fails as often as it is told to."""

    def do_GET(self) -> None:
        name = Path(self.path).name
        self.server.asked[name] += 1  # type: ignore[attr-defined]
        if self.server.failures[name] > 0:  # type: ignore[attr-defined]
            self.server.failures[name] -= 1  # type: ignore[attr-defined]
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def footage(tmp_path) -> Path:
    """Three shards on disk."""
    folder = tmp_path / "footage"
    write_set(folder, COUNTS)
    return folder


@pytest.fixture
def web(footage) -> Iterator[ThreadingHTTPServer]:
    """The same, on a web server."""
    handler = functools.partial(Handler, directory=str(footage))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.failures = Counter(), Counter()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(tmp_path):
    """Makes settings with the cache in this test's folder."""
    return functools.partial(
        DataConfig, cache_dir=str(tmp_path / "cache"), timeout_seconds=60.0, cache_mib=0
    )


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def take(where: str, config: DataConfig, steps: int = 6) -> list[torch.Tensor]:
    opened = open_manifest(where, config=config)
    with Stream(opened, config, seed=1, batch=5) as stream:
        return [batch.frames_BTCHW for batch in itertools.islice(stream, steps)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["", f"/{MANIFEST}"])
@pytest.mark.parametrize("workers", [0, 2])
def test_http_gives_what_the_disk_gives_and_fetches_each_shard_once(
    footage, web, settings, workers, name
):
    """Threads or processes, folder or manifest named: one download a shard, the same clips."""
    config = settings(workers=workers, prefetch=1)
    assert same(take(address(web) + name, config), take(str(footage) + name, config))
    assert [web.asked[shard] for shard in SHARDS] == [1, 1, 1]


def test_the_cache_serves_the_next_run_without_the_store(footage, web, settings):
    """A second run asks only for the manifest and the sizes."""
    config = settings()
    take(address(web), config)
    web.asked.clear()
    take(address(web), config)
    assert set(web.asked) <= {MANIFEST}


def test_only_shards_that_are_needed_are_fetched(footage, web, settings):
    """Groups of one shard: a run of one step leaves the rest of the epoch in the store."""
    config = settings(shuffle_shards=1, prefetch=1)
    with Stream(open_manifest(str(footage)), config, seed=1, batch=1) as stream:
        request = stream.request(0)
    reader = ClipReader(open_manifest(address(web), config=config))
    assert reader[request].valid_B.all()
    assert sum(web.asked[shard] for shard in SHARDS) == 1


def test_a_run_that_resumes_in_a_group_fetches_what_is_left_of_it(
    footage, web, settings, monkeypatch
):
    """At the last clip of a group of two shards: that clip's shard and those of the next group."""
    write_set(footage, (5, 4, 3, 6, 6, 6))
    config = settings(shuffle_shards=2, prefetch=1)
    opened = open_manifest(address(web), config=config)
    plan = make_plan(opened, config, seed=1, batch=1)
    whole = opened.table["shard"][plan.span(0, plan.clips).clip_B].tolist()
    size = next(n for n in range(1, plan.clips) if len(set(whole[: n + 1])) > 2)
    gone = set(whole[:size]) - {whole[size - 1]}
    asked: list[list[int]] = []
    monkeypatch.setattr(opened.shards, "fetch_ahead", lambda numbers: asked.append(list(numbers)))
    with Stream(opened, config, seed=1, batch=1, start_step=size - 1) as stream:
        next(stream)
    names = [shard.file for shard in opened.manifest.shards]
    assert len(gone) == 1 and len(asked) == 2
    assert asked[0][0] == whole[size - 1] and len(asked[0]) == 3
    assert not gone & {shard for numbers in asked for shard in numbers}
    assert [web.asked[names[shard]] for shard in (*gone, whole[size - 1])] == [0, 1]


def test_nothing_is_fetched_ahead_after_the_end(web, settings):
    """A thread that gets going only when its stream is closed asks the store for nothing."""
    opened = open_manifest(address(web), config=settings())
    stop = opened.shards.store.stop
    opened.shards.close()
    opened.shards._fetch_all([0, 1, 2], stop)
    assert [web.asked[shard] for shard in SHARDS] == [0, 0, 0]
    opened.shards._fetch_all([0, 1, 2], opened.shards.store.stop)
    assert [web.asked[shard] for shard in SHARDS] == [1, 1, 1]


def test_a_store_that_stumbles_is_tried_again(web, settings):
    """Two refusals of a shard cost two retries and nothing else."""
    config = settings()
    opened = open_manifest(address(web), config=config)
    web.failures[SHARDS[0]] = 2
    part = ClipReader(opened).clips(np.arange(COUNTS[0]))
    assert len(list(part)) == COUNTS[0]
    assert opened.shards.store.retries == 2


def test_a_store_that_keeps_failing_ends_after_its_tries(web, settings):
    """The last error is told, with the setting that helps."""
    web.failures[MANIFEST] = 10**6
    with pytest.raises(UserError, match=rf"{MANIFEST}: .*503.*timeout_seconds"):
        open_manifest(address(web), config=settings(attempts=2))


@pytest.mark.parametrize("backlog", [None, 5])
def test_a_dead_store_is_an_error_and_no_hang(settings, backlog):
    """Nobody at the port, or somebody who never answers: one line naming the address."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if backlog:
            silent.listen(backlog)
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=where) as caught:
            open_manifest(where, config=settings(timeout_seconds=0.3))
    assert "\n" not in str(caught.value) and "timeout_seconds" in str(caught.value)


def test_a_store_that_dies_later_ends_the_stream(web, settings):
    """The error comes out of the iterator, also out of a loader process."""
    for workers in (0, 1):
        config = settings(workers=workers, attempts=1)
        opened = open_manifest(address(web), config=config)
        web.failures.update(dict.fromkeys(SHARDS, 10**6))
        with (
            Stream(opened, config, seed=0, batch=3) as stream,
            pytest.raises(UserError, match=r"shard-0000\d\.tar: the store gave nothing"),
        ):
            next(stream)


@pytest.mark.parametrize("name", [MANIFEST, CLIPS, SHARDS[1]])
@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_file_is_named(footage, web, settings, name, remote):
    """Manifest, table or shard: what is not there is named, near and far."""
    (footage / name).unlink()
    with pytest.raises(UserError, match=rf"/{name}: "):
        open_manifest(address(web) if remote else str(footage), config=settings())


@pytest.mark.parametrize("remote", [False, True])
def test_an_altered_table_is_refused(footage, web, settings, remote):
    """One bit of the clip table is enough."""
    data = bytearray((footage / CLIPS).read_bytes())
    data[-3] ^= 1
    (footage / CLIPS).write_bytes(data)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{CLIPS}: altered"):
            open_manifest(address(web) if remote else str(footage), config=settings())


def test_remote_damage_is_refused_or_quarantined(footage, web, settings):
    """A flipped bit in the store: `fail` names the shard, `quarantine` loses one clip."""
    opened = open_manifest(str(footage))
    offset = int(opened.table["offset"][6])
    data = bytearray((footage / SHARDS[1]).read_bytes())
    data[offset + 520] ^= 1
    (footage / SHARDS[1]).write_bytes(data)
    with pytest.raises(UserError, match=rf"{SHARDS[1]}: .*SHA-256"):
        take(address(web), settings())
    config = settings(on_damage="quarantine")
    opened = open_manifest(address(web), config=config)
    with Stream(opened, config, seed=0, batch=12) as stream:
        batch = next(stream)
        assert batch.clip_B[~batch.valid_B].tolist() == [6]
    assert not issubclass(DamagedShard, OSError)


def test_links_out_of_the_folder_are_refused(footage, tmp_path):
    """A shard may not be a link to a file elsewhere."""
    (footage / SHARDS[0]).rename(tmp_path / "elsewhere.tar")
    (footage / SHARDS[0]).symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match="leaves"):
        open_manifest(str(footage))


@pytest.mark.parametrize("where", ["", "ftp://host/set"])
def test_places_that_cannot_be_are_named(where):
    """No place, or a kind of store that nobody knows."""
    with pytest.raises(UserError, match=r"data\.manifest"):
        open_manifest(where)


def test_a_missing_client_names_the_extra(monkeypatch):
    """Without s3fs the error says what to install."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"pip install 'navsynth\[s3\]'"):
        Store("s3://bucket/set").size("x")


@pytest.fixture
def bucket(footage, monkeypatch) -> str:
    """The same set in a bucket of a real S3 server."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    boto = pytest.importorskip("botocore.session", reason="needs navsynth[s3]")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto.get_session().create_client("s3")
    client.create_bucket(Bucket="golf")
    for path in footage.iterdir():
        client.put_object(Bucket="golf", Key=f"set/{path.name}", Body=path.read_bytes())
    yield "s3://golf/set"
    server.stop()


def test_s3_gives_what_the_disk_gives(footage, bucket, settings):
    """The whole way through s3fs; what is missing is named there as well."""
    assert same(take(bucket, settings()), take(str(footage), settings()))
    with pytest.raises(UserError, match=r"s3://golf/nothing/manifest\.json: not in the store"):
        open_manifest("s3://golf/nothing", config=settings())


def shard(name: str, size: int) -> tuple[Shard, bytes]:
    data = name.encode() * size
    return Shard(name, 1, len(data), hashlib.sha256(data).hexdigest()), data


def test_the_cache_stays_in_bounds_and_drops_the_oldest(tmp_path):
    """Room for two: the third pushes out the one that was used longest ago."""
    cache = NodeCache(tmp_path, limit=200, timeout=5, keep_damaged=False)
    items = [shard(name, 100) for name in "abc"]
    for age, (item, data) in enumerate(items):
        with cache.open(item, lambda part, data=data: part.write_bytes(data)) as descriptor:
            assert os.pread(descriptor, 200, 0) == data
        os.utime(tmp_path / f"{item.sha256}.tar", (age, age))
        assert cache.bytes() <= 200
    kept = {path.stem for path in tmp_path.glob("*.tar")}
    assert kept == {item.sha256 for item, _ in items[1:]}
    assert not list(tmp_path.glob("*.part"))


def test_a_shard_in_use_is_never_dropped(tmp_path):
    """Room for one, and somebody reads it: the next one has to wait, and says so in the end."""
    cache = NodeCache(tmp_path, limit=100, timeout=0.1, keep_damaged=False)
    (one, first), (other, second) = shard("a", 100), shard("b", 100)
    with cache.open(one, lambda part: part.write_bytes(first)) as descriptor:
        with pytest.raises(UserError, match=r"data\.cache_gib: no room for b"):
            cache.ensure(other, lambda part: part.write_bytes(second))
        assert os.pread(descriptor, 200, 0) == first
    assert cache.ensure(other, lambda part: part.write_bytes(second)).read_bytes() == second
    assert cache.bytes() == 100


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
    assert killed.returncode == -9 and list(tmp_path.glob("*.part"))
    cache = NodeCache(tmp_path, limit=150, timeout=5, keep_damaged=False)
    other, more = shard("b", 100)
    cache.ensure(other, lambda part: part.write_bytes(more))
    assert cache.ensure(item, lambda part: part.write_bytes(data)).read_bytes() == data


def test_ranks_of_a_node_download_a_shard_once(tmp_path):
    """Eight readers at once, each with its own view of the folder: one download."""
    item, data = shard("a", 1000)
    calls = []

    def fetch(part: Path) -> None:
        calls.append(part)
        part.write_bytes(data)

    def read(_: int) -> bytes:
        cache = NodeCache(tmp_path, limit=5000, timeout=5, keep_damaged=False)
        with cache.open(item, fetch) as descriptor:
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
            cache.ensure(item, lambda part: part.write_bytes(data))


def test_a_cache_too_small_for_the_shuffle_is_named(web, settings):
    """Two groups of shards must fit, or every batch would download them again."""
    with pytest.raises(UserError, match=r"data\.cache_gib: .* it takes 0\.0"):
        open_manifest(address(web), config=settings(cache_gib=1e-6))
