"""Files that are named together with their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_shards.errors import UserError


def read_pinned(path: Path, *, sha256: str, setting: str) -> bytes:
    """The bytes of a file, which must have the SHA-256 expected where there is one.

    What was checked is what is returned: the file may change in between.

    Raises:
        UserError: the file is not there, or another one; `setting` names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{setting} {path}: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256.strip().lower():
        raise UserError(f"{setting} {path}: its SHA-256 is {digest}, expected {sha256}")
    return data
