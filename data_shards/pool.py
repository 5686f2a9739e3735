"""Videos to clips on many processes, in order: the results do not depend on how many."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import count
from pathlib import Path

from data_shards import frames, images, payloads
from data_shards.cores import cores as cores
from data_shards.errors import UserError
from data_shards.footage import Item, UnusableError
from data_shards.manifest import content_of
from data_shards.options import Options
from data_shards.sources import SOURCES
from data_shards.writer import Clip, Result

_AHEAD = 4
HELD_BYTES = 32 << 20
"""For each process: the most of its videos that are held here while an earlier one is read."""


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
    if footage.longest and footage.longest < least:
        raise UnusableError(_too_short(footage.longest, least, len(footage.segments)))

    counter = count()
    counted = (frame_HWC for frame_HWC, _ in zip(footage.frames, counter, strict=False))
    size = {"height": options.height, "width": options.width}
    prepare = partial(images.fit, **size, crop=options.crop, how=options.fit)
    cuts = frames.cut(
        counted,
        **cutting,
        windows=options.windows,
        prepare=prepare,
        segments=footage.segments,
    )
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


def _too_short(frames: int, least: int, segments: int = 1) -> str:
    where = f" in the longest of {segments} segments" if segments > 1 else ""
    return f"too short: {frames} frames{where}, a clip takes {least}"


class Waiting:
    """A video that was handed to a process and whose turn has not come."""

    def __init__(self, item: Item, future: Future[Result]) -> None:
        self.name, self.future = item.name, future
        self._bytes, self._read = sum(map(len, item.payload)), False

    def held(self) -> int:
        """Bytes that this process holds for it: of its files, and of its clips once it is read."""
        if not self._read and self.future.done():
            clips = () if self.future.exception() else self.future.result().clips
            self._bytes, self._read = sum(len(clip.payload) for clip in clips), True
        return self._bytes


def full(waiting: Collection[Waiting], workers: int) -> bool:
    """Whether to wait for the first of them before handing out another one.

    Each process has something to do, and there are enough videos or `HELD_BYTES` for each.
    """
    if len(waiting) <= workers:
        return False
    held = sum(video.held() for video in waiting)
    return len(waiting) >= _AHEAD * workers or held > HELD_BYTES * workers


def results(items: Iterable[Item], options: Options, *, workers: int) -> Iterator[Result]:
    """`read_video` of each item in their order, on `workers` processes (0 or 1: in this one).

    Raises:
        UserError: a process died.
    """
    if workers <= 1:
        yield from (read_video(item, options) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[Waiting] = deque()
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            for item in items:
                try:
                    with _no_interrupt():
                        waiting.append(Waiting(item, pool.submit(read_video, item, options)))
                except BrokenProcessPool as error:  # those before it may be whole, and come first
                    waiting.append(Waiting(item, Future()))
                    waiting[-1].future.set_exception(error)
                    break
                while full(waiting, workers):
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _next(waiting: deque[Waiting]) -> Result:
    first = waiting[0]
    try:
        result = first.future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a process died while reading {first.name} or one of the {len(waiting) - 1} videos "
            "after it; run the same command with --workers 1 to see which"
        ) from None
    waiting.popleft()
    return result


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that the body starts never hear Ctrl-C, which a terminal sends to all of them and
    is this one's to tell of; this one hears it behind the body."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A killed parent must not leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
