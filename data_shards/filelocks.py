"""Locks of the kernel on files that others may delete at any moment, over a network too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB
GONE = (errno.ENOENT, errno.ESTALE)
"""How a disk says that a file was deleted, also from another machine."""


def lock(file: IO[bytes] | int, how: int) -> bool:
    """Take a lock, held until the file is closed, unless another one is in the way of one that does
    not wait. Of a file that another machine deleted there is none to take: `names` tells."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in GONE:
            raise
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the processes and threads of a node."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def names(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the file that a descriptor was opened on."""
    facts, opened = look(path), look(descriptor)
    return facts is not None and opened is not None and os.path.samestat(facts, opened)


def look(file: Path | int) -> os.stat_result | None:
    """Facts of a file that may go at any moment."""
    try:
        return os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
