"""The stream: the same global batches whatever reads them, and every counter honest."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_shards.batch import KEY_KINDS, ClipBatch
from data_shards.config import DataConfig
from data_shards.cores import DECODING, give_way
from data_shards.dataset import ClipReader
from data_shards.errors import LoaderLost, UserError
from data_shards.readahead import Threads
from data_shards.stream import Stream, open_manifest
from tests.support.shards import pixels, write_set

WORLDS = (1, 2, 3, 4, 6, 8)
IN_MEMORY = DataConfig()
THREADS = DataConfig(cache_mib=0)
PROCESSES = DataConfig(cache_mib=0, workers=1, prefetch=2, worker_start="fork")
SHARDS = (
    (7, 5, 1),  # a shard of one clip, fewer shards than readers
    (1,),  # one clip in all: every batch repeats it
    (4, 4, 4, 4, 3),
)
STEPS = 5
WHOLE = {"counts": SHARDS[0], "batch": 3, "start": 0}
"""An epoch from its first clip to one of the next epoch, with a tail of one clip, more readers than
shards and, in worlds of more than three, ranks without data."""


def read(folder: Path, config: DataConfig, *, steps: int, **kwargs) -> list[ClipBatch]:
    """The first batches of a stream."""
    opened = open_manifest(str(folder), config=config)
    with Stream(opened, config, **{"seed": 5, "batch": 5, **kwargs}) as stream:
        return list(itertools.islice(stream, steps))


def joined(parts: list[ClipBatch]) -> ClipBatch:
    """One global batch out of the parts of all ranks."""
    return ClipBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def assert_same(one: ClipBatch, other: ClipBatch) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.dtype == right.dtype and torch.equal(left, right)


def global_batches(folder: Path, config: DataConfig, *, world: int, steps: int, **kwargs):
    ranks = [
        read(folder, config, steps=steps, rank=rank, world=world, **kwargs) for rank in range(world)
    ]
    return [joined(list(parts)) for parts in zip(*ranks, strict=True)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[tuple[int, ...], Path]:
    """Tiny prepared sets by their shards' clip counts."""
    folders = {counts: tmp_path_factory.mktemp("set") for counts in SHARDS}
    for counts, folder in folders.items():
        write_set(folder, counts)
    return folders


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(SHARDS), st.integers(1, 13), st.integers(0, 9), st.booleans())
@example(**WHOLE, memory=False)
@example(**WHOLE, memory=True)
def test_global_batches_do_not_depend_on_the_world(sets, counts, batch, start, memory):
    """Worlds of 1 to 8, in memory or from disk, also where ranks get nothing: same batches."""
    config = IN_MEMORY if memory else THREADS
    same = {"steps": STEPS, "batch": batch, "start_step": start}
    expected = global_batches(sets[counts], IN_MEMORY, world=1, **same)
    for world in WORLDS:
        found = global_batches(sets[counts], config, world=world, **same)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("workers", [1, 4])
@settings(max_examples=1, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(SHARDS), st.integers(1, 13), st.integers(0, 9))
@example(**WHOLE)
def test_global_batches_do_not_depend_on_loader_processes(
    sets, workers, world, counts, batch, start
):
    """One and four loader processes of each rank give what memory gives, over an epoch and from any
    step on, and are gone afterwards."""
    config = DataConfig(cache_mib=0, workers=workers, prefetch=2, worker_start="fork")
    assert_those_of_memory(sets[counts], config, world=world, batch=batch, start=start)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_processes_may_be_started_afresh(sets):
    """Those of a server, as on a GPU, give the same."""
    config = DataConfig(cache_mib=0, workers=1, prefetch=2, worker_start="forkserver")
    assert_those_of_memory(sets[(7, 5, 1)], config, world=1, batch=5, start=1)


def assert_those_of_memory(
    folder: Path, config: DataConfig, *, world: int, batch: int, start: int
) -> None:
    before = set(multiprocessing.active_children())
    same = {"steps": STEPS, "batch": batch, "start_step": start}
    found = global_batches(folder, config, world=world, **same)
    assert set(multiprocessing.active_children()) == before
    expected = global_batches(folder, IN_MEMORY, world=1, **same)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("config", [IN_MEMORY, THREADS])
