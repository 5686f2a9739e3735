"""Why a trial's training did not end well, in a line, from what it and its launcher have left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tuning.endings import KILLED, LOG, last_words, why

TRACEBACK = 'Traceback (most recent call last):\n  File "/x/launch.py", line 7, in main\n'
NOTICES = (
    "W1130 21:00:00.000000 12 torch/distributed/elastic/api.py:1] Sending process 14 closing\n"
    "E1130 21:00:00.000000 12 torch/distributed/elastic/api.py:2] failed (exitcode: {code})\n"
)
FRAME = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
====================================
trainer/main.py FAILED
------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : {code} (pid: 13)
  traceback : {told}
====================================
"""


def launched(own: str, *, code: int) -> str:
    """A log of several processes of which one has failed."""
    told = "Signal 9 (SIGKILL) received by PID 13" if code == -9 else "To enable traceback see: x"
    return own + NOTICES.format(code=code) + TRACEBACK + FRAME.format(code=code, told=told)


@pytest.mark.parametrize(
    ("log", "state", "code", "said"),
    [
        ("a\nKeyError: 'b'\n", {}, 1, "ended with code 1: KeyError: 'b'"),
        ("", {}, 1, "ended with code 1: no output"),
        (launched("a\nerror: no such set\n", code=2), {}, 1,
         "ended with code 1: error: no such set"),
        (launched("a\n", code=1), {"status": "failed", "reason": "KeyError: 'b'"}, 1,
         "ended with code 1: KeyError: 'b'"),
        (launched("a\n", code=3), {"status": "non-finite", "reason": "step 3"}, 1,
         "non-finite: step 3"),
        (launched("a\n", code=-9), {"status": "lost-rank", "reason": "rank 0"}, 1, KILLED),
        ("a\n", {"status": "running"}, -signal.SIGKILL, KILLED),
        (launched("a\n", code=-9), {"status": "hang", "reason": "rank 1 in latents"}, 1,
         "hang: rank 1 in latents"),
        # A later life has no frame of its own.
        (launched("a\n", code=-9) + "KeyError: 'c'\n", {}, 1, "ended with code 1: KeyError: 'c'"),
        (launched("torch.OutOfMemoryError: CUDA out of memory.\n", code=1), {}, 1,
         "out of memory"),
    ],
)  # fmt: skip
def test_a_reason_is_the_training_s_own(
    tmp_path: Path, log: str, state: dict[str, str], code: int, said: str
) -> None:
    """What a process said last, or its run.json; of several, what the launcher knows of a kill, and
    never the frame that it draws."""
    (tmp_path / LOG).write_text(log)
    assert why(tmp_path, state, code) == said


def test_there_may_be_no_log(tmp_path: Path) -> None:
    """A process that could not be started has left none."""
    assert last_words(tmp_path) == "no output"
