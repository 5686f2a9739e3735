"""A progress bar for work that may turn out to be long: it appears after two seconds or never, and
where there is no terminal a line every half minute says how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE_SECONDS, LINE_SECONDS = 2.0, 30.0


def progress(items: Sequence[Item], *, label: str) -> Iterator[Item]:
    """Yield the items, showing a bar on stderr once two seconds have passed."""
    from rich.console import Console
    from rich.progress import Progress

    begun = told = time.monotonic()
    bar = Progress(console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(label, total=len(items))
    shown = False
    try:
        for index, item in enumerate(items):
            now = time.monotonic()
            if not shown and sys.stderr.isatty() and now - begun > PATIENCE_SECONDS:
                bar.start()
                shown = True
            elif not shown and index and now - told > LINE_SECONDS:
                told = now
                left = (now - begun) / index * (len(items) - index)
                print(f"{label}: {index} of {len(items)}, {left:.0f} s left", file=sys.stderr)
            bar.update(task, completed=index)
            yield item
    finally:
        if shown:
            bar.stop()
