"""What a run looks like from outside: figures of all ranks, gathered where a step is logged.

Between logged steps an observer only counts. At a logged step every rank hands over its figures in
one small collective; rank 0 gives the job's to telemetry, and one process of each node shows those
of its own ranks. Nothing here changes what is trained.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from data_shards.stream import Stream
from trainer import objective, vitals
from trainer.commit import read_json
from trainer.engine import Engine, Measured
from trainer.leaving import RUN_FILE
from trainer.metrics import CAUSES
from trainer.straggler import straggling
from trainer.telemetry import Telemetry

RARE_SECONDS = 10.0
"""What costs more (norms of updates, the disk, an evaluation's file) is looked at so often."""
PHASES = {"data": "data", "checkpoint": "checkpoint", "evaluation": "evaluation"}
"""Phases that goodput counts by name; all others are training."""
OWN = ("data", "forward")
"""Phases before ranks wait for each other in a step."""
SUMS = {
    "bytes": "navsynth_shard_read_bytes_total",
    "retries": "navsynth_shard_retries_total",
    "clips": "navsynth_clips_read_total",
}
"""Figures of ranks that are added up, and where the sums go."""
BY_RANK = {
    "step_seconds": "navsynth_rank_step_seconds",
    "own_seconds": "navsynth_rank_own_seconds",
    "wait_seconds": "navsynth_loader_wait_seconds_total",
    "queue": "navsynth_loader_queue_batches",
    "cpu_seconds": "navsynth_cpu_seconds_total",
    "gpu_utilisation": "navsynth_gpu_utilisation_ratio",
}
"""Figures that are shown for each rank."""


def node_name() -> str:
    """Name of this node among the job's; several may share a host in tests."""
    number = os.environ.get("GROUP_RANK") or os.environ.get("SLURM_NODEID") or "0"
    return f"{socket.gethostname()}/{number}"


class Observer:
    """Counts for one rank, and tells telemetry at logged steps."""

    def __init__(self, engine: Engine, telemetry: Telemetry, *, folder: Path) -> None:
        self.engine, self.telemetry, self.folder = engine, telemetry, folder
        self._comm, self._node = engine.ranks.comm, node_name()
        self._steps = 0
        self._lap, self._waited = time.perf_counter(), 0.0
        self._rare: dict[str, float] = {}
        self._norms: dict[str, float] = {}
        self._evaluated_at = 0
        self._damaged: set[int] = set()
        """Clips that some rank has found damaged; the same on all ranks."""
        self.spent = 0.0
        """Seconds of this rank's training that went into telemetry."""
        startup = vitals.age_seconds() or 0.0
        self._pending = {"restart": startup + telemetry.lost_seconds}
        if self._comm.rank == 0:
            self._begin()

    def _begin(self) -> None:
        known = read_json(self.folder / RUN_FILE)
        events = [e for e in known.get("events", []) if e.get("kind") == "non-finite"]
        backs = [e for e in known.get("events", []) if e.get("kind") == "rolled-back"]
        begun = {
            "navsynth_restarts_total": max(0, len(known.get("starts", [])) - 1),
            "navsynth_nonfinite_total": len(events),
            "navsynth_rollbacks_total": len(backs),
            # Not the checkpoint's own: a run that waited in a queue lost nothing meanwhile.
            "navsynth_checkpoint_timestamp_seconds": time.time(),
            "navsynth_checkpoint_interval_seconds": 60 * self.engine.config.checkpoint.minutes,
            **vitals.disk_figures(self.folder),
        }
        if events:
            begun["navsynth_nonfinite_timestamp_seconds"] = events[-1]["time"]
        for name, value in begun.items():
            self.telemetry.show(name, value)
        for outcome in ("committed", "failed"):
            self.telemetry.show("navsynth_checkpoints_total", 0, outcome=outcome)
        self.telemetry.show("navsynth_communication_bytes_total", 0, kind="gradients")
        for cause in CAUSES:
            self.telemetry.show("navsynth_goodput_seconds_total", 0, cause=cause)

    def _due(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._rare.get(what, -RARE_SECONDS) < RARE_SECONDS:
            return False
        self._rare[what] = now
        return True

    @contextmanager
    def update(self, moves: frozenset[str], *, logged: bool) -> Iterator[None]:
        """Look at the size of the body's update where the step is logged, now and then, on rank 0;
        the norms are the same on all ranks."""
        self._steps += 1
        if not logged:
            yield
            return
        if self._comm.rank or not self._due("update"):
            self.engine.parallel.settle()
            yield
            return
        start = time.perf_counter()
        groups = {"gamma": self.engine.networks.gamma(), "theta": self.engine.networks.theta()}
        params = {group: list(found) for group, found in groups.items() if group in moves}
        before = {g: [p.detach().clone() for p in found] for g, found in params.items()}
        # Where ranks share the weights' memory, none moves any before they are kept.
        self.engine.parallel.settle()
        self.spent += time.perf_counter() - start
        yield
        start = time.perf_counter()
        for group, found in params.items():
            change = torch._foreach_sub([p.detach() for p in found], before[group])  # type: ignore
            self._norms[group] = float(torch.nn.utils.get_total_norm(change))
        self.spent += time.perf_counter() - start

    def record(
        self, stream: Stream, measured: Measured, *, step: int, seconds: float, factor: float,
        done: float, logged: bool,
    ) -> None:  # fmt: skip
        """Count a step; where it is logged (on all ranks), gather and tell. `factor` multiplies
        rates, `seconds` is the training time of all lives, `done` the share of the run."""
        start, engine = time.perf_counter(), self.engine
        self.telemetry.count(clips=engine.pace.clips, frames=engine.frames)
        if logged:
            terms = self._comm.sum_(measured.terms.to("cpu", torch.float64))
            phases, wall = engine.phases.take(), start - self._lap
            everyone = self._comm.gather_json(self._figures(stream, phases, wall))
            self._lap, self._steps = start, 0
            self._damaged.update(clip for figures in everyone for clip in figures["damaged"])
            values = self._values(measured, terms, everyone, factor, phases, wall)
            shards = {int(stream.opened.table["shard"][clip]) for clip in self._damaged}
            self._show(everyone, shards=len(shards))
            self.telemetry.step(step, values, seconds=seconds, done=min(done, 1.0))
        self.spent += time.perf_counter() - start
        self.telemetry.show("navsynth_telemetry_seconds_total", self.spent)

    def _figures(self, stream: Stream, phases: Mapping[str, float], wall: float) -> dict[str, Any]:
        """What this rank hands over; counts are since its start."""
        counters, dictionary = stream.counters(), self.engine.dictionary
        steps, waited = max(1, self._steps), max(0.0, counters.wait_seconds - self._waited)
        self._waited = counters.wait_seconds
        return {
            "node": self._node,
            "step_seconds": wall / steps,
            "own_seconds": sum(phases.get(phase, 0.0) for phase in OWN) / steps,
            "longest": {"wait": waited, "data": phases.get("data", 0.0)},
            "wait_seconds": counters.wait_seconds,
            "queue": counters.queue_depth,
            **{name: getattr(counters, name) for name in SUMS},
            "damaged": self._new_damage(stream),
            "valid": int(self.engine.valid_B.sum()),
            "rows": {kind: table.touched for kind, table in dictionary.tables.items()},
            "sent": dict(self._comm.bytes_sent),
            **vitals.process_figures(self.engine.ranks.device),
        }

    def _new_damage(self, stream: Stream) -> list[int]:
        """Clips that this rank has to tell of: damaged, and not known to all ranks yet. Copies of
        footage on several machines may be damaged in different ways, so every rank tells."""
        return sorted({int(damage.clip) for damage in stream.damaged} - self._damaged)

    def _values(
        self, measured: Measured, terms: torch.Tensor, everyone: list[dict[str, Any]],
        factor: float, phases: Mapping[str, float], wall: float,
    ) -> dict[str, float]:  # fmt: skip
        """A line of the metric log."""
        config, mine = self.engine.config, everyone[self._comm.rank]
        own = [figures["own_seconds"] for figures in everyone]
        valid = sum(figures["valid"] for figures in everyone)
        values = objective.shown(terms.tolist(), batch=self.engine.pace.clips, valid=valid) | {
            "lr/gamma": config.optim.gamma_rate * factor,
            "lr/theta": config.optim.theta_rate * factor,
            "lr/latents": config.latents.rate * factor,
            **{f"gradient_norm/{group}": float(norm) for group, norm in measured.norms.items()},
            **{f"update_norm/{group}": norm for group, norm in self._norms.items()},
            **{f"time/{phase}": spent for phase, spent in phases.items()},
            **{f"goodput/{cause}": spent for cause, spent in self._goodput(phases, wall).items()},
            "straggler": straggling(own, clips=self.engine.pace.clips),
            "telemetry/seconds": self.spent,
            "loader/wait_seconds": mine["wait_seconds"],
            **{
                f"loader/longest_{what}_seconds": max(f["longest"][what] for f in everyone)
                for what in mine["longest"]
            },
            "loader/queue": mine["queue"],
            **{f"shards/{name}": sum(f[name] for f in everyone) for name in SUMS},
            "shards/damaged": len(self._damaged),
        }
        basis = self.engine.dictionary.basis
        if basis is not None and len(basis.singular_M):
            energy = basis.singular_M.square()
            kept = energy[: config.latents.low_rank.rank].sum()
            values["rank_energy"] = float(kept / energy.sum())
        self._norms = {}
        return values

    def _goodput(self, phases: Mapping[str, float], wall: float) -> dict[str, float]:
        """Seconds by cause since the last logged step."""
        spent = {cause: self._pending.pop(cause, 0.0) for cause in CAUSES}
        for phase, seconds in phases.items():
            spent[PHASES.get(phase, "training")] += seconds
        spent["idle"] += max(0.0, wall - sum(phases.values()))
        return spent

    def _show(self, everyone: list[dict[str, Any]], *, shards: int) -> None:
        """Ranks of this node, on its speaker; what ranks have in common, on rank 0. `shards` have
        damaged clips."""
        show = self.telemetry.show
        for rank, figures in enumerate(everyone):
            if figures["node"] != self._node:
                continue
            for name, metric in BY_RANK.items():
                if name in figures:
                    show(metric, figures[name], rank=rank)
            for where in ("process", "gpu"):
                if f"memory/{where}" in figures:
                    show(
                        "navsynth_memory_bytes", figures[f"memory/{where}"], rank=rank, where=where
                    )
        if self._comm.rank:
            return
        for name, metric in SUMS.items():
            show(metric, sum(figures[name] for figures in everyone))
        show("navsynth_clips_damaged_total", len(self._damaged))
        show("navsynth_shards_quarantined", shards)
        for table in everyone[0]["rows"]:
            rows = sum(figures["rows"][table] for figures in everyone)
            show("navsynth_rows_touched_total", rows, table=table)
        for kind in sorted({kind for figures in everyone for kind in figures["sent"]}):
            sent = sum(figures["sent"].get(kind, 0) for figures in everyone)
            show("navsynth_communication_bytes_total", sent, kind=kind)
        self._show_codes()
        if self._due("rare"):
            self._show_rare()

    def _show_codes(self) -> None:
        latents = self.engine.latents
        for table, codes in (("static", latents.static_BS), ("transient", latents.transient_BTM)):
            if not codes.numel():
                continue
            norms = codes.detach().norm(dim=-1).flatten()
            found = {"min": norms.min(), "median": norms.median(), "max": norms.max()}
            for stat, value in found.items():
                self.telemetry.show("navsynth_latent_norm", float(value), table=table, stat=stat)

    def _show_rare(self) -> None:
        path = self.folder / "evaluation.json"
        with suppress(OSError):  # a disk that does not tell costs these figures, not the run
            for name, value in vitals.disk_figures(self.folder).items():
                self.telemetry.show(name, value)
            if path.exists() and (stamp := path.stat().st_mtime_ns) != self._evaluated_at:
                self._evaluated_at = stamp
                scores = read_json(path).get("scores", [])
                self.evaluated({str(s["name"]).lower(): s["value"] for s in scores})

    def finish(self) -> None:
        """Count the time since the last logged step: the final evaluation and save."""
        now = time.perf_counter()
        spent = self._goodput(self.engine.phases.take(), now - self._lap)
        self._lap = now
        for cause, seconds in spent.items():
            self.telemetry.add("navsynth_goodput_seconds_total", seconds, cause=cause)

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """Show the scores of an evaluation."""
        for name, value in scores.items():
            if isinstance(value, int | float):
                self.telemetry.show("navsynth_evaluation", value, score=name)
        self.telemetry.show("navsynth_evaluation_timestamp_seconds", time.time())

    def nonfinite(self, step: int) -> None:
        """Count a step that is not taken, now and for the lives that follow."""
        now = time.time()
        self.telemetry.note("non-finite", step=step, text=f"step {step} is not finite")
        self.telemetry.add("navsynth_nonfinite_total")
        self.telemetry.show("navsynth_nonfinite_timestamp_seconds", now)

    def rolled_back(self, step: int, *, text: str, **facts: Any) -> None:
        """Count a return to the checkpoint of `step`; its log ends there."""
        self.telemetry.back(step)
        self.telemetry.note("rolled-back", step=step, text=text, **facts)
        self.telemetry.add("navsynth_rollbacks_total")
