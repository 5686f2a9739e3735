"""Watches the processes of a local Ray: without them the driver would wait for ever.

Ray's driver does not end when its raylet is killed, and what it waits for never comes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tuning import processes

NAMES = ("raylet", "gcs_server")
EVERY = 0.5


class RayLost(Exception):  # noqa: N818
    """A process of Ray's own is gone, and the search cannot go on in this life."""


def rays_own() -> dict[str, processes.Process]:
    """Raylet and control store below this process, by name."""
    found = {}
    for known in processes.descendants(os.getpid()):
        try:
            words = Path(f"/proc/{known.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        name = os.path.basename(words[0]).decode(errors="replace")  # noqa: PTH119
        if name in NAMES:
            found[name] = known
    return found


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does: the search ends, trainings save. To be entered once Ray is
    connected, which puts a handler of its own in place."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Guard:
    """From construction to `stop`: sends this process SIGTERM once a process of Ray's is gone."""

    def __init__(self, watched: Mapping[str, processes.Process]) -> None:
        """`watched`: processes by name, such as `rays_own`; none for somebody else's Ray."""
        self.lost = ""
        """Name of what is gone."""
        self._over = threading.Event()
        self._watched = dict(watched)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict:
        """What `gone` needs: Ray pickles whatever it is given, and a thread cannot be."""
        return {"lost": self.lost, "_watched": self._watched}

    def gone(self) -> list[str]:
        """Names of those that have ended, as of now."""
        return [name for name, known in self._watched.items() if not processes.alive(known)]

    def stop(self) -> None:
        """Watch no longer. Safe to call twice."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            if gone := self.gone():
                self.lost = gone[0]
                os.kill(os.getpid(), signal.SIGTERM)
                return
