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


class Wait:
    """One call's wait for a file that it fetches, or that another one fetches meanwhile.

    Args:
        place: the file in which those who fetch leave why they failed; what it tells when the wait
            begins is no news.
        stop: ends the wait.
        store: failures with another one are none of this call's.
        timeout: seconds; failures of less patient ones are none, either.
    """

    def __init__(
        self, place: Path, stop: threading.Event | None, *, store: str, timeout: float
    ) -> None:
        self._place, self._stop = place, stop or threading.Event()
        self._store, self._timeout = store, timeout
        self._before = self._known()

    def heed(self) -> None:
        """`UserError` where another one has failed since the wait began."""
        now = self._known()
        try:
            facts = json.loads(now)
            same = facts["store"] == self._store and facts["timeout"] >= self._timeout
            reason = str(facts["reason"])
        except (ValueError, KeyError, TypeError):  # none, or one that is being written
            return
        if same and now != self._before:
            raise UserError(reason)

    def pause(self, seconds: float) -> None:
        """Wait on; `UserError` where another one has failed or the wait was ended."""
        self.heed()
        if self._stop.wait(seconds):
            raise UserError("download abandoned")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Leave the reason where the body fails, and none where it does not; a body that was ended
        by `stop` says nothing of the store."""
        try:
            yield
        except UserError as error:
            if not self._stop.is_set():
                facts = {"store": self._store, "timeout": self._timeout, "reason": str(error)}
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    self._place.write_text(json.dumps({**facts, "of": secrets.token_hex(8)}))
            raise
        self._place.unlink(missing_ok=True)

    def _known(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return self._place.read_bytes()
        return b""


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
