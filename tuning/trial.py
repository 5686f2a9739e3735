"""One trial: a training like any other, in a process of its own, watched through its run folder.

`trainer/main.py` runs as a subprocess (through accelerate where a trial has several workers); its
run.json and metrics.jsonl say how far it is. A `Lease` holds its accelerators meanwhile: when that
bears no further interval, the training gets SIGTERM, saves, and can go on later; one that does not
leave is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError
from trainer.commit import read_json
from trainer.leaving import DONE as WHOLE
from trainer.leaving import PREEMPTED, RUN_FILE, one_line
from tuning import elsewhere, processes
from tuning.command import command, environment, evaluation
from tuning.endings import KILLED, LOG, asked, interrupted, killed, last_words, why
from tuning.halving import psnr_at
from tuning.lease import Lease
from tuning.nursery import Child, Nursery
from tuning.objectives import scores_of
from tuning.processes import PATIENCE
from tuning.records import (
    BUDGET,
    DONE,
    FAILED,
    OVER_CAP,
    PART,
    PENDING,
    RUNG,
    RUNNING,
    STOPPED,
    UNFINISHED,
    Settings,
    folder_of,
    inherit,
    read_record,
    stop_mark,
    write_record,
)

POLL = 0.1
LAUNCHER = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Seconds that torchrun gives its ranks to save (30 without a word), before it kills them."""
LATE = "; killed, since it did not leave in time"


class Seen(NamedTuple):
    """How far a trial is: a rung reached (`over` False), or its end."""

    step: int
    psnr: float | None
    over: bool


