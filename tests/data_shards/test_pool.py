"""Many processes: how far they work ahead, and what is said when one of them dies."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from data_shards.choice import listing_of
from data_shards.errors import UserError
from data_shards.footage import Item
from data_shards.options import Options
from data_shards.pool import HELD_BYTES, Waiting, full, results
from data_shards.writer import Clip, Result
from tests.support import raw_footage as raw


def test_a_process_killed_while_the_footage_is_read(tmp_path: Path) -> None:
    """Handing out the next video tells of it in one line that names a video, as waiting does."""
    root = raw.strips(tmp_path / "in", frames=8)
    options = Options(source="strips", root=str(root), frames=4, height=16, width=16)
    others = set(multiprocessing.active_children())

    def items() -> Iterator[Item]:
        for number, item in enumerate(listing_of(options).items):
            if number == 3:
                workers = list(set(multiprocessing.active_children()) - others)
                assert len(workers) == 2
                workers[0].kill()
                assert all(wait([worker.sentinel], 60) for worker in workers)
            yield item

    with pytest.raises(UserError, match=r"^a process died while reading action\d/person\d or one"):
        list(results(items(), options, workers=2))


def test_large_videos_are_not_read_far_ahead() -> None:
    """Every process has a video and one more waits; beyond that, what is held here is bounded."""

    def waiting(size: int, *, clips: int | None = None) -> Waiting:
        future: Future[Result] = Future()
        if clips is not None:
            clip = Clip(0, 4, bytes(clips), 0)
            future.set_result(Result("v", "", "", 4, (clip,), ""))
        return Waiting(Item("v", payload=(bytes(size),)), future)

    assert not full([waiting(HELD_BYTES), waiting(HELD_BYTES)], 2)
    assert full([waiting(HELD_BYTES) for _ in range(3)], 2)
    assert not full([waiting(1) for _ in range(7)], 2)
    assert full([waiting(1) for _ in range(8)], 2)
    assert not full([waiting(HELD_BYTES, clips=1) for _ in range(3)], 2)
    assert full([waiting(1, clips=HELD_BYTES) for _ in range(3)], 2)
