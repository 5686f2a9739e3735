"""One trial: a training like any other, in a process of its own, watched through its run folder.

`trainer/main.py` runs as a subprocess (through accelerate where a trial has several workers); its
run.json and metrics.jsonl say how far it is. A thread beats the ledger while accelerators are held;
when the budget bears no further interval, the training gets SIGTERM, saves, and can go on later.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError
from trainer import journal
from trainer.commit import read_json
from tuning import processes
from tuning.command import command, environment
from tuning.ledger import Ledger
from tuning.nursery import Child, Nursery
from tuning.objectives import FIT_STEPS, OBJECTIVES, UNSEEN, scores_of
from tuning.records import (
    BUDGET,
    DONE,
    FAILED,
    PART,
    RUNNING,
    STOPPED,
    Settings,
    folder_of,
    inherit,
    read_record,
    stop_mark,
    write_record,
)

LOG = "trial.log"
POLL = 0.1
WATCH = 0.2
"""Seconds after which a trial that is to be stopped knows it."""
PATIENCE = 120.0
"""Seconds that a training may take to save after SIGTERM, before it is killed."""
MEMORY = re.compile(r"out of memory|MemoryError|can't allocate memory|cannot allocate", re.I)


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
        self._ledger = Ledger(study)
        self._lease = f"{trial}.{uuid.uuid4().hex[:8]}"
        self._process: Child | None = None
        self._ending = threading.RLock()
        self._let_go, self._orphaned = threading.Event(), threading.Event()
        self._parent = os.getppid()
        self._refused, self._capped = threading.Event(), False
        self._earlier = self._ledger.account().of_trial(trial)
        self._thread = threading.Thread(target=self._beat, name="ledger", daemon=True)
        self._begun = 0.0

    def start(self) -> bool:
        """Take the lease and start (or resume) the training; False where it cannot: the budget or
        its cap is spent, or what it goes on from is gone."""
        self._begun = time.monotonic()
        self._capped = self._over_cap()
        if self._capped or not self._hold():
            self._cut_short("")
            return False
        if self.record.process:  # of an earlier life, whose worker was killed
            processes.end([processes.Process(*self.record.process)])
        self._stop_mark.unlink(missing_ok=True)
        self._thread.start()
        try:
            inherit(self._study, self.record)
        except (UserError, OSError) as error:
            self._note(status=FAILED, reason=" ".join(str(error).split()))
            self._release()
            return False
        self._spawn([*command(self._study, self._settings, self.record), *self._more])
        return True

    def advance(self) -> Seen:
        """Wait for the next rung or the end, and say which. Call again after a rung."""
        reached = {step for step, _ in self.record.rungs}
        while True:
            ended = self._process is None or self._process.poll() is not None
            for rung in self._settings.rungs:
                if rung not in reached and (psnr := self._at(rung)) is not None:
                    self._note(rungs=(*self.record.rungs, (rung, psnr)), step=rung)
                    if not ended:
                        return Seen(rung, psnr, over=False)
                    reached.add(rung)
            if ended and self._orphaned.is_set():
                self._let_go.wait()  # for ever: `_leave` ends this process
            if ended:
                self._finish()
                return Seen(self.record.step, None, over=True)
            time.sleep(POLL)

    def stop(self, reason: str = "stopped at a rung") -> None:
        """Have the training save and leave, and give its accelerators back. Safe to call twice."""
        with self._ending:
            if self._process is not None and self._process.poll() is None:
                self._terminate()
            self._release()
            if self.record.status == RUNNING:
                self._note(status=STOPPED, reason=reason)

    def _at(self, rung: int) -> float | None:
        """Training PSNR at a rung: mean over the lines of the last third before it."""
        path = self._run / "metrics.jsonl"
        if not path.is_file():
            return None
        lines = [x for x in journal.read(path) if x.get("psnr") is not None]
        if not lines or lines[-1]["step"] < rung:
            return None
        near = [x["psnr"] for x in lines if 2 * rung / 3 <= x["step"] <= rung]
        near = near or [next(x["psnr"] for x in lines if x["step"] >= rung)]
        return sum(near) / len(near)

    def _finish(self) -> None:
        """Read how the training ended, evaluate it where that is wanted, and let go."""
        try:
            state = read_json(self._run / "run.json")
            self._note(step=int(state.get("step", self.record.step)))
            if state.get("status") == "done" and self._process and not self._process.returncode:
                self._evaluate()
                if self._refused.is_set() and self._process.returncode:
                    self._cut_short(" before the evaluation")
                else:
                    scores = scores_of(
                        self._settings.objectives, self._run, self._settings.manifest
                    )
                    whole = self.record.until in (0, self._settings.steps)
                    self._note(status=DONE if whole else PART, scores=scores)
            elif self._refused.is_set():
                self._cut_short("; saved")
            else:
                self._note(status=FAILED, reason=self._why(state))
        except (UserError, ValueError, OSError) as error:
            self._note(status=FAILED, reason=" ".join(str(error).split()))
        finally:
            self._release()

    def _cut_short(self, when: str) -> None:
        """Note that no more time was given: a larger budget goes on with the trial, unless it is
        over its own cap."""
        if self._capped:
            cap = f"over its cap of {self._settings.cap:g} accelerator-seconds"
            self._note(status=STOPPED, reason=f"{cap}{when}")
        else:
            self._note(status=BUDGET, reason=f"the budget is spent{when}")

    def _over_cap(self) -> bool:
        held = self._settings.width * (time.monotonic() - self._begun)
        return 0 < self._settings.cap <= self._earlier + held

    def _evaluate(self) -> None:
        if not any(OBJECTIVES[name].evaluated for name in self._settings.objectives):
            return
        asked = set(self._settings.objectives)
        # Held-out cells are scored whole; of training videos no more than the objectives ask for.
        videos = "500" if asked & {"mcs", "fcs"} else "1"
        words = [sys.executable, "-m", "trainer.evaluate", str(self._run), "--videos", videos]
        words += ["--vgg", self._settings.vgg] if self._settings.vgg else []
        words += ["--fit", str(FIT_STEPS)] if asked & set(UNSEEN) else []
        words += [] if any(name.endswith("mcs") for name in asked) else ["--no-mcs"]
        self._spawn(words)
        assert self._process is not None
        if self._process.wait() and not self._refused.is_set():
            raise UserError(f"evaluation: {self._last_words()}")

    def _why(self, state: dict) -> str:
        """One line on why a training did not end well."""
        code = self._process.returncode if self._process else None
        log = self._log()
        if MEMORY.search(log):
            return "out of memory"
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return "killed by signal 9 (out of memory, perhaps)"
        told = state.get("status")
        if told in ("non-finite", "hang", "lost-rank", "user-error"):
            return f"{told}: {state.get('reason') or self._last_words()}"
        return f"ended with code {code}: {self._last_words()}"

    def _log(self) -> str:
        path = self._run / LOG
        return path.read_text(errors="replace")[-20_000:] if path.is_file() else ""

    def _last_words(self) -> str:
        return (self._log().strip().splitlines() or ["no output"])[-1][:300]

    def _spawn(self, words: list[str]) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        if self._nursery is not None:
            self._process = self._nursery.spawn(
                words[1:], log=self._run / LOG, cwd=self._study, environment=environment()
            )
        else:
            tether = [sys.executable, "-m", "tuning.tether", str(os.getpid())]
            with (self._run / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*tether, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    env=environment(), cwd=self._study, start_new_session=True,
                )  # fmt: skip
        known = processes.process(self._process.pid)
        self._note(status=RUNNING, reason="", process=tuple(known) if known else None)
        if self._refused.is_set():
            self._process.terminate()

    def _terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _hold(self) -> bool:
        until = time.monotonic() - self._begun + self._settings.interval
        return self._ledger.hold(
            self._lease, trial=self.record.id, width=self._settings.width, until=until
        )

    @property
    def _stop_mark(self) -> Path:
        return stop_mark(self._study, self.record.id)

    def _beat(self) -> None:
        """Reserve the next interval at half of each; end the training when that is refused, and
        the trial when the search has no use for it."""
        half = self._settings.interval / 2
        due = time.monotonic() + half
        while not self._let_go.wait(min(WATCH, half)):
            if os.getppid() != self._parent:
                self._leave()
            # Without waiting: whoever holds the lock waits for this thread.
            if self._stop_mark.exists() and self._ending.acquire(blocking=False):
                try:
                    self.stop()
                finally:
                    self._ending.release()
                return
            if self._refused.is_set():
                continue
            self._capped = self._over_cap()
            if time.monotonic() < due and not self._capped:
                continue
            due = time.monotonic() + half
            if self._capped or not self._hold():
                self._refused.set()
                if self._process is not None and self._process.poll() is None:
                    self._process.terminate()

    def _leave(self) -> None:
        """Ray is gone, so nobody waits for this trial: have it save, give back, end this process.
        The record stays as it is; the search's next life goes on with the trial."""
        self._orphaned.set()
        if self._process is not None:
            self._process.terminate()
            while processes.process(self._process.pid):
                time.sleep(POLL)
        self._ledger.end(self._lease, held=time.monotonic() - self._begun)
        os._exit(1)

    def _release(self) -> None:
        self._let_go.set()
        if self._thread.ident is not None:
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._ledger.end(self._lease, held=time.monotonic() - self._begun)
            self._thread = threading.Thread(name="ended")

    def _note(self, **fields: object) -> None:
        self.record = write_record(self._study, self.record._replace(**fields))  # pyright: ignore
