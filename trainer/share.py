"""What one rank writes of a checkpoint, and what it tells the others about it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_shards.errors import UserError
from trainer import commit
from trainer.streamed import StreamedSafetensors, digests_of

BUG = "bug: "
STOP = "training cannot go on: "
"""What begins the reason of a rank that has lost rows, whatever `checkpoint.on_full` says."""
MEND = "free some space or mend the disk, and run the same command again"
DIRECTIONS = "dictionary.basis"
"""What transient rows are read inside of (see `reshard.saved_rows`)."""
log = logging.getLogger("navsynth")


class Job(NamedTuple):
    """A checkpoint on its way."""

    step: int
    score: float | None
    folder: Path
    """The temporary folder."""


class Share(NamedTuple):
    """Files that one rank has made durable, or why it could not."""

    files: dict[str, commit.FileFacts]
    index: dict[str, str]
    digests: dict[str, str]
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for the journey to the other ranks."""
        return {**self._asdict(), "files": {k: list(v) for k, v in self.files.items()}}


def read_share(raw: Mapping[str, Any]) -> Share:
    """The share that another rank sent."""
    files = {name: commit.FileFacts(*facts) for name, facts in raw["files"].items()}
    return Share(files, dict(raw["index"]), dict(raw["digests"]), raw["error"])


def write_share(
    folder: Path,
    stem: str,
    blobs: Mapping[str, bytes],
    own: Iterator[tuple[str, torch.Tensor]],
    *,
    beat: Callable[[], None],
    beside: bool,
) -> Share:
    """Write and fsync this rank's files, `beside` training or not. Never raises: the other ranks
    wait for the answer."""
    writer = StreamedSafetensors(folder, stem, beside=beside)
    try:
        files = {}
        digests: dict[str, str] = {}
        for name, data in blobs.items():
            files[name] = commit.write_durable(folder / name, data)
            beat()
        for name, tensor in own:
            writer.add(name, tensor)
            if ".value." in name or name == DIRECTIONS:  # what a reader takes without the rest
                digests[name] = digests_of(tensor)
            beat()
        files |= writer.close()
        commit.sync_folder(folder)
        return Share(files, writer.index, digests)
    except Exception as error:
        return Share({}, {}, {}, explain(error, folder))
    finally:
        writer.abandon()
        close = getattr(own, "close", None)
        if close is not None:
            close()


def explain(error: Exception, folder: Path) -> str:
    """One line for the other ranks; anything but a failing disk is marked as a bug and logged.
    Rows of a dictionary on disk that could not be written are for the user to mend, and lost."""
    if isinstance(error, UserError):
        return f"{STOP}{error}"
    if not isinstance(error, OSError):
        log.error("%s: while saving", folder, exc_info=error)
        return f"{BUG}{type(error).__name__}: {error}"
    where = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(where).free / 1e9
    reason = error.strerror or str(error)
    return f"{error.filename or folder}: {reason} ({free:.1f} GB free on its disk)"
