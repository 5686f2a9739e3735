"""A search whose Ray is gone ends, instead of waiting for ever."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import time

import pytest

from tuning import processes
from tuning.guard import Guard, rays_own, terminable


def test_the_end_of_a_watched_process_is_an_interrupt() -> None:
    """Like Ctrl-C, with the name of what is gone; the old handler of SIGTERM comes back."""
    before = signal.getsignal(signal.SIGTERM)
    waiting = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(waiting) as child, terminable():
        known = processes.process(child.pid)
        assert known is not None
        guard = Guard({"raylet": known})
        try:
            with pytest.raises(KeyboardInterrupt):
                child.kill()
                for _ in range(600):
                    time.sleep(0.1)
        finally:
            guard.stop()
        assert guard.lost == "raylet" and guard.gone() == ["raylet"]
        assert copy.copy(guard).gone() == ["raylet"]  # as Ray's pickle of it would say
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_watched_without_a_ray_of_its_own() -> None:
    """This process has started no Ray; a guard over nothing ends at once."""
    assert rays_own() == {}
    guard = Guard({})
    guard.stop()
    guard.stop()
    assert guard.lost == "" and guard.gone() == []