class Trial:
    """Owns a trial's process and lease from `start` to `stop`."""

    def __init__(
        self, study: Path, settings: Settings, trial: str, *,
        nursery: Nursery | None = None, more: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`nursery`: what forks trainings of one process; `more`: words for this life only."""
        self._study, self._settings = study, settings
        self._nursery, self._more = nursery, tuple(more)
        self.record = read_record(study, trial)
        self._run = folder_of(study, trial)
        self._lease = Lease(
            study, settings, trial, watch=self._watch, ask=self._ask, kill=self._kill
        )
        self._process: Child | None = None
        self._known: processes.Process | None = None
        self._spawning = self._killed = self._marked = False
        self._starts = 0
        self._ending = threading.Lock()
        self._orphaned = 0.0
        self._parent = os.getppid()

    def start(self) -> bool:
        """Take the lease and start (or resume) the training; False where it cannot: the trial is
        over, the budget or its cap is spent, or what it goes on from is gone.

        Raises:
            OSError: the process that forks trainings is gone.
        """
        if self.record.status not in UNFINISHED:
            return False  # its worker was killed before Ray had heard of the end
        with self._ending:
            self._stop_mark.unlink(missing_ok=True)
            if not self._lease.take():
                self._cut_short("")
                return False
            begun = False
            try:
                begun = self._begin()
            finally:
                if not begun:
                    self._lease.end()
            return begun

    def _begin(self) -> bool:
        """The rest of a start; the lease is held, and beats."""
        if self.record.process:  # of an earlier life, whose worker was killed
            self._known = processes.Process(*self.record.process)
            processes.end([self._known], patience=PATIENCE)
            elsewhere.wait(self._run, patience=PATIENCE, unless=lambda: self._lease.refused)
        try:
            inherit(self._study, self.record)
        except (UserError, OSError) as error:
            self._note(status=FAILED, reason=one_line(error))
            return False
        self._starts = len(self._state().get("starts", []))
        try:
            if not self._lease.refused:
                self._spawn([*command(self._study, self._settings, self.record), *self._more])
                return True
        except OSError:
            if not self._lease.refused:
                raise  # Tune takes the trial up again, with another worker
        self._cut_short(" before it had begun")
        return False

    def advance(self) -> Seen:
        """Wait for the next rung or the end, and say which. Call again after a rung."""
        reached = {step for step, _ in self.record.rungs}
        while True:
            ended = self._process is None or self._process.poll() is not None
            for rung in self._settings.rungs:
                if rung not in reached and (psnr := psnr_at(self._run, rung)) is not None:
                    self._note(rungs=(*self.record.rungs, (rung, psnr)), step=rung)
                    if not ended:
                        return Seen(rung, psnr, over=False)
                    reached.add(rung)
            if ended and self._orphaned:
                threading.Event().wait()  # for ever: `_leave` ends this process
            if ended:
                self._finish()
                return Seen(self.record.step, None, over=True)
            time.sleep(POLL)

    def stop(self, reason: str = RUNG) -> None:
        """Have the training save and leave, and give its accelerators back. Safe to call twice."""
        with self._ending:
            if self._process is not None and self._process.poll() is None:
                self._terminate()
            self._lease.end()
            if self.record.status == RUNNING:
                self._note(status=STOPPED, reason=reason)

    def _finish(self) -> None:
        """Read how the training ended, evaluate it where that is wanted, and let go."""
        try:
            state = self._state()
            self._note(step=int(state.get("step", self.record.step)))
            code = self._process.returncode if self._process else None
            begun = len(state.get("starts", [])) > self._starts
            if state.get("status") == WHOLE.status and code == 0:
                self._judge()
            elif self._lease.refused:
                saved = "; saved" if state.get("status") == PREEMPTED.status else ""
                self._cut_short(LATE if self._killed else saved)
            elif interrupted(state, code, begun=begun):
                self._note(status=PENDING, reason="interrupted by a signal")
            elif kept := elsewhere.kept_out(
                self._run, code, begun=begun, workers=self._settings.workers
            ):
                self._note(status=PENDING, reason=kept)
            else:
                self._note(status=FAILED, reason=why(self._run, state, code))
        except (UserError, ValueError, OSError) as error:
            if self._lease.refused:
                self._cut_short(" before the evaluation")
            else:
                self._note(status=FAILED, reason=one_line(error))
        finally:
            self._lease.end()

    def _judge(self) -> None:
        """Evaluate a finished training where that is wanted, and note its scores."""
        code = self._evaluate()
        if code and self._lease.refused:
            self._cut_short(" before the evaluation")
        elif asked(code):
            self._note(status=PENDING, reason="interrupted by a signal before the evaluation")
        elif code:
            told = KILLED if killed(self._run, code) else last_words(self._run)
            raise UserError(f"evaluation: {told}")
        else:
            scores = scores_of(self._settings.objectives, self._run, self._settings.manifest)
            whole = self.record.until in (0, self._settings.steps)
            self._note(status=DONE if whole else PART, scores=scores)

    def _evaluate(self) -> int:
        options = evaluation(self._settings)
        if not options:
            return 0
        self._spawn([sys.executable, "-m", "trainer.evaluate", str(self._run), *options])
        assert self._process is not None
        return self._process.wait()

    def _cut_short(self, when: str) -> None:
        """Note that no more time was given: a larger budget goes on with the trial, unless it is
        over its own cap."""
        if self._lease.capped:
            cap = f"{OVER_CAP} of {self._settings.cap:g} accelerator-seconds"
            self._note(status=STOPPED, reason=f"{cap}{when}")
        else:
            problem = self._lease.problem
            what = f"the ledger cannot be kept ({problem})" if problem else "the budget is spent"
            self._note(status=BUDGET, reason=f"{what}{when}")

    def _spawn(self, words: list[str]) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        # A launcher that is killed first would leave ranks behind that hang.
        around = {LAUNCHER: f"{PATIENCE - 10:.0f}", **environment(self._settings)}
        if self._nursery is not None:
            self._spawning = True
            self._process = self._nursery.spawn(
                words[1:], log=self._run / LOG, cwd=self._study, environment=around
            )
            self._spawning = False
        else:
            tether = [sys.executable, "-m", "tuning.tether", str(os.getpid())]
            with (self._run / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*tether, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    env=around, cwd=self._study, start_new_session=True,
                )  # fmt: skip
        self._known = processes.process(self._process.pid)
        known = tuple(self._known) if self._known else None
        self._note(status=RUNNING, reason="", process=known)
        if self._lease.refused or self._orphaned:
            self._process.terminate()

    def _terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()

    # What the lease's thread calls. It never asks whether the process has ended: a nursery tells
    # that once, and to the thread that waits for it.

    def _ask(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def _kill(self) -> None:
        if self._known is not None and processes.kill(self._known):
            self._killed = True
        elif self._spawning and self._nursery is not None:
            self._nursery.close()  # it still imports; whoever waits for it gets an error

    def _watch(self) -> None:
        if os.getppid() != self._parent:
            self._leave()
        elif not self._marked and self._stop_mark.exists():
            self._marked = True
            # In another thread: the lease is held on while the training saves.
            threading.Thread(target=self.stop, name="stop", daemon=True).start()

    def _leave(self) -> None:
        """Ray is gone, so nobody waits for this trial: have it save, give back, end this process.
        The record stays as it is; the search's next life goes on with the trial."""
        if not self._orphaned:
            self._orphaned = time.monotonic()
            self._ask()
        if self._known is not None and processes.alive(self._known):
            if time.monotonic() - self._orphaned > PATIENCE:
                self._kill()
            return
        try:
            self._lease.end()
        finally:
            os._exit(1)

    @property
    def _stop_mark(self) -> Path:
        return stop_mark(self._study, self.record.id)

    def _state(self) -> dict:
        return read_json(self._run / RUN_FILE)

    def _note(self, **fields: object) -> None:
        self.record = write_record(self._study, self.record._replace(**fields))  # pyright: ignore
