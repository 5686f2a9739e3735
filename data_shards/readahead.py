"""How requests become clips: from memory, on threads, or in loader processes; always in order."""

from __future__ import annotations

import atexit
import contextlib
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing.sharedctypes import RawArray
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, get_worker_info

from data_shards.config import DataConfig
from data_shards.cores import DECODING, give_way
from data_shards.dataset import ClipReader, Part, Request
from data_shards.errors import LoaderLost
from data_shards.memory import Resident

LOST = "DataLoader worker (pid"
"""How torch begins to tell of a loader process that died."""
_LOOK = 0.005
"""Seconds between two looks at whether loader processes have read a batch."""


class Source(Protocol):
    """Reads requests one after the other."""

    def next(self) -> Part:
        """The next part, waiting for it."""
        ...

    def wait(self, seconds: float) -> bool:
        """Whether the next part is there, after so many seconds at most."""
        ...

    def ready(self) -> int:
        """Parts that lie ready."""
        ...

    def cancel(self) -> None:
        """Begin to read no further part."""
        ...

    def close(self) -> None:
        """End threads and processes."""
        ...


class Memory:
    """Gathers from memory."""

    def __init__(self, resident: Resident, requests: Iterator[Request]) -> None:
        self._resident, self._requests = resident, requests

    def next(self) -> Part:
        """Gather the next batch."""
        request = next(self._requests)
        frames_BTCHW, valid_B = self._resident.gather(request)
        return Part(request, frames_BTCHW, valid_B, (), 0, 0, "")

    def wait(self, seconds: float) -> bool:
        """The next batch always is there."""
        return True

    def ready(self) -> int:
        """The next batch always is."""
        return 1

    def cancel(self) -> None:
        """Nothing is read any more."""

    def close(self) -> None:
        """Nothing to end."""


class Threads:
    """Reads ahead on threads of this process."""

    def __init__(self, reader: ClipReader, requests: Iterator[Request], config: DataConfig) -> None:
        self._reader, self._requests = reader, requests
        threads = config.decoding_threads()
        self._pool = ThreadPoolExecutor(
            threads, "navsynth-stream", initializer=give_way, initargs=(DECODING,)
        )
        self._queue: deque[Future[Part]] = deque()
        for _ in range(max(config.prefetch, threads)):  # a batch is decoded by one thread
            self._ask()

    def next(self) -> Part:
        """The oldest batch asked for."""
        part = self._queue.popleft().result()
        self._ask()
        return part

    def wait(self, seconds: float) -> bool:
        """Whether the oldest batch asked for is there."""
        return bool(wait(list(self._queue)[:1], seconds).done)

    def ready(self) -> int:
        """Batches decoded."""
        return sum(future.done() for future in self._queue)

    def cancel(self) -> None:
        """Threads go on with what they are reading alone."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self) -> None:
        self._queue.append(self._pool.submit(self._reader.__getitem__, next(self._requests)))


class _Counted(torch.utils.data.Dataset):
    """A reader in a loader process that counts, in shared memory, what it has finished."""

    def __init__(self, reader: ClipReader, done: Any) -> None:
        self.reader, self.done = reader, done

    def __getitem__(self, request: Request) -> Part:
        info = get_worker_info()
        try:
            part = self.reader[request]
        finally:  # an error is a part, too, for who waits for one
            self.done[info.id if info else 0] += 1
        # An array travels inside the message; a tensor, however small, has shared memory of its
        # own, for which both processes wait on each other.
        return part._replace(valid_B=part.valid_B.numpy())  # type: ignore[arg-type]


class Processes:
    """Reads ahead in loader processes."""

    def __init__(self, reader: ClipReader, requests: Iterator[Request], config: DataConfig) -> None:
        self._done = RawArray("q", config.workers)
        self._taken = 0
        loader = DataLoader(
            _Counted(reader, self._done),
            batch_size=None,
            sampler=_Endless(requests),  # type: ignore[arg-type]
            collate_fn=_as_is,  # type: ignore[arg-type]
            num_workers=config.workers,
            prefetch_factor=config.prefetch,
            multiprocessing_context=config.worker_start,
            worker_init_fn=_deaf,
            generator=torch.Generator(),  # the seeds of its processes are not to be torch's next
        )
        self._iterator: Iterator[Part] | None = iter(loader)
        # The processes do not hear SIGTERM, with which multiprocessing would end them at exit; so
        # they are ended before it comes to that. Registered last, this runs first.
        self._at_exit = _closer(weakref.ref(self))
        atexit.register(self._at_exit)

    def next(self) -> Part:
        """The oldest batch asked for."""
        assert self._iterator is not None
        with _told():
            part = next(self._iterator)
        self._taken += 1
        return part._replace(valid_B=torch.from_numpy(part.valid_B))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> bool:
        """Whether the oldest batch asked for is there: the processes take turns."""
        turn, process = divmod(self._taken, len(self._done))
        end = time.monotonic() + seconds
        with _told():  # torch tells of a process that died wherever this one is
            while self._done[process] <= turn and time.monotonic() < end:
                time.sleep(_LOOK)
        return self._done[process] > turn

    def ready(self) -> int:
        """Batches decoded."""
        return sum(self._done) - self._taken

    def cancel(self) -> None:
        """The processes are ended in what they are doing."""

    def close(self) -> None:
        """End the processes."""
        self._iterator = None  # Its finaliser ends the processes and waits for them.
        atexit.unregister(self._at_exit)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell that a loader process died as `LoaderLost`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(LOST):
            raise  # a bug in the process, which lives
        raise LoaderLost(
            f"data.workers: a loader process is gone ({str(error).splitlines()[0]}); "
            "if memory ran out, lower data.workers or data.prefetch"
        ) from error


def _closer(held: Callable[[], Processes | None]) -> Callable[[], None]:
    def close() -> None:
        processes = held()
        if processes is not None:
            processes.close()

    return close


class _Endless:
    """A sampler over an endless iterator."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self._requests


def _deaf(_worker: int) -> None:
    """Leave signals to the rank: clusters and terminals send them to every process, and a rank
    that is asked to stop takes one more step."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _as_is(part: Part) -> Part:
    return part
