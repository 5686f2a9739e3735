"""Everything that a run says: metric log, progress, Prometheus. The only module that prints numbers.

Rank 0 speaks; on other ranks every method returns at once. A step costs a few assignments and, when
it is logged, one line of `metrics.jsonl`. A full disk costs lines, which are counted, not the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.errors import UserError
from trainer.commit import update_json
from trainer.endpoint import Endpoint, Values
from trainer.journal import Journal
from trainer.leaving import RUN_FILE
from trainer.screen import STYLES, open_screen

METRICS_FILE = "metrics.jsonl"
WAIT_PHASE = "data"

log = logging.getLogger("navsynth")


@dataclass(frozen=True)
class TelemetryConfig:
    """What a run shows, and where."""

    endpoint: bool = True
    """Serve Prometheus metrics while training (rank 0)."""
    address: str = "127.0.0.1"
    """Address of the endpoint; loopback unless you choose otherwise: it has no password."""
    port: int = 0
    """Port of the endpoint; 0: any free one (see run.json); a port that is taken: the next free."""
    log: str = "auto"
    """auto (a bar in a terminal, lines elsewhere) | bar | lines | json | none."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65435:
            raise UserError(f"telemetry.port: {self.port} is not in 0..65435")
        if self.log not in STYLES:
            raise UserError(f"telemetry.log: {self.log!r} is none of {', '.join(STYLES)}")


class Progress(NamedTuple):
    """How much of a run is done: `done` of `total` in `unit` (steps or seconds)."""

    done: float
    total: float
    unit: str = "steps"

    @property
    def ratio(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


class Telemetry:
    """Speaks for one run from construction to `close`."""

    def __init__(
        self,
        folder: str | Path,
        config: TelemetryConfig,
        *,
        rank: int = 0,
        start_step: int = 0,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log for what follows `start_step`: lines of later steps, written by a life of
        this run whose checkpoint is not the one restored, are cut off.

        Args:
            info: labels of `navsynth_run_info`: run, preset, world.
        """
        self._folder, self._rank = Path(folder), rank
        self.values: Values | None = None
        self.endpoint: Endpoint | None = None
        if rank:
            return
        self.values = Values()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._folder / METRICS_FILE, start_step=start_step)
        self._screen = open_screen(config.log)
        self._begun, self._begun_ratio = time.monotonic(), None
        self._describe(info or {})
        if config.endpoint:
            self.endpoint = Endpoint(self.values, address=config.address, port=config.port)
            where = {"address": self.endpoint.address, "port": self.endpoint.port}
            update_json(self._folder / RUN_FILE, metrics=where)

    def count(self, *, clips: int, frames: int, phases: Mapping[str, float]) -> None:
        """Count one step: global clips and frames, seconds by phase. Called at every step."""
        if self.values is None:
            return
        self.values.add("navsynth_steps_total")
        self.values.add("navsynth_clips_total", clips)
        self.values.add("navsynth_frames_total", frames)
        self.values.observe("navsynth_step_seconds", sum(phases.values()), phase="all")
        for phase, seconds in phases.items():
            self.values.observe("navsynth_step_seconds", seconds, phase=phase)
        self.values.add("navsynth_loader_wait_seconds_total", phases.get(WAIT_PHASE, 0.0))

    def step(
        self,
        step: int,
        *,
        terms: Mapping[str, float],
        psnr: float,
        clips_per_second: float,
        progress: Progress,
        rates: Mapping[str, float] | None = None,
        norms: Mapping[str, float] | None = None,
        phases: Mapping[str, float] | None = None,
        **more: float | int | str,
    ) -> None:
        """Log a step: a line of the journal, the progress display, and the gauges.

        Args:
            terms: loss terms by name.
            psnr: dB, of the training step.
            phases: seconds by phase since the last logged step.
        """
        if self.values is None:
            return
        eta = self._eta(progress)
        self._gauges(step, terms, psnr, progress, eta, rates or {}, norms or {})
        self._write(
            {
                "kind": "step",
                "step": step,
                "time": round(time.time(), 3),
                "psnr": psnr,
                "clips_per_second": clips_per_second,
                **_flat("loss", terms),
                **_flat("rate", rates or {}),
                **_flat("norm", norms or {}),
                **_flat("time", phases or {}),
                **more,
            }
        )
        self._screen.step(step, terms, psnr, clips_per_second, progress.ratio, eta)

    def note(self, event: str, *, step: int, text: str = "", **facts: Any) -> None:
        """Log something that happened: started, checkpoint, evaluation, damage, preempted, ..."""
        if self.values is None:
            return
        line = {"kind": "event", "event": event, "step": step, "time": round(time.time(), 3)}
        self._write({**line, **facts})
        if text:
            self._screen.say(text)

    def saved(self, step: int, *, path: Path | None, seconds: float, size: int) -> None:
        """Log the outcome of a checkpoint; `path` None: it failed. `size` in bytes."""
        if self.values is None:
            return
        outcome = "failed" if path is None else "committed"
        self.values.add("navsynth_checkpoints_total", outcome=outcome)
        self.values.observe("navsynth_checkpoint_seconds", seconds)
        if path is not None:
            self.values.set("navsynth_checkpoint_bytes", size)
            self.values.set("navsynth_checkpoint_timestamp_seconds", time.time())
        self.note("checkpoint", step=step, outcome=outcome, seconds=seconds, bytes=size)

    def say(self, text: str) -> None:
        """Show a line beside the progress."""
        if self.values is not None:
            self._screen.say(text)

    def close(self) -> None:
        """Make the log durable, end the display and the endpoint."""
        if self.values is None:
            return
        self._screen.close()
        self._journal.close()
        if self.endpoint is not None:
            self.endpoint.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self.values is not None
        if not self._journal.write(line):
            self.values.add("navsynth_log_lines_dropped_total")

    def _gauges(
        self,
        step: int,
        terms: Mapping[str, float],
        psnr: float,
        progress: Progress,
        eta: float | None,
        rates: Mapping[str, float],
        norms: Mapping[str, float],
    ) -> None:
        values = self.values
        assert values is not None
        values.set("navsynth_step", step)
        values.set("navsynth_psnr_decibels", psnr)
        values.set("navsynth_progress_ratio", progress.ratio)
        if eta is not None:
            values.set("navsynth_eta_seconds", eta)
        for term, value in terms.items():
            values.set("navsynth_loss", value, term=term)
        for group, value in rates.items():
            values.set("navsynth_learning_rate", value, group=group)
        for group, value in norms.items():
            values.set("navsynth_gradient_norm", value, group=group)

    def _eta(self, progress: Progress) -> float | None:
        """Seconds left at the pace of this process; None before there is one."""
        if self._begun_ratio is None:
            self._begun, self._begun_ratio = time.monotonic(), progress.ratio
            return None
        gained = progress.ratio - self._begun_ratio
        passed = time.monotonic() - self._begun
        return passed / gained * (1 - progress.ratio) if gained > 0 else None

    def _describe(self, info: Mapping[str, Any]) -> None:
        import torch

        from trainer import VERSION

        assert self.values is not None
        self.values.set("navsynth_build_info", 1, version=VERSION, torch=str(torch.__version__))
        labels = {name: str(info.get(name, "")) for name in ("run", "preset", "world")}
        self.values.set("navsynth_run_info", 1, **labels)
        self.values.set("navsynth_ranks", int(info.get("world", 1)))


def _flat(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
