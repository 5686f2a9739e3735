"""Everything that a run says: metric log, progress, Prometheus. Only this room prints numbers.

Rank 0 speaks, one process of each other node serves that node's figures, all others are silent. A
step costs a few assignments and, when it is logged, a line of `metrics.jsonl`. A full disk costs
lines, which are counted, not the run.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.commit import read_json, update_json
from trainer.endpoint import Endpoint, Pusher, Values
from trainer.journal import Journal, lost_seconds
from trainer.leaving import RUN_FILE
from trainer.lives import with_event
from trainer.metrics import BY_NAME
from trainer.screen import Shown, open_screen
from trainer.targets import labels_of, targets_file, write_targets
from trainer.telemetry_config import TelemetryConfig
from trainer.timing import Pace
from trainer.trackers import Trackers
from trainer.vitals import own_version

METRICS_FILE = "metrics.jsonl"
GAUGES = {
    "psnr": "navsynth_psnr_decibels",
    "straggler": "navsynth_straggler_ratio",
    "rank_energy": "navsynth_rank_energy_ratio",
}
"""Value names of `Telemetry.step` and the gauges that show them."""
GROUPS = {
    "loss": "navsynth_loss",
    "lr": "navsynth_learning_rate",
    "gradient_norm": "navsynth_gradient_norm",
    "update_norm": "navsynth_update_norm",
    "evaluation": "navsynth_evaluation",
}
"""The same for names such as `loss/rec`; what follows the slash is the label."""
log = logging.getLogger("navsynth")


class Telemetry:
    """Speaks for one run from construction to `close`."""

    def __init__(
        self,
        folder: str | Path,
        config: TelemetryConfig,
        *,
        rank: int = 0,
        serve: bool | None = None,
        start_step: int = 0,
        done: float = 0.0,
        info: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log for what follows `start_step`: lines of later steps, written by a life of
        this run whose checkpoint is not the one restored, are cut off.

        Args:
            serve: whether this process shows its node's metrics; by default rank 0 does.
            done: share of the run that earlier lives have done, 0 to 1.
            info: run, preset and world, for `navsynth_run_info`.
            settings: what trackers keep beside the figures.

        Raises:
            UserError: no such address, a tracker that is not installed.
        """
        self._folder, self._config, self._first = Path(folder), config, rank == 0
        self.values: Values | None = None
        self.endpoint: Endpoint | None = None
        self.lost_seconds = 0.0
        """Training time of steps that an earlier life took and that must be taken again."""
        self._info = dict(info or {})
        self._run = str(self._info.get("run", self._folder.name))
        self._targets = targets_file(config.targets, run=self._run)
        if not (self._first if serve is None else serve):
            return
        self.values = Values()
        self._pusher: Pusher | None = None
        if self._first:
            self._open_log(start_step, settings or {})
            self._describe(done)
        if config.endpoint:
            self.endpoint = Endpoint(self.values, address=config.address, port=config.port)
        if config.push:
            # The next life of rank 0, wherever it is, takes the place of this one's figures.
            node = {} if self._first else {"node": socket.gethostname()}
            group = {"run": self._run, **node, **labels_of(config.labels)}
            self._pusher = Pusher(self.values, config.push, group=group)
        if self._first:
            self.announce([self.where])

    def _open_log(self, start_step: int, settings: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / METRICS_FILE
        self.lost_seconds = lost_seconds(path, step=start_step)
        self._trackers = Trackers(
            self._config.trackers, folder=self._folder, run=self._run, settings=settings
        )
        self._journal = Journal(path, start_step=start_step)
        self._screen = open_screen(self._config.log)
        self._pace = Pace()

    @property
    def where(self) -> dict[str, Any] | None:
        """Where this process's endpoint is: address, port, node."""
        if self.endpoint is None:
            return None
        node = socket.gethostname()
        return {"address": self.endpoint.address, "port": self.endpoint.port, "node": node}

    def announce(self, endpoints: Sequence[Mapping[str, Any] | None]) -> None:
        """Write the endpoints of all nodes (None: not one) into `run.json` and the targets file."""
        found = [dict(endpoint) for endpoint in endpoints if endpoint]
        if not self._first or not found:
            return
        update_json(self._folder / RUN_FILE, metrics={**found[0], "endpoints": found})
        if self._targets is not None:
            labels = {"run": self._run, **labels_of(self._config.labels)}
            write_targets(self._targets, found, labels=labels)

    def show(self, name: str, value: float, /, **labels: object) -> None:
        """Set a gauge, or a counter that is counted elsewhere, of `trainer.metrics`."""
        if self.values is not None:
            self.values.set(name, value, **labels)

    def add(self, name: str, amount: float = 1.0, /, **labels: object) -> None:
        """Increase a counter of `trainer.metrics`."""
        if self.values is not None:
            self.values.add(name, amount, **labels)

    def count(self, *, clips: int, frames: int) -> None:
        """Count one step of all ranks: clips trained on, frames generated. Called every step."""
        if self.values is None or not self._first:
            return
        seconds = self._pace.count(clips)
        self.values.add("navsynth_steps_total")
        self.values.add("navsynth_clips_total", clips)
        self.values.add("navsynth_frames_total", frames)
        self.values.set("navsynth_last_step_timestamp_seconds", time.time())
        if seconds is not None:
            self.values.observe("navsynth_step_seconds", seconds, phase="all")

    def step(self, step: int, values: Mapping[str, float], *, seconds: float, done: float) -> None:
        """Log a step: a line of the journal, the display, and the endpoint's values.

        Args:
            values: by name; `GAUGES`, `GROUPS`, `time/PHASE` and `goodput/CAUSE` (seconds since the
                last logged step) are shown by the endpoint. All go into the journal.
            seconds: training time of all lives of the run.
            done: share of the run, 0 to 1.
        """
        if self.values is None or not self._first:
            return
        clips_per_second, steps = self._pace.lap()
        eta = self._pace.eta(done)
        self.values.set("navsynth_step", step)
        self.values.set("navsynth_progress_ratio", done)
        self.values.set("navsynth_training_seconds", seconds)
        if self._config.budget_seconds:
            spent = seconds * int(self._info.get("world", 1)) / self._config.budget_seconds
            self.values.set("navsynth_budget_spent_ratio", spent)
        if eta is not None:
            self.values.set("navsynth_eta_seconds", eta)
        for name, value in values.items():
            self._expose(name, float(value), steps)
        line = {"step": step, "time": round(time.time(), 3), "seconds": seconds}
        self._write({**line, **values, "clips_per_second": clips_per_second})
        self.values.add("navsynth_log_lines_dropped_total", self._trackers.log(step, values))
        self._screen.step(Shown(step, values, clips_per_second, done, eta))

    def note(self, kind: str, *, step: int, text: str, **facts: Any) -> None:
        """Show something rare that happened, and keep it in `run.json` under `events`."""
        if self.values is None or not self._first:
            return
        self._screen.say(text)
        path = self._folder / RUN_FILE
        event = {"time": round(time.time(), 3), "kind": kind, "step": step, "text": text, **facts}
        try:
            update_json(path, events=with_event(read_json(path).get("events", []), event))
        except (OSError, ValueError) as error:
            log.warning("%s: event not kept: %s", path, error)

    def back(self, step: int) -> None:
        """Cut the log off after `step`: the run goes back there."""
        if self.values is not None and self._first:
            self._journal.back(step)

    def saved(self, path: Path | None, *, seconds: float, size: int) -> None:
        """Count a checkpoint; `path` None: it could not be written. `size` in bytes."""
        if self.values is None or not self._first:
            return
        outcome = "failed" if path is None else "committed"
        self.values.add("navsynth_checkpoints_total", outcome=outcome)
        self.values.observe("navsynth_checkpoint_seconds", seconds)
        if path is not None:
            self.values.set("navsynth_checkpoint_bytes", size)
            self.values.set("navsynth_checkpoint_timestamp_seconds", time.time())

    def say(self, text: str) -> None:
        """Show a line beside the progress."""
        if self.values is not None and self._first:
            self._screen.say(text)

    def close(self, *, done: bool = True) -> None:
        """Make the log durable, end the display and the endpoint.

        Args:
            done: the run ended as it should; else it stays among the targets of Prometheus, and its
                figures with a Pushgateway.
        """
        if self.values is None:
            return
        if self._first:
            self._screen.close()
            self._journal.close()
            self._trackers.close()
        linger = self._config.linger
        if self._pusher is not None and self._pusher.close(done=done, linger=linger):
            linger = 0.0  # the endpoint was open meanwhile
        if self.endpoint is not None:
            self.endpoint.close(linger=linger)
        if self._first and done and self._targets is not None:
            self._targets.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self.values is not None
        if not self._journal.write(line):
            self.values.add("navsynth_log_lines_dropped_total")

    def _expose(self, name: str, value: float, steps: int) -> None:
        assert self.values is not None
        group, _, label = name.partition("/")
        if group == "time":
            self.values.observe("navsynth_step_seconds", value / max(1, steps), phase=label)
        elif group == "goodput":
            self.values.add("navsynth_goodput_seconds_total", value, cause=label)
        elif name in GAUGES:
            self.values.set(GAUGES[name], value)
        elif group in GROUPS:
            metric = GROUPS[group]
            self.values.set(metric, value, **{BY_NAME[metric].labels[0]: label})

    def _describe(self, done: float) -> None:
        assert self.values is not None
        self.values.set("navsynth_build_info", 1, version=own_version(), torch=version("torch"))
        labels = {name: str(self._info.get(name, "")) for name in ("preset", "world")}
        self.values.set("navsynth_run_info", 1, name=self._run, **labels)
        self.values.set("navsynth_ranks", int(self._info.get("world", 1)))
        # A run that never takes a step is noticed, too.
        self.values.set("navsynth_progress_ratio", min(done, 1.0))
        self.values.set("navsynth_last_step_timestamp_seconds", time.time())
