"""Programs that are waited for, also while somebody presses Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.children import run_to_end
from tests.support.training import environment

SAVES = """
import signal, sys, time
from pathlib import Path

def save(*_):
    time.sleep(1)
    Path(sys.argv[1]).write_text("saved")
    sys.exit(6)

signal.signal(signal.SIGINT, save)
Path(sys.argv[1]).write_text("ready")
time.sleep(600)
"""
WAITS = """
import signal, sys
from data_shards.ending import ended
from launch.children import run_to_end

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

@ended
def main(argv=None):
    return run_to_end([sys.executable, "-c", sys.argv[1], sys.argv[2]])

sys.exit(main())
"""


def test_the_code_is_the_programs() -> None:
    """And what it is given arrives."""
    code = "import os, sys; sys.exit(int(os.environ['CODE']))"
    assert run_to_end([sys.executable, "-c", code], env={**environment(), "CODE": "5"}) == 5
    with pytest.raises(FileNotFoundError):
        run_to_end(["no-such-program"])


def test_a_program_that_saves_is_waited_for(tmp_path: Path) -> None:
    """Ctrl-C goes to the terminal's whole group: the program has all the time that it takes, and
    then whoever waited ends as interrupted."""
    file = tmp_path / "file"
    started = subprocess.Popen(
        [sys.executable, "-c", WAITS, SAVES, str(file)], env=environment(),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (file.exists() and file.read_text() == "ready"):
            assert time.monotonic() < end and started.poll() is None
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGINT)
        _, told = started.communicate(timeout=60)
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert file.read_text() == "saved"
    assert started.returncode == 130 and told == "stopped\n"
