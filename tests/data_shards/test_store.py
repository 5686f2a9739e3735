"""Stores: real HTTP and S3 servers on this machine, their failures, and what is copied of them."""

from __future__ import annotations

import fcntl
import functools
import io
import itertools
import os
import re
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards import single, store
from data_shards.config import DataConfig
from data_shards.dataset import ClipReader, Damage, Request
from data_shards.errors import UserError
from data_shards.manifest import CLIP_RECORD, CLIPS, MANIFEST
from data_shards.store import Store
from data_shards.stream import Stream, make_plan, open_manifest
from tests.support.shards import pixels, write_set

COUNTS = (5, 4, 3)
SHARDS = tuple(f"shard-{number:05d}.tar" for number in range(len(COUNTS)))


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and ranges of its files, counts what is asked for and sent, and fails as
    often as it is told to."""

    def do_HEAD(self) -> None:
        name = Path(self.path).name
        if self.server.heads[name] > 0:  # type: ignore[attr-defined]
            self.server.heads[name] -= 1  # type: ignore[attr-defined]
            self.send_error(503)
            return
        super().do_HEAD()

    def do_GET(self) -> None:
        name = Path(self.path).name
        self.server.asked[name] += 1  # type: ignore[attr-defined]
        if self.server.failures[name] > 0:  # type: ignore[attr-defined]
            self.server.failures[name] -= 1  # type: ignore[attr-defined]
            self.send_error(503)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or not self.server.ranges:  # type: ignore[attr-defined]
            super().do_GET()
            return
        first, last = int(asked[1]), int(asked[2])
        data = Path(self.translate_path(self.path)).read_bytes()
        part = data[first : last + 1]
        if not part:
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.copyfile(io.BytesIO(part), self.wfile)

    def copyfile(self, source, outputfile) -> None:
        data = source.read()
        self.server.sent[Path(self.path).name] += len(data)  # type: ignore[attr-defined]
        outputfile.write(data)

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
    server.sent, server.ranges = Counter(), True  # type: ignore[attr-defined]
    server.heads = Counter()  # type: ignore[attr-defined]
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
    """Four groups of two shards: for one batch the store is asked for the shards of the group at
    hand and of the one ahead, all four of them, and for no other."""
    facts = write_set(footage, (4,) * 8)
    config = settings(shuffle_shards=2, prefetch=1, threads=1)
    opened = open_manifest(address(web), config=config)
    names, until = [shard.file for shard in facts.shards], time.monotonic() + 30
    with Stream(opened, config, seed=1, batch=1) as stream:
        near = {names[number] for number in stream.plan.shards_ahead(0)}
        assert next(stream).valid_B.all()
        while not all(web.asked[name] for name in near) and time.monotonic() < until:
            time.sleep(0.01)
    assert len(near) == 2 * config.shuffle_shards
    assert {name for name in names if web.asked[name]} == near


def test_single_clips_cost_their_own_bytes(web, settings):
    """Three clips of three shards: one request and the bytes of each, and no shard on this node; a
    clip of a shard that is there costs nothing."""
    opened, clip_B = open_manifest(address(web), config=settings()), np.array([1, 6, 10])
    assert damaged(ClipReader(opened), clip_B) == []
    assert [web.asked[shard] for shard in SHARDS] == [1, 1, 1]
    assert [web.sent[shard] for shard in SHARDS] == opened.table["size"][clip_B].tolist()
    assert not list(settings().cache_folder().glob("*.tar"))
    assert damaged(ClipReader(opened, whole=True), np.array([0])) == []
    assert damaged(ClipReader(opened), np.array([2])) == []
    assert [web.asked[shard] for shard in SHARDS] == [2, 1, 1]


def test_clips_of_several_shards_are_asked_for_at_a_time(web, settings, monkeypatch):
    """Three ranges are under way before the first of them ends; the clips come in order."""
    met, fetch = threading.Barrier(3, timeout=30), single.byte_range

    def together(*args, **words):
        met.wait()
        return fetch(*args, **words)

    opened = open_manifest(address(web), config=settings())
    monkeypatch.setattr(store, "byte_range", together)
    found = list(ClipReader(opened).clips(np.array([10, 1, 6])))
    assert [slot for slot, _, _ in found] == [1, 2, 0]
    assert not any(isinstance(pixels, Damage) for _, pixels, _ in found)


def test_much_of_a_shard_is_fetched_whole(web, settings):
    """A quarter of a shard, here two clips of five, comes clip by clip, whoever reads them; for the
    next clip the shard is fetched, once."""
    opened = open_manifest(address(web), config=settings())
    for clip, asked in enumerate((1, 2, 3, 3, 3)):
        assert damaged(ClipReader(opened), np.array([clip])) == []
        assert web.asked[SHARDS[0]] == asked
    shard, size = opened.manifest.shards[0], opened.table["size"][:2].sum()
    assert web.sent[SHARDS[0]] == size + shard.bytes and 4 * size <= shard.bytes


@pytest.mark.parametrize("place", [0, 520])
def test_a_flipped_bit_of_a_single_clip_is_damage(footage, web, settings, caplog, place):
    """In its header or its pixels: the whole shard is fetched and judged under either policy, which
    a line says; the clip beside it is none the worse."""
    flip(footage / SHARDS[1], place_of(6, footage) - 520 + place)
    reader = ClipReader(open_manifest(address(web), config=settings()))
    part = reader[Request(0, np.array([6]), np.array([0]))]
    assert re.match(rf"{SHARDS[1]}: .*SHA-256", part.error) and not part.valid_B.any()
    assert f"{SHARDS[1]}: a single clip: its bytes have changed (digest); " in caplog.text
    assert damaged(reader, np.array([5])) == []
    config = settings(on_damage="quarantine")
    assert damaged(ClipReader(open_manifest(address(web), config=config)), np.array([6])) == [6]


def test_a_single_clip_behind_the_end_of_its_shard_is_damage(footage, web, settings):
    """A server has no such range: the shard is fetched and its clip cut short, at once."""
    length = place_of(8, footage) - 600
    with (footage / SHARDS[1]).open("r+b") as file:
        file.truncate(length)
    opened = open_manifest(address(web), config=settings(on_damage="quarantine"))
    part = ClipReader(opened)[Request(0, np.array([8]), np.array([0]))]
    assert not part.error and "cut short, 0 of " in part.damages[0].reason
    assert opened.shards.store.retries == 0


def test_a_server_without_ranges_is_asked_for_whole_shards(web, settings, caplog):
    """It sends everything where a clip is asked for: a line says so, once, and from then on single
    clips cost their shards."""
    web.ranges = False
    opened = open_manifest(address(web), config=settings())
    for clip, asked in ((1, [2, 0, 0]), (6, [2, 1, 0])):
        assert damaged(ClipReader(opened), np.array([clip])) == []
        assert [web.asked[shard] for shard in SHARDS] == asked
    assert caplog.text.count("the server ignores Range") == 1
    assert opened.shards.store.retries == 0


def test_a_run_that_resumes_in_a_group_fetches_what_is_left_of_it(
    footage, web, settings, monkeypatch
):
    """At the last clip of a group of two shards: that clip's shard and those of the next group."""
    write_set(footage, (5, 4, 3, 6, 6, 6))
    config = settings(shuffle_shards=2, prefetch=1, threads=1)
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


