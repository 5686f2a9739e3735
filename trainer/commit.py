"""Files that survive a power cut: fsync, digests, atomic replacement, and checkpoint manifests.

A checkpoint is a folder whose `MANIFEST.json` lists every file with its size and SHA-256, says in
which file each latent page lies, has digests of the rows that are read one by one, and carries one
of itself. Everything here is plain file work of one process; `trainer.checkpoint` adds the
agreement of all ranks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "navsynth-checkpoint/1"
MANIFEST = "MANIFEST.json"
STATE = "state.json"
WRITING = ".writing-"
DROPPING = ".dropping-"
DAMAGED = ".damaged"
_STEP = re.compile(r"step-(\d{8,})")
_CHUNK = 1 << 20
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""How a disk says that a file is not there, or is no file; what else it says is of itself."""


log = logging.getLogger("navsynth")


class Damage(Exception):  # noqa: N818
    """A checkpoint that must not be loaded; the message says why."""


class FileFacts(NamedTuple):
    """Size in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


class CheckpointManifest(NamedTuple):
    """What a committed checkpoint consists of."""

    step: int
    world: int
    score: float | None
    files: dict[str, FileFacts]
    index: dict[str, str]
    """File of every latent page, by the tensor's name."""
    digests: dict[str, str]
    """Of pages whose rows are read one by one, by name (`streamed.digests_of`); empty in older
    checkpoints, which are verified whole instead."""


def step_name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Step of a committed checkpoint's folder name; None for any other name."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, data: bytes) -> FileFacts:
    """Write a new file and fsync it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileFacts(len(data), hashlib.sha256(data).hexdigest())


def replace_durable(path: Path, data: bytes) -> None:
    """Give `path` new contents: at any moment it holds all of the old or all of the new ones."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        with fresh.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file.

    Raises:
        ValueError: not a JSON object.
    """
    if not path.is_file():
        return {}
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object")
    return value


def update_json(path: Path, **fields: Any) -> None:
    """Merge `fields` into a JSON object on disk, atomically and durably."""
    merged = {**read_json(path), **fields}
    replace_durable(path, (json.dumps(merged, indent=1) + "\n").encode())


def facts_of(path: Path) -> FileFacts:
    """Size and SHA-256 of a file as it can be read now."""
    state, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
            size += len(chunk)
    return FileFacts(size, state.hexdigest())


def forget(descriptor: int) -> None:
    """Have the system's cache drop what it has of a file and need not write any more, where the
    system takes such advice."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def dump_manifest(manifest: CheckpointManifest) -> bytes:
    """JSON of a manifest, sealed with a digest of itself."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        **manifest._asdict(),
        "files": {name: file._asdict() for name, file in sorted(manifest.files.items())},
    }
    return (json.dumps({**facts, "seal": _seal(facts)}, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> CheckpointManifest:
    """Manifest of a checkpoint folder.

    Raises:
        Damage: absent, altered, or with file names that leave the folder.
        OSError: the disk refuses to read it.
    """
    try:
        raw = json.loads((folder / MANIFEST).read_bytes())
        seal = raw.pop("seal")
        if raw["format"] != FORMAT:
            raise Damage(f"{MANIFEST} is of format {raw['format']!r}, expected {FORMAT}")
        if seal != _seal(raw):
            raise Damage(f"{MANIFEST} does not match its seal")
        files = {name: FileFacts(**facts) for name, facts in raw["files"].items()}
        manifest = CheckpointManifest(
            int(raw["step"]), int(raw["world"]), raw["score"], files, dict(raw["index"]),
            dict(raw.get("digests", {})),
        )  # fmt: skip
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise Damage(f"{MANIFEST}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damage(f"{MANIFEST} is damaged ({error})") from None
    for name in (*files, *manifest.index.values()):
        if name not in files or Path(name).name != name or name.startswith("."):
            raise Damage(f"{MANIFEST} names {name!r}, which is not a file of this folder")
    return manifest


def check_files(
    folder: Path, files: Iterable[tuple[str, FileFacts]], *, later: Container[str] = ()
) -> None:
    """Compare files with what the manifest says of them; of those that are verified `later` only
    the sizes.

    Raises:
        Damage: naming the file.
        OSError: the disk refuses to read one.
    """
    for name, facts in files:
        path = folder / name
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise Damage(f"{name} is missing or no plain file")
            if found.st_size != facts.bytes:
                raise Damage(f"{name} has {found.st_size} bytes instead of {facts.bytes}")
            if name not in later and facts_of(path) != facts:
                raise Damage(f"{name} does not match its SHA-256")
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            raise Damage(f"{name} is missing or no plain file") from None


def publish(
    writing: Path, target: Path, manifest: CheckpointManifest, *, drop: Callable[[Path], None]
) -> None:
    """Turn a finished temporary folder into the checkpoint `target`, durably; `drop` takes what is
    there already away."""
    write_durable(writing / MANIFEST, dump_manifest(manifest))
    sync_folder(writing)
    if target.exists():
        # Of another life of this run, which was continued from an earlier checkpoint.
        drop(target)
    writing.rename(target)
    sync_folder(target.parent)


def retire(folder: Path) -> Path:
    """Have a checkpoint stop being one, in a single rename; what is left of it is returned."""
    left = folder.with_name(f"{DROPPING}{folder.name}-{secrets.token_hex(4)}")
    folder.rename(left)
    sync_folder(folder.parent)
    return left


def set_aside(folder: Path) -> None:
    """Have a damaged checkpoint stop being one, and keep it for people to look at."""
    target = folder.with_name(f"{folder.name}{DAMAGED}")
    if target.exists():
        target = target.with_name(f"{target.name}-{secrets.token_hex(4)}")
    folder.rename(target)
    sync_folder(folder.parent)


def clean(checkpoints: Path) -> list[str]:
    """Remove what dead runs left half-written or half-deleted; only under the run's lock. What
    cannot be removed is no checkpoint, and stays for the next life."""
    leftovers = sorted(
        entry for entry in checkpoints.iterdir() if entry.name.startswith((WRITING, DROPPING))
    )
    removed = []
    for entry in leftovers:
        try:
            shutil.rmtree(entry)
            removed.append(entry.name)
        except OSError as error:  # a reader has files of it open, or another node still writes
            log.warning("%s: not removed yet: %s", entry, error)
    if removed:
        sync_folder(checkpoints)
    return removed


def committed(checkpoints: Path) -> list[int]:
    """Steps of the committed checkpoints, ascending."""
    if not checkpoints.is_dir():
        return []
    steps = (step_of(entry.name) for entry in checkpoints.iterdir() if entry.is_dir())
    return sorted(step for step in steps if step is not None)


def _seal(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
