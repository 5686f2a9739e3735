"""The one table of Prometheus metrics: dashboards, alerts, documents and the endpoint follow it.

Names start with `navsynth_`, are in base units, and end in `_total` where they only grow. Labels
take few values; nothing is labelled by clip or step. What the whole job has in common is shown by
the node of rank 0 alone, so that sums over nodes count nothing twice; metrics with the label `rank`
are shown by every node for its own ranks.

Run `python -m trainer.metrics` to print the table, `... --write docs/metrics.md` to write the page.
"""

from __future__ import annotations

# ruff: noqa: E501 -- a table has rows
import argparse
import sys
from pathlib import Path
from typing import NamedTuple

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metric(NamedTuple):
    """One metric family. `name` is what a scrape shows (`_total` included)."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Progress": (
        Metric("navsynth_step", GAUGE, "Last finished training step."),
        Metric("navsynth_steps_total", COUNTER, "Training steps taken by this process."),
        Metric("navsynth_clips_total", COUNTER, "Clips trained on, all ranks."),
        Metric("navsynth_frames_total", COUNTER, "Frames generated in training, all ranks."),
        Metric("navsynth_progress_ratio", GAUGE, "Share of the run that is done, 0 to 1."),
        Metric("navsynth_eta_seconds", GAUGE, "Expected time until the run is done."),
        Metric("navsynth_training_seconds", GAUGE, "Training time of all lives of the run."),
        Metric("navsynth_last_step_timestamp_seconds", GAUGE, "Unix time of the last step; of this life's start before there is one."),
    ),
    "Quality": (
        Metric("navsynth_loss", GAUGE, "Loss terms of the last logged step.", ("term",)),
        Metric("navsynth_psnr_decibels", GAUGE, "PSNR of the last logged training step."),
        Metric("navsynth_evaluation", GAUGE, "Scores of the last evaluation; psnr_sample: of the last sample sheet.", ("score",)),
        Metric("navsynth_evaluation_timestamp_seconds", GAUGE, "Unix time of the last evaluation."),
    ),
    "Optimisation": (
        Metric("navsynth_learning_rate", GAUGE, "Learning rates now.", ("group",)),
        Metric("navsynth_gradient_norm", GAUGE, "L2 norms of gradients, last logged step.", ("group",)),
        Metric("navsynth_update_norm", GAUGE, "L2 norms of updates, at most every 10 s.", ("group",)),
        Metric("navsynth_latent_norm", GAUGE, "Norms of the codes of rank 0's last logged batch.", ("table", "stat")),
        Metric("navsynth_rank_energy_ratio", GAUGE, "Energy that the low-rank subspace holds, where one is set."),
        Metric("navsynth_rows_touched_total", COUNTER, "Latent rows moved, all ranks.", ("table",)),
        Metric("navsynth_nonfinite_total", COUNTER, "Steps stopped for a value that is not finite, all lives."),
        Metric("navsynth_nonfinite_timestamp_seconds", GAUGE, "Unix time of the last such step, where there was one."),
        Metric("navsynth_rollbacks_total", COUNTER, "Returns to a checkpoint with lower rates after such a step, all lives."),
    ),
    "Time": (
        Metric("navsynth_step_seconds", HISTOGRAM, "Time of a step (phase=all), and mean times of its phases between logged steps.", ("phase",), SECONDS),
        Metric("navsynth_rank_step_seconds", GAUGE, "Mean time of a step since the last logged one.", ("rank",)),
        Metric("navsynth_rank_own_seconds", GAUGE, "Mean time a step spends in data and forward, before ranks wait for each other.", ("rank",)),
        Metric("navsynth_straggler_ratio", GAUGE, "Slowest rank's own time over the (lower) median's, by step or by clip, whichever is less; ranks without clips are left out."),
        Metric("navsynth_goodput_seconds_total", COUNTER, "Time of rank 0's process by what it went into.", ("cause",)),
        Metric("navsynth_telemetry_seconds_total", COUNTER, "Time that rank 0's training spent on telemetry."),
    ),
    "Data": (
        Metric("navsynth_loader_wait_seconds_total", COUNTER, "Time that steps waited for data.", ("rank",)),
        Metric("navsynth_loader_queue_batches", GAUGE, "Batches that are ready and wait.", ("rank",)),
        Metric("navsynth_shard_read_bytes_total", COUNTER, "Bytes of shards read, all ranks."),
        Metric("navsynth_shard_retries_total", COUNTER, "Reads of shards that were tried again, all ranks."),
        Metric("navsynth_clips_read_total", COUNTER, "Clips that loaders delivered, all ranks."),
        Metric("navsynth_clips_damaged_total", COUNTER, "Distinct clips whose bytes did not match, found by any rank."),
        Metric("navsynth_shards_quarantined", GAUGE, "Shards with clips that are left out."),
        Metric("navsynth_communication_bytes_total", COUNTER, "Bytes that ranks gave to other ranks, whatever the way; kind: gradients, weights (ZeRO), exchange (rows), sum, ...", ("kind",)),
    ),
    "Safety": (
        Metric("navsynth_checkpoints_total", COUNTER, "Checkpoints by outcome.", ("outcome",)),
        Metric("navsynth_checkpoint_seconds", HISTOGRAM, "Time to write and commit.", (), SECONDS),
        Metric("navsynth_checkpoint_bytes", GAUGE, "Size of the last checkpoint."),
        Metric("navsynth_checkpoint_timestamp_seconds", GAUGE, "Unix time of this life's last commit; of its start before there is one."),
        Metric("navsynth_checkpoint_interval_seconds", GAUGE, "checkpoint.minutes; 0: not by the clock."),
        Metric("navsynth_restarts_total", COUNTER, "Earlier starts of this run."),
        Metric("navsynth_ranks", GAUGE, "Ranks that take part."),
        Metric("navsynth_log_lines_dropped_total", COUNTER, "Metric lines that could not be written or tracked."),
    ),
    "Machine": (
        Metric("navsynth_memory_bytes", GAUGE, "Memory that a rank holds; where: process, gpu.", ("rank", "where")),
        Metric("navsynth_cpu_seconds_total", COUNTER, "Processor time of a rank.", ("rank",)),
        Metric("navsynth_gpu_utilisation_ratio", GAUGE, "GPU use, 0 to 1 (needs nvidia-ml-py, and a driver that tells).", ("rank",)),
        Metric("navsynth_disk_free_bytes", GAUGE, "Free space where the run folder is."),
        Metric("navsynth_disk_size_bytes", GAUGE, "Size of the disk where the run folder is."),
        Metric("navsynth_budget_spent_ratio", GAUGE, "Share spent of telemetry.budget_seconds, where set."),
        Metric("navsynth_scrapes_total", COUNTER, "Scrapes that this endpoint answered."),
        Metric("navsynth_build_info", GAUGE, "Always 1; says what runs.", ("version", "torch")),
        Metric("navsynth_run_info", GAUGE, "Always 1; says which run.", ("name", "preset", "world")),
    ),
}  # fmt: skip
METRICS: tuple[Metric, ...] = tuple(m for section in SECTIONS.values() for m in section)
BY_NAME = {metric.name: metric for metric in METRICS}
CAUSES = ("training", "data", "checkpoint", "evaluation", "restart", "idle")
"""What time goes into (`navsynth_goodput_seconds_total`): restart is starting up and taking lost
steps again, idle is whatever nothing else claims."""
SUFFIXES = {HISTOGRAM: ("_bucket", "_sum", "_count")}
PAGE = """# Metrics

Written by `python -m trainer.metrics --write docs/metrics.md`; a test holds this page to the table in
`trainer/metrics.py`. How to look at them: [observability.md](observability.md).

Metrics without the label `rank` are shown by the node of rank 0 alone. A gauge that a run has no
value for (no GPU, no budget, no rank constraint) is not shown; a counter without labels begins at 0.
"""


def series(metric: Metric) -> tuple[str, ...]:
    """Names of the series of a family, as queries use them."""
    return tuple(f"{metric.name}{suffix}" for suffix in SUFFIXES.get(metric.kind, ("",)))


def table(section: tuple[Metric, ...] = METRICS) -> str:
    """Metrics as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for m in section:
        lines.append(f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page docs/metrics.md: a table for each section."""
    tables = (f"## {title}\n\n{table(section)}" for title, section in SECTIONS.items())
    return "\n".join([PAGE, *tables])


def main(argv: list[str] | None = None) -> int:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m trainer.metrics", description="Metric table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args(argv)
    if options.write is None:
        print(table(), end="")
        return 0
    try:
        options.write.write_text(page(), encoding="utf-8")
    except OSError as error:
        print(f"{options.write}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
