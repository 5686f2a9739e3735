"""A run that goes on with other footage: videos come or go, and the rest keeps its rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_shards.errors import UserError
from data_shards.stream import OpenManifest
from trainer.comm import Comm
from trainer.commit import read_json
from trainer.config import Config
from trainer.leaving import RUN_FILE
from trainer.loop import Progress, finished, length
from trainer.reshard import Restored


def is_other(
    opened: OpenManifest, folder: Path, comm: Comm, *, allowed: bool, saved: str | None = None
) -> bool:
    """Whether a run folder is of other footage; the same on every rank. Where its `run.json` is
    lost, its newest checkpoint says: `saved`, the fingerprint of its footage.

    Raises:
        UserError: it is, and that is not `allowed`; on every rank.
    """
    known = comm.gather_json(read_json(folder / RUN_FILE).get("fingerprint") or saved)[0]
    if known in (None, opened.manifest.fingerprint):
        return False
    if not allowed:
        raise UserError(
            f"{folder}: trained on other footage than {opened.where}; choose another name=..., "
            "move the folder away, or keep the rows of what is in both with --change-footage"
        )
    return True


def require_steps(config: Config, opened: OpenManifest, begin: Progress) -> None:
    """Refuse to change the footage of a run that has no step left: nobody would learn the new.

    Raises:
        UserError: on every rank.
    """
    steps = length(config, opened.manifest.clips)
    if finished(config, steps, begin.step, begin.seconds):
        raise UserError(
            f"--change-footage: the run is complete at step {begin.step}; give it more "
            "train.steps, train.minutes or schedule.passes for the new footage"
        )


def as_text(restored: Mapping[str, Restored]) -> str:
    """What became of the rows of each table."""
    parts = (
        f"{kind}: {found.matched} rows kept, {found.new} new, {found.dropped} gone"
        for kind, found in restored.items()
    )
    return f"; other footage: {'; '.join(parts)}"
