"""Failures of a store, told to those who wait for the same file; and waits that can be ended.

Whoever waited while another process tried in vain has waited for the stated time, too: it is told
of that failure instead of trying for as long again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data_shards.errors import UserError


def known(place: Path) -> bytes:
    """The failure that a file tells of before a wait begins; nothing where there is none."""
    with contextlib.suppress(OSError):
        return place.read_bytes()
    return b""


@contextlib.contextmanager
def told(place: Path, stop: threading.Event, *, store: str, timeout: float) -> Iterator[None]:
    """Leave the reason in a file where the body fails, and none where it does not; a body that was
    ended by `stop` says nothing of the store."""
    try:
        yield
    except UserError as error:
        if not stop.is_set():
            facts = {"store": store, "timeout": timeout, "reason": str(error)}
            with contextlib.suppress(OSError):  # the first error is the one to tell
                place.write_text(json.dumps({**facts, "of": secrets.token_hex(8)}))
        raise
    place.unlink(missing_ok=True)


def heed(place: Path, before: bytes, *, store: str, timeout: float) -> None:
    """`UserError` where another failed since `before` was `known`: with the same store, in no less
    time than this one would take."""
    now = known(place)
    try:
        facts = json.loads(now)
        same = facts["store"] == store and facts["timeout"] >= timeout
        reason = str(facts["reason"])
    except (ValueError, KeyError, TypeError):  # none, or what is left of one
        return
    if same and now != before:
        raise UserError(reason)


class Motion:
    """Whether anything moves, looked at now and then."""

    def __init__(self, look: Callable[[], object], *, every: float) -> None:
        self._look, self._every = look, every
        self._seen, self._since = look(), time.monotonic()
        self._looked = self._since

    def still(self) -> float:
        """Seconds since the last change, or a little less."""
        now = time.monotonic()
        if now - self._looked >= self._every:
            self._looked = now
            if (found := self._look()) != self._seen:
                self._seen, self._since = found, now
        return self._looked - self._since


def pause(seconds: float, stop: threading.Event) -> None:
    """`UserError` where the wait was ended."""
    if stop.wait(seconds):
        raise UserError("download abandoned")