def test_a_cache_of_two_groups_fetches_each_shard_once_a_pass(footage, web, settings):
    """The smallest bound that is taken, three groups of shards, three passes: what was fetched
    ahead is read before it goes, and only what was read makes room."""
    facts = write_set(footage, (6,) * 6)
    table = 4096 + facts.clips * CLIP_RECORD.itemsize
    room = 4 * max(shard.bytes for shard in facts.shards) + table
    config = settings(shuffle_shards=2, prefetch=1, cache_gib=(room + 1) / 2**30)
    opened, passes = open_manifest(address(web), config=config), 3
    folder = Path(config.cache_dir)
    with Stream(opened, config, seed=1, batch=1) as stream:
        for _ in itertools.islice(stream, passes * facts.clips):
            time.sleep(0.01)  # times of last use differ
            while any(path.suffix == ".part" for path in folder.iterdir()):
                time.sleep(0.01)
    asked = [web.asked[shard.file] for shard in facts.shards]
    assert sum(asked) <= passes * len(asked), asked


def test_nothing_is_fetched_ahead_after_the_end(web, settings):
    """A thread that gets going only when its stream is closed asks the store for nothing."""
    opened = open_manifest(address(web), config=settings())
    stop = opened.shards.store.stop
    opened.shards.close()
    opened.shards._fetch_all(deque([0, 1, 2]), stop)
    assert [web.asked[shard] for shard in SHARDS] == [0, 0, 0]
    opened.shards._fetch_all(deque([0, 1, 2]), opened.shards.store.stop)
    assert [web.asked[shard] for shard in SHARDS] == [1, 1, 1]


@pytest.mark.parametrize("clips", [COUNTS[0], 1])
def test_a_store_that_stumbles_is_tried_again(web, settings, clips):
    """Two refusals of a shard, or of a range of it, cost two retries and nothing else."""
    config = settings()
    opened = open_manifest(address(web), config=config)
    web.failures[SHARDS[0]] = 2
    assert len(list(ClipReader(opened).clips(np.arange(clips)))) == clips
    assert opened.shards.store.retries == 2


