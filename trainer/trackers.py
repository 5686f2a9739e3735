"""Trackers by name, through Accelerate: TensorBoard, Weights & Biases, MLflow and others.

A tracker lives in a thread of its own, since some talk to servers: training hands a line over and
goes on. When a tracker is behind, lines are dropped and counted; when it fails, it is told once and
training goes on without it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_shards.errors import UserError

WAITING = 256
"""Lines that wait for a slow tracker at most."""
CLOSE_SECONDS = 30.0
"""A tracker that has not finished within this time is left behind."""
PLACES = {
    "wandb": ("WANDB_DIR", "{folder}"),
    "mlflow": ("MLFLOW_TRACKING_URI", "sqlite:///{folder}/mlflow.db"),
}
"""Variables that say where a tracker keeps its files: in the run folder, where they are not set."""

log = logging.getLogger("navsynth")


def _names(trackers: str) -> list[str]:
    return [name.strip() for name in trackers.split(",") if name.strip()]


def check_trackers(trackers: str) -> None:
    """Raise `UserError` for a name that Accelerate does not know."""
    if not trackers:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # takes a second, and few runs need it

    for name in _names(trackers):
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))
            raise UserError(f"telemetry.trackers: {name!r} is none of {known}")


class Trackers:
    """The trackers of one run; without names it does nothing."""

    def __init__(
        self, trackers: str, *, folder: Path, run: str, settings: Mapping[str, Any]
    ) -> None:
        """`trackers`: names, comma-separated; `settings`: kept by the trackers, flattened.

        Raises:
            UserError: a tracker's library is not installed.
        """
        for name in _names(trackers):
            if name not in _installed():
                raise UserError(f"telemetry.trackers: {name} is not installed; pip install {name}")
        flat = dict(_flat(settings))
        self._feeds = [_Feed(name, folder, run, flat) for name in _names(trackers)]

    def log(self, step: int, values: Mapping[str, float]) -> int:
        """Hand a line to every tracker; how many could not take it."""
        return sum(not feed.put((step, dict(values))) for feed in self._feeds)

    def close(self) -> None:
        """Have every tracker finish what it was given."""
        for feed in self._feeds:
            feed.close()


class _Feed:
    """One tracker, made and used by one thread."""

    def __init__(self, name: str, folder: Path, run: str, settings: dict[str, Any]) -> None:
        self._name, self._lines = name, queue.Queue(WAITING)
        args = (folder / "trackers", run, settings)
        self._thread = threading.Thread(target=self._run, args=args, daemon=True, name=name)
        self._failed = threading.Event()
        self._thread.start()

    def put(self, line: tuple[int, dict[str, float]] | None) -> bool:
        """Hand over a line (None: the end); False when there is no room."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return not self._failed.is_set()

    def close(self) -> None:
        """Wait for the tracker to finish, for a bounded time."""
        if self._failed.is_set():
            return
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            log.warning("telemetry.trackers: %s hangs; its last lines are lost", self._name)
            return
        self._thread.join(CLOSE_SECONDS)

    def _run(self, folder: Path, run: str, settings: dict[str, Any]) -> None:
        try:
            tracker = _make(self._name, folder, run)
            tracker.store_init_configuration(settings)
            while (line := self._lines.get()) is not None:
                step, values = line
                tracker.log(values, step=step)
            tracker.finish()
        except Exception as error:  # libraries of others, with errors of their own
            self._failed.set()
            log.warning("telemetry.trackers: %s: %s; training goes on", self._name, error)


def _installed() -> set[str]:
    """Names that can be used: built in and installed, or registered with Accelerate."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    missing = {kind.value for kind in LoggerType} - {k.value for k in get_available_trackers()}
    return {str(name) for name in LOGGER_TYPE_TO_CLASS} - missing


def _make(name: str, folder: Path, run: str) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if name in PLACES:
        variable, place = PLACES[name]
        os.environ.setdefault(variable, place.format(folder=folder))
    kind: Any = LOGGER_TYPE_TO_CLASS[name]  # type: ignore[index]
    tracker = kind(run, folder) if getattr(kind, "requires_logging_directory", False) else kind(run)
    start = getattr(tracker, "start", None)
    if start is not None:
        start()
    return tracker


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found.append((f"{prefix}{name}", value if plain else str(value)))
    return found
