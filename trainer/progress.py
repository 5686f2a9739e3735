"""A progress bar for work that may turn out to be long: it appears after two seconds or never."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE_SECONDS = 2.0


def progress(items: Sequence[Item], *, label: str) -> Iterator[Item]:
    """Yield the items, showing a bar on stderr once two seconds have passed (terminals only)."""
    from rich.console import Console
    from rich.progress import Progress

    begun = time.monotonic()
    bar = Progress(console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(label, total=len(items))
    shown = False
    try:
        for index, item in enumerate(items):
            if not shown and sys.stderr.isatty() and time.monotonic() - begun > PATIENCE_SECONDS:
                bar.start()
                shown = True
            bar.update(task, completed=index)
            yield item
    finally:
        if shown:
            bar.stop()
