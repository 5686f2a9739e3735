"""Files that are on the disk when they say so, and one-line errors when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_shards.errors import UserError

DISK_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "allow larger files",
    errno.EIO: "check the disk",
    errno.EROFS: "make it writable or choose another --out",
    errno.EACCES: "make it writable or choose another --out",
    errno.EPERM: "make it writable or choose another --out",
    errno.ENOTDIR: "choose another --out",
    errno.ESTALE: "mount it again",
}
"""What to do about the errors of a disk."""


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal below `folder` into one line that names the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        advice = DISK_ERRORS[error.errno]
        raise UserError(
            f"{folder}: {os.strerror(error.errno)} on {_disk_of(folder)}; {advice} and run the "
            "same command again: it goes on where it was"
        ) from error


def _disk_of(folder: Path) -> str:
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    while not path.is_mount():
        path = path.parent
    return f"the disk at {path} ({free / 2**20:.0f} MiB free)"


def sync(file: BinaryIO) -> None:
    """Make a file's bytes durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it exists whole or not at all, durably."""
    part = path.with_name(path.name + ".tmp")
    with part.open("wb") as file:
        file.write(data)
        sync(file)
    part.replace(path)
    sync_folder(path.parent)


def settle(part: Path, path: Path) -> None:
    """Put a finished file in place, so that its name never stands for bytes that a crash takes."""
    with part.open("r+b") as file:
        sync(file)
    part.replace(path)
    sync_folder(path.parent)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move(path: Path, target: Path) -> None:
    """Rename within one disk; a target that was moved before stays."""
    if path.exists():
        path.replace(target)


def dump(facts: object) -> bytes:
    """Canonical JSON on one line."""
    return (json.dumps(facts, sort_keys=True) + "\n").encode()
