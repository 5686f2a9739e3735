"""Videos to clips on many processes, in order: the results do not depend on how many."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import count
from pathlib import Path

from data_shards import frames, images, payloads
from data_shards.errors import UserError
from data_shards.footage import Item, UnusableError
from data_shards.manifest import content_of
from data_shards.options import Options
from data_shards.sources import SOURCES
from data_shards.writer import Clip, Result

_AHEAD = 4


def read_video(item: Item, options: Options) -> Result:
    """Decode one video, cut and encode its clips; a video that cannot be used has a reject reason.

    Raises:
        UserError: the disk with the footage fails.
    """
    try:
        if item.refusal:
            raise UnusableError(item.refusal)
        clips, total = _clips(item, options)
    except UnusableError as error:
        return Result(item.name, item.identity, item.action, 0, (), str(error))
    except OSError as error:
        if error.errno in (errno.EIO, errno.ESTALE):
            raise UserError(
                f"{error.filename or item.name}: {error.strerror}; check the disk"
            ) from None
        reason = f"cannot be read ({error.strerror or error})"
        return Result(item.name, item.identity, item.action, 0, (), reason)
    return Result(item.name, item.identity, item.action, total, tuple(clips), "")


def _clips(item: Item, options: Options) -> tuple[list[Clip], int]:
    footage = SOURCES[options.source].read(item, Path(options.root), options.about)
    cutting = {"frames": options.frames, "stride": options.stride}
    least = frames.shortest(**cutting)
    if footage.count and footage.count < least:
        raise UnusableError(_too_short(footage.count, least))

    counter = count()
    counted = (frame_HWC for frame_HWC, _ in zip(footage.frames, counter, strict=False))
    size = {"height": options.height, "width": options.width}
    prepare = partial(images.fit, **size, crop=options.crop, how=options.fit)
    cuts = frames.cut(counted, **cutting, windows=options.windows, prepare=prepare)
    clips = [_encode(start, pixels, options.codec) for start, pixels in cuts]
    seen = next(counter)
    if not clips:
        raise UnusableError(_too_short(seen, least))
    return clips, max(seen, footage.count)


def _encode(start: int, frames_THWC, codec: str) -> Clip:
    try:
        payload = payloads.encode(frames_THWC, codec)
    except ValueError as error:
        raise UnusableError(str(error)) from None
    return Clip(start, len(frames_THWC), payload, content_of(frames_THWC))


def _too_short(frames: int, least: int) -> str:
    return f"too short: {frames} frames, a clip takes {least}"


def results(items: Iterable[Item], options: Options, *, workers: int) -> Iterator[Result]:
    """`read_video` of each item in their order, on `workers` processes (0 or 1: in this one).

    Raises:
        UserError: a process died.
    """
    if workers <= 1:
        yield from (read_video(item, options) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[str, Future[Result]]] = deque()
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            for item in items:
                waiting.append((item.name, pool.submit(read_video, item, options)))
                if len(waiting) >= _AHEAD * workers:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _next(waiting: deque[tuple[str, Future[Result]]]) -> Result:
    name, future = waiting[0]
    try:
        result = future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a process died while reading {name} or one of the {len(waiting) - 1} videos after "
            "it; run the same command with --workers 1 to see which"
        ) from None
    waiting.popleft()
    return result


def _end_with_parent() -> None:
    """A killed parent must not leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
