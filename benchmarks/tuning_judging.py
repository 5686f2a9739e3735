"""Scores of cells that were not trained on, of any run, for `benchmarks.tuning`."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.tuning_bench import Bench
from tuning.objectives import FIT_STEPS, OBJECTIVES

JUDGED = ("unseen-mcs", "unseen-fcs", "unseen", "exchange")
JUDGE_SECONDS = 15.0
"""Of one judgement: imports, latents of four or five videos fitted, their figures."""


def judged(bench: Bench, run: Path, cells: str | None) -> dict[str, float | None]:
    """Scores of held-out cells (None: the validation cells); None for one that is not there.

    The run's own evaluation.json is put aside meanwhile, and back by the call that comes through.
    """
    file, kept = run / "evaluation.json", run / "evaluation.kept.json"
    if file.is_file() and not kept.exists():
        file.rename(kept)
    where = ["--held-out", cells] if cells else []
    bench.python("trainer.evaluate", str(run), "--videos", "1", "--fit", str(FIT_STEPS),
                 *bench.weights, *where)  # fmt: skip
    found = {name: figure(name, run) for name in JUDGED}
    if kept.exists():
        kept.replace(file)
    return found


def figure(name: str, run: Path) -> float | None:
    """An objective of a run; None where its evaluation has none, or one that is not finite."""
    try:
        value = OBJECTIVES[name].read(run, "")
    except (KeyError, TypeError):
        return None
    return value if math.isfinite(value) else None