def test_a_store_that_stumbles_over_a_size_is_tried_again(web, settings):
    """A server that is busy when it is asked how large a shard is has not lost it; one that stays
    so is told as what it is."""
    web.heads[SHARDS[1]] = web.failures[SHARDS[1]] = 1
    opened = open_manifest(address(web), config=settings())
    assert opened.shards.store.retries == 1
    web.heads[SHARDS[1]] = web.failures[SHARDS[1]] = 10**6
    with pytest.raises(UserError, match=rf"{SHARDS[1]}: the store gave nothing .*503"):
        open_manifest(address(web), config=settings(attempts=2))


def test_a_shard_that_cannot_be_fetched_ahead_costs_the_others_nothing(web, settings):
    """They are fetched; that one is left to its reader."""
    shards = open_manifest(address(web), config=settings(attempts=1)).shards
    web.failures[SHARDS[0]] = 1
    shards._fetch_all(deque([0, 1, 2]), shards.store.stop)
    assert [web.asked[shard] for shard in SHARDS] == [1, 1, 1]
    assert shards.cache is not None
    assert [shards.cache.has(shard) for shard in shards.manifest.shards] == [False, True, True]


def test_footage_in_memory_is_fetched_once(web, settings):
    """A set that was decoded into memory asks its store for nothing more, whatever became of the
    copies."""
    config = settings(cache_mib=100)
    with Stream(open_manifest(address(web), config=config), config, seed=1, batch=5) as stream:
        asked = dict(web.asked)
        for copy in config.cache_folder().glob("*.tar"):
            copy.unlink()
        for _ in itertools.islice(stream, 6):
            time.sleep(0.01)
    assert stream.resident is not None and asked == dict(web.asked)


def test_a_reader_that_waits_for_another_process_ends_with_its_stream(web, settings):
    """Somebody else fetches the shard: who waits for it is told when the stream is closed, and asks
    the store for nothing."""
    shards = open_manifest(address(web), config=settings()).shards
    assert shards.cache is not None
    lock = shards.cache.folder / f"{shards.manifest.shards[0].sha256}.lock"
    with lock.open("ab") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        waits = pool.submit(shards.read, 0, lambda descriptor: os.pread(descriptor, 10, 0))
        time.sleep(0.2)
        assert not waits.done()
        shards.close()
        with pytest.raises(UserError, match="abandoned"):
            waits.result(timeout=5)
    assert web.asked[SHARDS[0]] == 0


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
    told = "not in the store; check data.manifest" if remote else "No such file or directory; "
    with pytest.raises(UserError, match=rf"/{name}: {told}"):
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
    flip(footage / SHARDS[1], place_of(6, footage))
    with pytest.raises(UserError, match=rf"{SHARDS[1]}: .*SHA-256"):
        take(address(web), settings())
    config = settings(on_damage="quarantine")
    opened = open_manifest(address(web), config=config)
    with Stream(opened, config, seed=0, batch=12) as stream:
        batch = next(stream)
        assert batch.clip_B[~batch.valid_B].tolist() == [6]
        assert [damage.clip for damage in stream.damaged] == [6]
        assert SHARDS[1] in stream.damaged[0].reason


def test_a_store_that_was_mended_is_read_again(footage, web, settings):
    """A shard kept though damaged is looked for once more by whoever opens the set, and read as it
    is from then on."""
    whole = (footage / SHARDS[1]).read_bytes()
    flip(footage / SHARDS[1], place_of(6, footage))
    config, clip_B = settings(on_damage="quarantine"), np.arange(5, 9)
    first, second, third = (
        ClipReader(open_manifest(address(web), config=config)) for _ in range(3)
    )
    for reader, asked in ((first, 2), (first, 2), (second, 4)):
        assert damaged(reader, clip_B) == [6]
        assert web.asked[SHARDS[1]] == asked
    (footage / SHARDS[1]).write_bytes(whole)
    assert damaged(second, clip_B) == [6]
    assert damaged(third, clip_B) == [] and web.asked[SHARDS[1]] == 5
    assert not list(config.cache_folder().glob("*.damaged"))
    assert damaged(second, clip_B) == [] and web.asked[SHARDS[1]] == 5


def test_a_copy_that_changed_on_this_node_costs_a_download_and_no_clip(footage, web, settings):
    """A bit flipped in the node's copy of a shard: it is fetched anew, once by whoever opened
    the set; what changes again is damage."""
    first, second = (ClipReader(open_manifest(address(web), config=settings())) for _ in range(2))
    clip_B, sha256 = np.arange(5), first.opened.manifest.shards[0].sha256
    copy, place = settings().cache_folder() / f"{sha256}.tar", place_of(1, footage)
    assert damaged(first, clip_B) == [] and web.asked[SHARDS[0]] == 1
    flip(copy, place)
    assert damaged(first, clip_B) == [] and web.asked[SHARDS[0]] == 2
    flip(copy, place)
    assert damaged(first, clip_B) == [1] and web.asked[SHARDS[0]] == 2
    assert damaged(second, clip_B) == [] and web.asked[SHARDS[0]] == 3


