"""Digests of what results, trainings and prepared sets depend on: footage, and code."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ALL = ("launch/reproduce", "trainer", "data_shards")
TRAINING = ("launch/reproduce/baselines", "trainer", "data_shards")
DRAWING = ("data_shards/sources", "data_shards/frames.py", "data_shards/images.py")
"""What makes frames out of footage, or draws them."""


def files_digest(root: str) -> str:
    """Of the names, sizes and times of the files below a folder, or of an archive's own; empty for
    neither (synthetic footage)."""
    if not root:
        return ""
    top = Path(root)
    paths = [top] if top.is_file() else sorted(top.rglob("*"))
    files = [(str(p.relative_to(top)), p.stat()) for p in paths if p.is_file()]
    lines = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def footage_digest(root: str) -> str:
    """Of a folder's files, or an archive, and of the code that makes frames out of them; of the
    code alone for synthetic footage."""
    return hashlib.sha256(f"{files_digest(root)} {_of_code(DRAWING)}".encode()).hexdigest()


def code_digest() -> str:
    """Of all code that a result depends on."""
    return _of_code(ALL)


def training_digest() -> str:
    """Of the code that trains, ours and the baselines."""
    return _of_code(TRAINING)


def told() -> str:
    """Both in words, and whether the code has changed since it was first looked at, as where it
    is updated beneath a run, whose later trainings are then of the new one."""
    text = f"SHA-256 {code_digest()[:12]}, of it what trains: {training_digest()[:12]}"
    changed = _of_code.__wrapped__(ALL) != code_digest()
    return f"{text}; it was changed while this ran" if changed else text


@cache
def _of_code(names: tuple[str, ...]) -> str:
    paths = [ROOT / name for name in names]
    files = sorted(p for path in paths for p in (path.rglob("*.py") if path.is_dir() else [path]))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
