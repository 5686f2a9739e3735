"""Whole trees of processes are killed, groups of their own or not, and nothing else."""

from __future__ import annotations

import subprocess
import time

from tuning import processes


def test_a_process_is_killed_with_all_below_it() -> None:
    """A child that leads a session of its own, as ranks under torchrun do, goes along; a second
    time there is nothing to kill."""
    with subprocess.Popen(
        ["sh", "-c", "setsid sleep 600 & exec sleep 600"], start_new_session=True
    ) as started:
        known = processes.process(started.pid)
        assert known is not None
        end = time.monotonic() + 60
        while not (below := processes.descendants(started.pid)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not processes.kill(known._replace(start=known.start + 1))
        assert processes.alive(known)
        assert processes.kill(known)
        started.wait()
        while any(map(processes.alive, below)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not processes.alive(known) and not processes.kill(known)
