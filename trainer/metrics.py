"""The one table of Prometheus metrics: dashboards, alerts, documents and the endpoint follow it.

Names start with `navsynth_`, are in base units, and end in `_total` where they only grow. Labels
take few values; nothing is labelled by clip or step.

Run `python -m trainer.metrics` to print the table as Markdown.
"""

from __future__ import annotations

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


METRICS: tuple[Metric, ...] = (
    # Progress
    Metric("navsynth_step", GAUGE, "Last finished training step."),
    Metric("navsynth_steps_total", COUNTER, "Training steps taken by this process."),
    Metric("navsynth_clips_total", COUNTER, "Clips trained on, all ranks."),
    Metric("navsynth_frames_total", COUNTER, "Frames generated in training, all ranks."),
    Metric("navsynth_progress_ratio", GAUGE, "Share of the run that is done, 0 to 1."),
    Metric("navsynth_eta_seconds", GAUGE, "Expected time until the run is done."),
    # Quality
    Metric("navsynth_loss", GAUGE, "Loss terms of the last logged step.", ("term",)),
    Metric("navsynth_psnr_decibels", GAUGE, "PSNR of the last logged training step."),
    Metric("navsynth_evaluation", GAUGE, "Scores of the last evaluation.", ("score",)),
    # Optimisation
    Metric("navsynth_learning_rate", GAUGE, "Learning rates now.", ("group",)),
    Metric("navsynth_gradient_norm", GAUGE, "L2 norms of gradients.", ("group",)),
    Metric("navsynth_update_norm", GAUGE, "L2 norms of updates.", ("group",)),
    Metric("navsynth_latent_norm", GAUGE, "Norms of touched latent rows.", ("table", "quantile")),
    Metric("navsynth_rank_energy_ratio", GAUGE, "Energy that the low-rank subspace holds."),
    Metric("navsynth_rows_touched_total", COUNTER, "Latent rows moved.", ("table",)),
    Metric("navsynth_nonfinite_total", COUNTER, "Steps stopped for a value that is not finite."),
    # Time
    Metric("navsynth_step_seconds", HISTOGRAM, "Time of a step; phase=all: the whole.", ("phase",), SECONDS),  # noqa: E501
    Metric("navsynth_goodput_seconds_total", COUNTER, "Time by what it went into.", ("cause",)),
    Metric("navsynth_straggler_ratio", GAUGE, "Slowest rank's step time over the median's."),
    # Data
    Metric("navsynth_loader_wait_seconds_total", COUNTER, "Time that steps waited for data."),
    Metric("navsynth_loader_queue_batches", GAUGE, "Batches that are ready and wait."),
    Metric("navsynth_shard_read_bytes_total", COUNTER, "Bytes of shards read by rank 0."),
    Metric("navsynth_shard_retries_total", COUNTER, "Reads of shards that were tried again."),
    Metric("navsynth_clips_damaged_total", COUNTER, "Clips whose bytes did not match."),
    Metric("navsynth_shards_quarantined", GAUGE, "Shards that are left out."),
    Metric("navsynth_communication_bytes_total", COUNTER, "Bytes sent by rank 0.", ("kind",)),
    # Safety
    Metric("navsynth_checkpoints_total", COUNTER, "Checkpoints by outcome.", ("outcome",)),
    Metric("navsynth_checkpoint_seconds", HISTOGRAM, "Time to write and commit.", (), SECONDS),
    Metric("navsynth_checkpoint_bytes", GAUGE, "Size of the last checkpoint."),
    Metric("navsynth_checkpoint_timestamp_seconds", GAUGE, "Unix time of the last commit."),
    Metric("navsynth_starts_total", COUNTER, "How often this run was started."),
    Metric("navsynth_ranks", GAUGE, "Ranks that take part."),
    Metric("navsynth_log_lines_dropped_total", COUNTER, "Metric lines that could not be written."),
    # Machine
    Metric("navsynth_memory_bytes", GAUGE, "Memory of rank 0's process.", ("where",)),
    Metric("navsynth_disk_free_bytes", GAUGE, "Free space where the run folder is."),
    Metric("navsynth_gpu_utilisation_ratio", GAUGE, "GPU use, 0 to 1.", ("gpu",)),
    Metric("navsynth_budget_spent_ratio", GAUGE, "Share of the GPU budget that is spent."),
    Metric("navsynth_build_info", GAUGE, "Always 1; says what runs.", ("version", "torch")),
    Metric("navsynth_run_info", GAUGE, "Always 1; says which run.", ("run", "preset", "world")),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}


def table() -> str:
    """The metrics as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for m in METRICS:
        lines.append(f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    del argv
    print(table(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
