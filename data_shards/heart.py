"""Calls that may hang: run in a thread of their own, and given up when nothing more is heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import tenacity

from data_shards.errors import UserError


def heartbeat(beat: Callable[[], None], *, most: int, error: UserError) -> Any:
    """What fsspec tells of bytes that come: each is a `beat`, and one more than `most` an error."""
    from fsspec.callbacks import Callback

    class Heartbeat(Callback):
        came = 0

        def relative_update(self, inc: int = 1) -> None:
            self.came += inc
            if self.came > most:
                raise error
            beat()

    return Heartbeat()


class Failure:
    """The end of a guarded call that has no result; `error` is None for silence."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Watch:
    """Runs a call in a daemon thread and gives up on it when its heart stops."""

    def __init__(self, timeout: float, stop: threading.Event) -> None:
        self.timeout, self.stop = timeout, stop
        self.last, self.failures = time.monotonic(), 0
        self.error: BaseException | None = None
        self.outcome: list[Any] = []
        self.done = threading.Event()

    def beat(self) -> None:
        """A sign of life; ends the call where nobody waits for it any more."""
        if self.stop.is_set() or self.over():
            raise UserError("download abandoned")
        self.last = time.monotonic()

    def over(self) -> bool:
        """Whether the heart has stopped."""
        return self.stop.is_set() or time.monotonic() - self.last > self.timeout

    def failed(self, state: tenacity.RetryCallState) -> None:
        """Remember a failure that will be tried again."""
        self.failures += 1
        self.error = state.outcome.exception() if state.outcome else None

    def run(self, call: Callable[[], Any]) -> Any:
        """The call's result, or a `Failure`."""

        def body() -> None:
            try:
                self.outcome.append(call())
            except Exception as error:
                self.outcome.append(Failure(error))
            self.done.set()

        threading.Thread(target=body, name="navsynth-store", daemon=True).start()
        while not self.done.wait(min(0.1, self.timeout / 4)):
            if self.over():
                return self.outcome[0] if self.outcome else Failure(self.error)
        return self.outcome[0]