def test_pixels_and_rows_are_those_of_the_clip(sets, config):
    """Each batch holds the clip's own pixels, its video and labels, and its slots."""
    for step, batch in enumerate(read(sets[(7, 5, 1)], config, steps=6)):
        assert batch.slot_B.tolist() == list(range(5)), step
        assert batch.valid_B.all()
        for slot, clip in enumerate(batch.clip_B.tolist()):
            frames_TCHW = torch.from_numpy(pixels(clip, 2, 4)).permute(0, 3, 1, 2)
            assert torch.equal(batch.frames_BTCHW[slot], frames_TCHW)
        assert torch.equal(batch.video_B, batch.clip_B)
        assert torch.equal(batch.identity_B, batch.clip_B % 3)
        assert torch.equal(batch.action_B, batch.clip_B % 2 - 1)
        for kind in KEY_KINDS:
            assert batch.rows(kind).dtype == torch.int64


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("config", [THREADS, PROCESSES])
def test_resuming_at_every_step_twice_in_a_row_at_another_world(sets, config):
    """Stop, resume on two ranks, stop, resume on three: the frames of one uninterrupted run."""
    folder, steps = sets[(7, 5, 1)], 5
    expected = global_batches(folder, IN_MEMORY, world=1, steps=steps, batch=4)
    for stop in range(steps):
        found = global_batches(folder, config, world=1, steps=stop, batch=4)
        found += global_batches(folder, config, world=2, steps=1, batch=4, start_step=stop)
        found += global_batches(
            folder, config, world=3, steps=steps - stop - 1, batch=4, start_step=stop + 1
        )
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("config", [IN_MEMORY, THREADS])
def test_whole_videos_give_windows(tmp_path, config):
    """With `windows: whole` a clip's frames are consecutive ones from the start that was drawn."""
    write_set(tmp_path, (4, 3), frames=3, extra=(0, 2, 5))
    starts = set()
    for batch in read(tmp_path, config, steps=12, batch=4):
        assert batch.frames_BTCHW.shape == (4, 3, 3, 4, 4)
        for clip, frames_TCHW in zip(batch.clip_B.tolist(), batch.frames_BTCHW, strict=True):
            start = int(frames_TCHW[0, 1, 0, 0])
            stored = 3 + (0, 2, 5)[clip % 3]
            expected = pixels(clip, stored, 4)[start : start + 3].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(frames_TCHW.numpy(), expected)
            starts.add((clip % 3, start))
    assert {start for kind, start in starts if kind == 0} == {0}
    assert len({start for kind, start in starts if kind == 2}) > 2


@pytest.mark.parametrize("config", [IN_MEMORY, THREADS, PROCESSES])
@pytest.mark.parametrize("codec", ["png", "raw"])
def test_exact_codecs_come_back_exactly(tmp_path, codec, config):
    """PNG and raw shards give the pixels that went in, wherever they are decoded."""
    write_set(tmp_path, (3,), codec=codec)
    (batch,) = read(tmp_path, config, steps=1, batch=3)
    for clip, frames_TCHW in zip(batch.clip_B.tolist(), batch.frames_BTCHW, strict=True):
        np.testing.assert_array_equal(frames_TCHW.permute(0, 2, 3, 1), pixels(clip, 2, 4))


def test_counters_tell_what_was_done(sets):
    """Clips and bytes add up, and the queue holds at most what was asked for ahead."""
    config = dataclasses.replace(THREADS, prefetch=3)
    opened = open_manifest(str(sets[(7, 5, 1)]), config=config)
    with Stream(opened, config, seed=0, batch=5) as stream:
        clips = torch.cat([batch.clip_B for batch in itertools.islice(stream, 4)])
        counters = stream.counters()
        assert stream.step == 4
        assert counters.clips == 20 and counters.damaged == counters.retries == 0
        assert counters.bytes == opened.table["size"][clips.numpy()].sum()
        assert 0 <= counters.queue_depth <= 3 and counters.wait_seconds >= 0
    with pytest.raises(UserError, match="closed"):
        next(stream)


@pytest.mark.parametrize("config", [THREADS, PROCESSES])
def test_a_rank_without_clips_gets_empty_batches(sets, config):
    """One clip for four ranks: three of them step along with nothing."""
    batches = read(sets[(1,)], config, steps=2, batch=1, rank=0, world=4)
    assert [len(batch.clip_B) for batch in batches] == [0, 0]
    assert batches[0].frames_BTCHW.shape == (0, 2, 3, 4, 4)


