"""Waiting for footage that comes from a store: slow is not dead, and neither is a rank that waits.

A batch of a cold cache may need a gigabyte, which a slow line brings in longer than a hang takes to
be one. So the ranks wait for their batches together, looking up now and then: while bytes come to
the node of one of them, all give a sign of life; what brings nothing is still ended by the store's
own timeout, and behind that by the watchdog.
"""

from __future__ import annotations

import torch

from data_shards.errors import UserError
from data_shards.stream import Stream
from trainer.engine import Engine
from trainer.watchdog import Watchdog

LOOK_SECONDS = 5.0
"""Between two signs of life."""
MARGIN_SECONDS = 60.0
"""That silence may last beyond the time after which a store counts as dead."""


def await_batch(stream: Stream, engine: Engine, watchdog: Watchdog) -> None:
    """Wait until all ranks have their next batch, or why there is none; at once where footage does
    not come from a store. A collective of two numbers for each look, in which who has its batch
    waits for the others: communication, and no fault of its own footage."""
    if not stream.distant:
        return
    with watchdog.patience(2 * stream.config.timeout_seconds + MARGIN_SECONDS):
        while True:
            waits = not stream.wait(LOOK_SECONDS)
            found = torch.tensor([int(waits), int(waits and _moved(stream))])
            with engine.phases("communication"):
                flags = engine.ranks.comm.max_(found).tolist()
            if not flags[0]:
                return
            if flags[1]:
                watchdog.beat()


def _moved(stream: Stream) -> bool:
    try:
        return stream.moved()
    except UserError:  # the disk of the copies, of which the reader will tell
        return False
