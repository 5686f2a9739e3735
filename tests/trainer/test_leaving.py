"""Exit codes, signals, and the way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from data_shards.errors import LoaderLost, UserError
from tests.support.ranks import run_ranks
from trainer import leaving
from trainer.comm import Comm
from trainer.leaving import ENDINGS, ExitCode, ending_of

ROOT = Path(__file__).resolve().parents[2]


def test_codes_are_what_is_documented() -> None:
    """Each code has one ending, and the reliability page lists them all."""
    assert [ending.code for ending in ENDINGS] == list(ExitCode) == list(range(7))
    page = (ROOT / "docs" / "reliability.md").read_text()
    for ending in ENDINGS:
        assert f"| {int(ending.code)} | `{ending.status}` |" in page


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ZeroDivisionError("x"), 1),
        (RuntimeError("shape mismatch"), 1),
        (UserError("x"), 2),
        (leaving.NonFinite("x"), 3),
        (OSError(28, "No space left on device", "run.json"), 2),
        (OSError(5, "Input/output error"), 2),
        (OSError(2, "No such file or directory"), 1),
        (LoaderLost("x"), 5),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 5),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal ..."), 1),
        (RuntimeError("[../third_party/gloo/x.cc:5] Connection closed by peer [::1]:4"), 5),
        (dist.DistBackendError("NCCL communicator was aborted"), 5),
    ],
)
def test_every_error_has_its_code(error: Exception | None, code: int) -> None:
    """Own exceptions by type, a backend's by its words, anything else is a bug."""
    assert ending_of(error).code == code


LEAVE = """
import sys
from pathlib import Path
from trainer.leaving import ENDINGS, leave
class Closed:
    def flush(self): raise BrokenPipeError("nobody listens")
sys.stdout.write("last words")
if sys.argv[3] == "deaf":
    sys.stderr = Closed()
leave(int(sys.argv[2]), folder=Path(sys.argv[1]), reason="because")
"""


@pytest.mark.parametrize("how", ["heard", "deaf"])
def test_leaving_writes_the_status_and_flushes(tmp_path: Path, how: str) -> None:
    """The process ends at once with its code, its output and the run's status written."""
    run = subprocess.run(
        [sys.executable, "-c", LEAVE, str(tmp_path), "6", how], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (6, "last words"), run.stderr
    told = json.loads((tmp_path / "run.json").read_text())
    assert told == {"status": "preempted", "code": 6, "reason": "because"}


@pytest.mark.parametrize(
    ("ending", "restarts", "code"), [("PREEMPTED", 1, 0), ("PREEMPTED", 0, 6), ("HANG", 1, 4)]
)
def test_a_run_that_is_asked_to_stop_is_not_restarted(
    ending: str, restarts: int, code: int
) -> None:
    """torchrun starts whatever fails again, as often as it was told: for it, leaving is success."""
    done = subprocess.run(
        [sys.executable, "-c", f"from trainer import leaving; leaving.leave(leaving.{ending})"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TORCHELASTIC_MAX_RESTARTS": str(restarts)},
        check=False,
    )
    assert done.returncode == code


@pytest.mark.parametrize("number", leaving.SIGNALS)
def test_signals_only_set_a_flag(number: int) -> None:
    """A signal is noted by name, nothing else happens, and the old handlers come back."""
    before = signal.getsignal(number)
    with leaving.signals() as asked:
        assert asked.signal is None
        signal.raise_signal(number)
        assert asked.signal == signal.Signals(number).name
        signal.raise_signal(signal.SIGTERM)
        assert asked.signal == signal.Signals(number).name
    assert signal.getsignal(number) == before


def lose_a_rank(comm: Comm) -> int:
    if comm.rank == 1:
        dist.destroy_process_group()
        return 5
    try:
        for _ in range(100):
            comm.sum_(torch.ones(1000))
    except Exception as error:
        return int(ending_of(error).code)
    return -1


@pytest.mark.ranks
def test_a_peer_that_goes_is_a_lost_rank() -> None:
    """What gloo raises when the other side is gone counts as a lost rank."""
    assert run_ranks(lose_a_rank, 2) == [5, 5]
