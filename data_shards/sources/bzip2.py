"""bzip2 files read from front to back, decompressed on all cores where `rapidgzip` is installed.

A bzip2 file is blocks of 900 kB, each with a CRC, and one CRC over all. Both readers verify them: a
file that was cut off or altered is an error when the reading gets there. Python's own reader uses
one core.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LIBRARY = "rapidgzip"


def parallel() -> bool:
    """Whether all cores can be used."""
    return find_spec(LIBRARY) is not None


def open_parallel(path: Path) -> Any:
    """A binary file of the decompressed bytes, read ahead by as many threads as there are cores.

    Its `tell_compressed()` counts bits. Damage is a RuntimeError or a ValueError, in `read` or
    here.
    """
    return import_module(LIBRARY).IndexedBzip2File(str(path), parallelization=0)