def test_only_the_rank_s_own_bytes_are_read(sets):
    """A rank's reader sees the bytes of its own clips and no others."""
    config = THREADS
    opened = open_manifest(str(sets[(4, 4, 4, 4, 3)]), config=config)
    with Stream(opened, config, seed=0, batch=7, rank=1, world=3) as stream:
        part = ClipReader(opened)[stream.request(2)]
        assert part.bytes == opened.table["size"][part.request.clip_B].sum()
        assert len(part.request.clip_B) == len(stream.slots)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", -1),
        ("prefetch", 0),
        ("on_damage", "ignore"),
        ("timeout_seconds", 0.0),
        ("worker_start", "thread"),
        ("cache_gib", float("nan")),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    """A wrong setting is refused where it is made."""
    with pytest.raises(UserError, match=rf"^data\.{field}: "):
        DataConfig(**{field: value})


def test_a_killed_loader_process_is_an_error_and_no_hang(sets):
    """The batches that wait are given out, then the stream says what happened."""
    config = DataConfig(cache_mib=0, workers=1, prefetch=1)
    opened = open_manifest(str(sets[(7, 5, 1)]), config=config)
    before = set(multiprocessing.active_children())
    with Stream(opened, config, seed=0, batch=3) as stream:
        next(stream)
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
            child.join()
        with pytest.raises(LoaderLost, match="a loader process is gone"):
            for _ in range(3):
                next(stream)


@pytest.mark.parametrize(
    ("workers", "end"),
    [(0, "pass"), (2, "pass"), (2, "raise SystemExit(3)"), (2, "stream.close()")],
)
def test_leaving_never_hangs(sets, workers, end):
    """A program that ends, fails or closes in the middle of an epoch leaves with its own code."""
    code = (
        "import sys\n"
        "from data_shards.stream import DataConfig, Stream, open_manifest\n"
        "config = DataConfig(cache_mib=0, workers=int(sys.argv[2]))\n"
        "stream = Stream(open_manifest(sys.argv[1]), config, seed=0, batch=3)\n"
        f"next(stream)\n{end}\n"
    )
    command = [sys.executable, "-c", code, str(sets[(7, 5, 1)]), str(workers)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == (3 if "3" in end else 0), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("threads", "gpu", "processes", "cores", "want"),
    [(0, False, 1, 64, 2), (0, True, 1, 64, 16), (0, True, 8, 64, 8), (0, True, 8, 8, 2),
     (3, False, 1, 64, 3), (3, True, 1, 64, 3)],
)  # fmt: skip
def test_a_gpu_leaves_the_cores_to_decoding(
    monkeypatch: pytest.MonkeyPatch, threads: int, gpu: bool, processes: int, cores: int, want: int
) -> None:
    """`threads=0` is two, or beside a GPU this process's share of the cores; a number is itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert DataConfig(threads=threads).decoding_threads() == want


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_decoding_threads_give_way_to_the_training() -> None:
    """Each is nicer than the process, and takes no core when it is woken; the process itself stays
    as it is."""

    class Told:
        def __getitem__(self, request: int) -> tuple[int, int]:
            return standing(threading.get_native_id())

    def standing(task: int) -> tuple[int, int]:
        return os.getpriority(os.PRIO_PROCESS, task), os.sched_getscheduler(task)

    nice, policy = standing(0)
    source = Threads(Told(), itertools.count(), DataConfig(threads=2))  # type: ignore[arg-type]
    want = min(19, nice + DECODING), os.SCHED_BATCH if policy == os.SCHED_OTHER else policy
    try:
        assert [source.next() for _ in range(4)] == [want] * 4
    finally:
        source.close()
    assert standing(0) == (nice, policy)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_a_system_that_refuses_another_policy_leaves_a_thread_that_is_nicer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sandbox may say that such a call is not permitted, and a C library that it has none."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=give_way, initargs=(3,)) as pool:
        told = pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert told.result(timeout=20) == min(19, own + 3)


@pytest.mark.parametrize(("threads", "prefetch"), [(6, 2), (2, 4)])
def test_all_decoding_threads_are_at_work(threads: int, prefetch: int) -> None:
    """As many batches are decoded at once as there are threads, however few are to lie ready; and
    they come in order."""
    together = threading.Barrier(threads)

    class Slow:
        def __getitem__(self, request: int) -> int:
            together.wait(timeout=20)  # broken where fewer are at work
            return request

    config = DataConfig(threads=threads, prefetch=prefetch)
    source = Threads(Slow(), itertools.count(), config)  # type: ignore[arg-type]
    try:
        assert [source.next() for _ in range(threads)] == list(range(threads))
    finally:
        together.abort()
        source.close()
