"""`trainer/main.py` with faults that a test switches on and off: files in the folder $FAULTS.

`slow-rank` makes the forward pass of rank 1 slow, `slow-data` every rank's reading, `not-finite`
the loss a NaN. Everything else is the real program. Looks at its disk every second, not every ten.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from data_shards import readahead
from trainer import engine, main, observe
from trainer.leaving import ENDINGS, leave

FAULTS = Path(os.environ["FAULTS"])
SLOW_SECONDS = 0.4
forward, read = engine.Engine._terms, readahead.Threads.next


def faulty_forward(self, networks, part):
    if self.ranks.comm.rank == 1 and (FAULTS / "slow-rank").exists():
        time.sleep(SLOW_SECONDS)
    terms = forward(self, networks, part)
    if (FAULTS / "not-finite").exists():
        terms = terms._replace(total=terms.total * float("nan"))
    return terms


def faulty_read(self):
    if (FAULTS / "slow-data").exists():
        time.sleep(SLOW_SECONDS)
    return read(self)


if __name__ == "__main__":
    engine.Engine._terms = faulty_forward
    readahead.Threads.next = faulty_read
    observe.RARE_SECONDS = 1.0
    code = main.main()
    leave(next(ending for ending in ENDINGS if ending.code == code))
