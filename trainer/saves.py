"""Checkpoints as the loop makes them: saved or committed, timed, and told to telemetry."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from trainer.checkpoint import Checkpointer
from trainer.commit import step_of
from trainer.telemetry import Telemetry

LONG_SECONDS = 10.0
"""Training that waited longer for a checkpoint to be written is told of."""


class Saves:
    """A `Checkpointer` whose outcomes are counted. All ranks call it together."""

    def __init__(self, checkpoints: Checkpointer, telemetry: Telemetry, *, saved: int = -1) -> None:
        """`saved`: step of the checkpoint that the run goes on from."""
        self.checkpoints, self._telemetry = checkpoints, telemetry
        self._began: float | None = None
        self._saving = self._saved = saved

    def save(self, step: int, *, background: bool = False, **parts: Any) -> None:
        """As `Checkpointer.save`; a save that is still being written is committed first."""
        self.finish()
        if step == self._saved:
            return
        self._began, self._saving = time.perf_counter(), step
        if background:
            self.checkpoints.save(step, background=True, **parts)
        else:
            self._tell(lambda: self.checkpoints.save(step, **parts))

    def require(self, step: int) -> None:
        """`UserError`, on all ranks, where a step is not saved: `checkpoint.on_full=continue` lets
        training go on without a checkpoint, not end."""
        if self._saved != step:
            raise UserError(
                f"checkpoint: step {step}, the last, could not be saved; free some space or mend "
                "the disk, and run the same command again"
            )

    def poll(self, *, ready: bool) -> None:
        """Commit a background save once all ranks have agreed that they are `ready`."""
        if self._began is not None and ready:
            self._tell(lambda: self.checkpoints.poll(ready=True))

    def finish(self) -> None:
        """Commit a background save, waiting for it; the rows' next snapshot may be taken then."""
        if self._began is None:
            return
        start = time.perf_counter()
        self._tell(self.checkpoints.finish)
        waited = time.perf_counter() - start
        if waited > LONG_SECONDS:
            self._telemetry.say(
                f"training waited {waited:.0f} s for the checkpoint of step {self._saving} to be "
                "written; larger checkpoint.minutes or checkpoint.steps spare that, and a kill "
                "costs more"
            )

    def back(self) -> Path | None:
        """The newest whole checkpoint, once what is being written is committed; later steps will be
        saved again."""
        self.finish()
        newest = self.checkpoints.recover()
        self._saved = -1 if newest is None else step_of(newest.name) or 0
        return newest

    def _tell(self, action: Callable[[], Path | None]) -> None:
        """Do it, and count how it went."""
        assert self._began is not None
        began, self._began = self._began, None
        path = None
        try:
            path = action()
            self._saved = self._saved if path is None else self._saving
        finally:
            seconds = time.perf_counter() - began
            self._telemetry.saved(path, seconds=seconds, size=self.checkpoints.last_bytes)
