"""Waiting for footage of a slow store: no hang while bytes come, to whichever rank."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_shards.config import DataConfig
from data_shards.errors import UserError
from data_shards.stream import Stream, open_manifest
from tests.support.ranks import run_ranks
from tests.support.shards import write_set
from trainer import waiting
from trainer.comm import Comm
from trainer.timing import Phases
from trainer.waiting import await_batch
from trainer.watchdog import Watchdog

COUNTS, HANG = (4, 4), 3.0


class Slow(SimpleHTTPRequestHandler):
    """Sends shards a little at a time, for `seconds` each, or nothing of them but their heads."""

    def do_GET(self) -> None:
        self.slow = self.path.endswith(".tar")
        super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        data, seconds = source.read(), self.server.seconds  # type: ignore[attr-defined]
        if self.slow and seconds is None:
            self.server.over.wait()  # type: ignore[attr-defined]
            return
        parts = 40 if self.slow else 1
        for part in range(parts):
            outputfile.write(data[len(data) * part // parts : len(data) * (part + 1) // parts])
            outputfile.flush()
            time.sleep(seconds / parts if self.slow and seconds else 0)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Two shards of 400 KB on a web server."""
    write_set(tmp_path / "footage", COUNTS, size=128)
    handler = functools.partial(Slow, directory=str(tmp_path / "footage"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.seconds, server.over = 2.5 * HANG, threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.over.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def first_batch(
    comm: Comm, where: str, folder: str, warm: bool, seconds: float, workers: int
) -> dict[str, Any]:
    """What a rank sees of the wait for its first batch, with its own copies of the shards, those
    of rank 0 there already with `warm`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "LOOK_SECONDS", 0.1)
        patch.setattr(waiting, "MARGIN_SECONDS", 0.0)
        return _first_batch(comm, where, folder, warm, seconds, workers)


def _first_batch(
    comm: Comm, where: str, folder: str, warm: bool, seconds: float, workers: int
) -> dict[str, Any]:
    config = DataConfig(
        cache_dir=f"{folder}/{comm.rank}", timeout_seconds=seconds, cache_mib=0, workers=workers
    )
    opened = open_manifest(where, config=config)
    if warm and comm.rank == 0:
        for number in range(len(COUNTS)):
            opened.shards.read(number, lambda _: None)
    watchdog = Watchdog(Path(folder), hang_seconds=HANG)
    comm.barrier()
    silent, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            silent.append(watchdog.silent)

    engine: Any = SimpleNamespace(ranks=SimpleNamespace(comm=comm), phases=Phases())
    watcher = threading.Thread(target=watch, daemon=True)
    begun, problem = time.monotonic(), ""
    with Stream(opened, config, seed=1, batch=4, rank=comm.rank, world=comm.world) as stream:
        watcher.start()
        with engine.phases("data"):
            await_batch(stream, engine, watchdog)
        waited = time.monotonic() - begun
        over.set()
        watcher.join()
        try:
            there = stream.wait(0) and len(next(stream).clip_B) > 0
        except UserError as error:
            there, problem = False, str(error)
        ending = time.monotonic()
    return {
        "waited": waited, "silent": any(silent), "ending": time.monotonic() - ending,
        "there": there, "problem": problem, "data": engine.phases.take()["data"],
    }  # fmt: skip


@pytest.mark.ranks
def test_a_slow_store_is_no_hang_on_any_rank(tmp_path: Path, web: ThreadingHTTPServer) -> None:
    """One rank has its footage, the other one's comes for more than twice as long as a hang takes:
    neither is silent for so long, and the time is told of the one alone."""
    where = f"http://127.0.0.1:{web.server_address[1]}"
    found = run_ranks(first_batch, 2, where, str(tmp_path), True, HANG / 2, 0)
    for told in found:
        assert told["there"] and not told["silent"], told
        assert told["waited"] > 2 * HANG
    # Who has its footage waits for the other rank, which waits for its own.
    assert found[0]["data"] < HANG < 2 * HANG < found[1]["data"]


def test_what_loader_processes_fetch_is_seen(tmp_path: Path, web: ThreadingHTTPServer) -> None:
    """A loader process waits for the store; its rank gives signs of life all the same."""
    where = f"http://127.0.0.1:{web.server_address[1]}"
    told = first_batch(Comm(), where, str(tmp_path), False, HANG / 2, 1)
    assert told["there"] and not told["silent"] and told["waited"] > 2 * HANG


def test_a_store_that_dies_is_told_by_its_own_timeout(
    tmp_path: Path, web: ThreadingHTTPServer
) -> None:
    """Also where that is longer than a hang takes; nothing that moves is made up meanwhile, and
    what reads ahead asks for nothing more when the stream is closed."""
    web.seconds = None  # type: ignore[attr-defined]
    where = f"http://127.0.0.1:{web.server_address[1]}"
    told = first_batch(Comm(), where, str(tmp_path), False, 2 * HANG, 0)
    assert not told["silent"] and "the store gave nothing within" in told["problem"]
    assert 2 * HANG <= told["waited"] < 5 * HANG and told["ending"] < HANG


def test_footage_on_a_disk_is_not_waited_for(tmp_path: Path) -> None:
    """Nothing is exchanged where no store can be slow."""
    write_set(tmp_path / "footage", COUNTS)
    config = DataConfig(cache_mib=0)
    opened = open_manifest(str(tmp_path / "footage"), config=config)
    with Stream(opened, config, seed=1, batch=4) as stream:
        none: Any = None
        await_batch(stream, none, none)
        assert not stream.distant


def test_only_bytes_that_come_are_a_sign_of_life() -> None:
    """A batch that is not there and brings nothing leaves the watchdog to its clock; one that is
    waited for with the disk of the copies away, too."""
    looks = iter([(False, True), (False, False), (False, UserError("gone")), (True, True)])
    now: list[Any] = []

    def wait(_: float) -> bool:
        now[:] = next(looks)
        return now[0]

    def moved() -> bool:
        if isinstance(now[1], Exception):
            raise now[1]
        return now[1]

    beats = []
    stream: Any = SimpleNamespace(
        distant=True, wait=wait, moved=moved, config=SimpleNamespace(timeout_seconds=1.0)
    )
    engine: Any = SimpleNamespace(ranks=SimpleNamespace(comm=Comm()), phases=Phases())
    watchdog: Any = SimpleNamespace(
        beat=lambda: beats.append(now[1]), patience=lambda _: contextlib.nullcontext()
    )
    await_batch(stream, engine, watchdog)
    assert beats == [True] and next(looks, None) is None
