"""Everything that a run says: metric log, progress, Prometheus. Only this room prints numbers.

Rank 0 speaks; on other ranks every method returns at once. A step costs a few assignments and, when
it is logged, one line of `metrics.jsonl`. A full disk costs lines, which are counted, not the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from trainer.commit import read_json, update_json
from trainer.endpoint import Endpoint, Values
from trainer.journal import Journal
from trainer.leaving import RUN_FILE
from trainer.metrics import BY_NAME
from trainer.screen import STYLES, Shown, open_screen

METRICS_FILE = "metrics.jsonl"
EVENTS = 200
"""Events that `run.json` keeps."""
GAUGES = {"psnr": "navsynth_psnr_decibels", "loader/queue": "navsynth_loader_queue_batches"}
"""Value names of `Telemetry.step` and the gauges that show them."""
GROUPS = {
    "loss": "navsynth_loss",
    "lr": "navsynth_learning_rate",
    "gradient_norm": "navsynth_gradient_norm",
    "update_norm": "navsynth_update_norm",
}
"""The same for names such as `loss/rec`; what follows the slash is the label."""
TOTALS = {
    "loader/wait_seconds": "navsynth_loader_wait_seconds_total",
    "shards/bytes": "navsynth_shard_read_bytes_total",
    "shards/retries": "navsynth_shard_retries_total",
    "shards/damaged": "navsynth_clips_damaged_total",
}
"""The same for counts since the start of this process."""

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
        self._folder = Path(folder)
        self.values: Values | None = None
        self.endpoint: Endpoint | None = None
        if rank:
            return
        self.values = Values()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._folder / METRICS_FILE, start_step=start_step)
        self._screen = open_screen(config.log)
        self._pace = Pace()
        self._totals: dict[str, float] = {}
        self._describe(info or {})
        if config.endpoint:
            self.endpoint = Endpoint(self.values, address=config.address, port=config.port)
            where = {"address": self.endpoint.address, "port": self.endpoint.port}
            update_json(self._folder / RUN_FILE, metrics=where)

    def count(self, *, clips: int, frames: int) -> None:
        """Count one step of all ranks: clips trained on, frames generated. Called every step."""
        if self.values is None:
            return
        seconds = self._pace.count(clips)
        self.values.add("navsynth_steps_total")
        self.values.add("navsynth_clips_total", clips)
        self.values.add("navsynth_frames_total", frames)
        if seconds is not None:
            self.values.observe("navsynth_step_seconds", seconds, phase="all")

    def step(self, step: int, values: Mapping[str, float], *, seconds: float, done: float) -> None:
        """Log a step: a line of the journal, the display, and the endpoint's values.

        Args:
            values: by name; `GAUGES`, `TOTALS` and `time/PHASE` (seconds since the last logged
                step) say which of them the endpoint shows. All go into the journal.
            seconds: training time of all lives of the run.
            done: share of the run, 0 to 1.
        """
        if self.values is None:
            return
        clips_per_second, steps = self._pace.lap()
        eta = self._pace.eta(done)
        self.values.set("navsynth_step", step)
        self.values.set("navsynth_progress_ratio", done)
        if eta is not None:
            self.values.set("navsynth_eta_seconds", eta)
        for name, value in values.items():
            self._expose(name, float(value), steps)
        line = {"step": step, "time": round(time.time(), 3), "seconds": seconds}
        self._write({**line, **values, "clips_per_second": clips_per_second})
        self._screen.step(Shown(step, values, clips_per_second, done, eta))

    def note(self, kind: str, *, step: int, text: str, **facts: Any) -> None:
        """Show something rare that happened, and keep it in `run.json` under `events`."""
        if self.values is None:
            return
        self._screen.say(text)
        path = self._folder / RUN_FILE
        event = {"time": round(time.time(), 3), "kind": kind, "step": step, "text": text, **facts}
        try:
            events = [*read_json(path).get("events", []), event]
            update_json(path, events=events[-EVENTS:])
        except (OSError, ValueError) as error:
            log.warning("%s: event not kept: %s", path, error)

    def saved(self, path: Path | None, *, seconds: float, size: int) -> None:
        """Count a checkpoint; `path` None: it could not be written. `size` in bytes."""
        if self.values is None:
            return
        outcome = "failed" if path is None else "committed"
        self.values.add("navsynth_checkpoints_total", outcome=outcome)
        self.values.observe("navsynth_checkpoint_seconds", seconds)
        if path is not None:
            self.values.set("navsynth_checkpoint_bytes", size)
            self.values.set("navsynth_checkpoint_timestamp_seconds", time.time())

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

    def _expose(self, name: str, value: float, steps: int) -> None:
        assert self.values is not None
        group, _, label = name.partition("/")
        if group == "time":
            self.values.observe("navsynth_step_seconds", value / max(1, steps), phase=label)
        elif name in TOTALS:
            self.values.add(TOTALS[name], max(0.0, value - self._totals.get(name, 0.0)))
            self._totals[name] = value
        elif name in GAUGES:
            self.values.set(GAUGES[name], value)
        elif group in GROUPS:
            metric = GROUPS[group]
            self.values.set(metric, value, **{BY_NAME[metric].labels[0]: label})

    def _describe(self, info: Mapping[str, Any]) -> None:
        assert self.values is not None
        versions = {"version": version("navsynth"), "torch": version("torch")}
        self.values.set("navsynth_build_info", 1, **versions)
        labels = {name: str(info.get(name, "")) for name in ("run", "preset", "world")}
        self.values.set("navsynth_run_info", 1, **labels)
        self.values.set("navsynth_ranks", int(info.get("world", 1)))


class Pace:
    """Clips per second since the last logged step, and the time left. Knows no clock but this
    process's monotonic one."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._lap: float | None = None
        self._first: float | None = None
        self._clips = self._steps = 0
        self._first_done = 0.0

    def count(self, clips: int) -> float | None:
        """Seconds of the step that ends now; None for the first."""
        now = time.perf_counter()
        seconds = None if self._last is None else now - self._last
        if self._last is not None:
            self._clips += clips
        else:
            self._lap = now
        self._steps += 1
        self._last = now
        return seconds

    def lap(self) -> tuple[float, int]:
        """Clips per second and steps since the last call."""
        now = time.perf_counter()
        passed = now - self._lap if self._lap is not None else 0.0
        pace = self._clips / passed if passed > 0 else 0.0
        steps, self._clips, self._steps, self._lap = self._steps, 0, 0, now
        return pace, steps

    def eta(self, done: float) -> float | None:
        """Seconds left at the pace of this process; None before there is one."""
        now = time.perf_counter()
        if self._first is None:
            self._first, self._first_done = now, done
            return None
        gained = done - self._first_done
        return (now - self._first) / gained * (1 - done) if gained > 0 else None
