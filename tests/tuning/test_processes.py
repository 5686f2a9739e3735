"""Whole trees of processes are killed, groups of their own or not, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

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


def test_processes_of_other_accounts_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged record names one: it is not waited for, and the others are ended."""
    with subprocess.Popen(["sleep", "600"]) as theirs, subprocess.Popen(["sleep", "600"]) as ours:
        plain = os.kill

        def kill(pid: int, number: int) -> None:
            if pid == theirs.pid:
                raise PermissionError
            plain(pid, number)

        monkeypatch.setattr(processes.os, "kill", kill)
        known = [processes.process(one.pid) for one in (theirs, ours)]
        begun = time.monotonic()
        ended = processes.end([one for one in known if one])
        assert [one.pid for one in ended] == [ours.pid] and time.monotonic() - begun < 25
        assert theirs.poll() is None
        plain(theirs.pid, signal.SIGKILL)
