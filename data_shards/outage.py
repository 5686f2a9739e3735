"""Failures of a store, told to those who wait for the same file; and waits that can be ended.

Whoever waited while another process tried in vain has waited for the stated time, too: it is told
of that failure instead of trying for as long again.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from data_shards import disk
from data_shards.errors import UserError


@contextlib.contextmanager
def told(place: Path, stop: threading.Event) -> Iterator[None]:
    """Leave the reason in a file where the body fails, and none where it does not; a body that was
    ended by `stop` says nothing of the store."""
    try:
        yield
    except UserError as error:
        if not stop.is_set():
            with contextlib.suppress(OSError):  # the first error is the one to tell
                disk.write_whole(place, disk.dump({"at": time.time(), "reason": str(error)}))
        raise
    place.unlink(missing_ok=True)


def heed(place: Path, *, since: float) -> None:
    """`UserError` where another failed at a time after `since`."""
    try:
        facts = json.loads(place.read_bytes())
        late, reason = facts["at"] > since, str(facts["reason"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or what is left of one
        return
    if late:
        raise UserError(reason)


def pause(seconds: float, stop: threading.Event) -> None:
    """`UserError` where the wait was ended."""
    if stop.wait(seconds):
        raise UserError("download abandoned")