def test_a_table_that_changed_on_this_node_is_fetched_once_more(footage, web, settings):
    """A bit flipped in the node's copy of the clip table: the store's is taken again."""
    folder, want = settings().cache_folder(), (footage / CLIPS).read_bytes()
    opened = open_manifest(address(web), config=settings())
    copy = folder / f"{opened.manifest.clips_sha256}.npy"
    del opened
    flip(copy, len(want) - 3)
    opened = open_manifest(address(web), config=settings())
    assert copy.read_bytes() == want and web.asked[CLIPS] == 2
    assert opened.table.tobytes() == open_manifest(str(footage)).table.tobytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_cache_is_no_dead_store(web, settings):
    """It is named at once, with the setting that says where copies go."""
    opened = open_manifest(address(web), config=settings())
    shard = opened.manifest.shards[0]
    part = settings().cache_folder() / f"{shard.sha256}.{shard.bytes}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*: No space left on device; "):
        list(ClipReader(opened).clips(np.arange(COUNTS[0])))
    assert web.asked[SHARDS[0]] == 1


def damaged(reader: ClipReader, clip_B: np.ndarray) -> list[int]:
    """Which of some clips are damaged; of the others every pixel is compared."""
    clips = []
    for slot, item, _ in reader.clips(clip_B):
        if isinstance(item, Damage):
            clips.append(item.clip)
        else:
            np.testing.assert_array_equal(item, pixels(int(clip_B[slot]), 2, 4))
    return clips


def place_of(clip: int, footage: Path) -> int:
    """A byte of a clip's pixels in its shard."""
    return int(open_manifest(str(footage)).table["offset"][clip]) + 520


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


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


def test_single_clips_of_s3_cost_their_own_bytes(footage, bucket, settings, monkeypatch):
    """Ranges through s3fs, a large one in pieces, and no shard on this node; a clip behind the end
    of an object is damage, at once, and no dead store."""
    monkeypatch.setattr(single, "_PIECE", 1000)
    opened = open_manifest(bucket, config=settings(on_damage="quarantine"))
    assert damaged(ClipReader(opened), np.array([1, 6, 10])) == []
    assert not list(settings().cache_folder().glob("*.tar"))
    short = (footage / SHARDS[1]).read_bytes()[: place_of(8, footage) - 600]
    session = pytest.importorskip("botocore.session").get_session()
    session.create_client("s3").put_object(Bucket="golf", Key=f"set/{SHARDS[1]}", Body=short)
    assert damaged(ClipReader(opened), np.array([8])) == [8]
    assert opened.shards.store.retries == 0


def test_a_large_object_of_s3_comes_in_pieces_that_are_seen(bucket, tmp_path):
    """An object that s3fs would fetch as a few ranges, all at once and in silence: every piece is a
    sign of life for the watchdog, and makes the file longer, which ranks that wait for it see."""
    session = pytest.importorskip("botocore.session").get_session()
    body = bytes(range(256)) * (52 * 2**12)
    session.create_client("s3").put_object(Bucket="golf", Key="set/large.tar", Body=body)
    into, sizes = tmp_path / "large.tar", []
    Store(bucket)._download(
        "large.tar", into, lambda: sizes.append(into.stat().st_size), most=1 << 40
    )
    assert into.read_bytes() == body
    assert sizes == sorted(sizes) and len(set(sizes)) > 100


def test_a_cache_too_small_for_the_shuffle_is_named(web, settings):
    """Two groups of shards must fit, or every batch would download them again."""
    with pytest.raises(UserError, match=r"data\.cache_gib: .* it takes 0\.0"):
        open_manifest(address(web), config=settings(cache_gib=1e-6))


def test_a_store_that_sends_for_ever_is_given_up(footage, web, tmp_path):
    """After twice the bytes that the manifest says and a MiB; the rest is not awaited."""
    (footage / "long.tar").write_bytes(b"x" * (3 << 20))
    store = Store(address(web), timeout=30)
    with pytest.raises(UserError, match=r"long\.tar: more than 1048776 bytes"):
        store.fetch("long.tar", into=tmp_path / "part", size=100)
    store.fetch("long.tar", into=tmp_path / "part", size=1 << 20)
    assert (tmp_path / "part").stat().st_size == 3 << 20
