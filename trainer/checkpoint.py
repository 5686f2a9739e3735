"""Crash-safe checkpoints of all ranks together.

Every rank writes its share into one temporary folder and makes it durable; all ranks exchange sizes
and digests; only if every rank succeeded does rank 0 write the manifest and rename the folder. From
the first commit on there is always a loadable checkpoint, whatever is killed. Nothing is unpickled.

    checkpoints/step-00000120/
        common-NAME.safetensors         tensors that are equal on all ranks, written by rank 0
        own-RANK-of-WORLD.safetensors   latent pages of one rank, streamed (then .1, .2, ...)
        state.json                      step, counters, fingerprints
        MANIFEST.json                   size and SHA-256 of every file; file and digests of pages
"""

from __future__ import annotations

import logging
import math
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_shards.cores import SAVING, give_way
from data_shards.errors import UserError
from trainer import commit, commons
from trainer.comm import Comm
from trainer.retention import CheckpointConfig, remove, spare
from trainer.saved import Saved, agreed_damage
from trainer.share import BUG, MEND, STOP, Job, Share, explain, read_share
from trainer.snapshot import Pages

CHECKPOINTS = "checkpoints"
TOUCH = "SAVE"
"""A file of this name in the run folder asks for a checkpoint."""

log = logging.getLogger("navsynth")


class Checkpointer:
    """Saves and finds the checkpoints of one run folder. Methods are called by all ranks together,
    except `due`, `busy` and `open`."""

    def __init__(
        self, folder: str | Path, config: CheckpointConfig, *, comm: Comm,
        beat: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`beat` is called between files of a save that training waits for (see `watchdog`)."""
        self._run, self._folder = Path(folder), Path(folder) / CHECKPOINTS
        self._config, self._comm, self._beat = config, comm, beat
        self._known: set[int] = set()
        self._pending: tuple[Job, Future[Share]] | None = None
        self._closed, self._answers, self.copies = False, False, commons.Copies()
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=give_way, initargs=(SAVING,))
        self._saved_at = self._looked_at = time.monotonic()
        self.last_bytes = 0
        """Size of the last commit, of all ranks."""

    def due(self, step: int) -> bool:
        """Whether this rank thinks that a save is due after `step`. The clock and the touch file
        are rank 0's: let the ranks agree before calling `save`."""
        config, now = self._config, time.monotonic()
        if step in self._known:
            return False
        if config.at_step(step):
            return True
        if self._comm.rank:
            return False
        if now - self._saved_at >= config.seconds:
            return True
        if self._pending or now - self._looked_at < 1:
            return False
        self._looked_at = now
        return self._wanted()

    @property
    def busy(self) -> bool:
        """Whether a background save of this rank is being written."""
        return self._pending is not None and not self._pending[1].done()

    def save(
        self,
        step: int,
        *,
        common: Mapping[str, Mapping[str, torch.Tensor]],
        own: Iterator[tuple[str, torch.Tensor]],
        state: Mapping[str, Any],
        score: float | None = None,
        background: bool = False,
    ) -> Path | None:
        """Save the run after `step`; the committed folder, or None while it is being written.

        With `background`, `common` and `state` are copied now, `own` is read in a thread (so it
        must be a snapshot), and `poll` or `finish` commits.

        Args:
            own: this rank's pages; read once, one after another.
            score: higher is better (PSNR in dB); for `CheckpointConfig.best`.

        Raises:
            UserError: a rank could not write, and `on_full` is stop; rows on disk are lost.
        """
        self.finish()
        target = self._folder / commit.step_name(step)
        if step in self._known:
            return target
        taken, take = [commons.NOTHING], partial(self.copies.take, common, state, copy=background)
        job = self._begin(step, score, lambda: taken.append(take()))
        if job is None:
            return None
        if isinstance(own, Pages):
            own.set_aside_in(job.folder)
            own.lend()
        stem = f"own-{self._comm.rank}-of-{self._comm.world}"
        work = partial(commons.write, job.folder, stem, taken[-1], own, beside=background)
        if background:
            self._pending = (job, self._thread.submit(work, beat=self._go_on))
            return None
        return self._commit(job, work(beat=self._beat))

    def poll(self, *, ready: bool | None = None) -> Path | None:
        """Commit a background save once every rank has written its files; the folder when it does.

        Costs nothing without a pending save; with one, a collective of one number. A caller that
        has already agreed on `not busy` with all ranks passes the answer as `ready`.
        """
        if self._pending is None:
            return None
        if ready is None:
            ready = not int(self._comm.max_(torch.tensor([int(self.busy)])))
        return self.finish() if ready else None

    def finish(self) -> Path | None:
        """Wait for a pending background save and commit it; the folder if there was one."""
        if self._pending is None:
            return None
        (job, future), self._pending = self._pending, None
        return self._commit(job, future.result())

    def latest(self) -> Path | None:
        """For readers, alike on all ranks: the newest whole checkpoint; `Held` verifies its rows.

        Raises:
            UserError: there are checkpoints and none is whole; the run folder is not shared.
        """
        return self._newest(set_aside=False)

    def recover(self) -> Path | None:
        """Before training, under the run's lock: clean up after dead runs, then as `latest`, but
        every byte is verified; a damaged checkpoint is renamed to `step-N.damaged`."""
        errors = self._on_first(self._clean)
        if errors:
            raise UserError(f"{self._folder}: cannot be cleaned up: {errors}")
        return self._newest(set_aside=True)

    def at(self, step: int) -> Path:
        """The checkpoint of one step, for readers as `latest`.

        Raises:
            UserError: there is none, or it is damaged.
        """
        name = commit.step_name(step)
        steps = self._comm.gather_json(commit.committed(self._folder))[0]
        if step not in steps:
            has = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self._folder}: no checkpoint of step {step}; there are: {has}")
        reason = agreed_damage(self._folder / name, comm=self._comm, whole=False)
        if reason and (self._folder / name).is_dir():  # else `open` tells that it is gone
            raise UserError(f"{self._folder / name}: damaged ({reason}); choose another step")
        return self._folder / name

    def open(self, path: Path) -> Saved:
        """Read a checkpoint that `latest`, `recover` or `at` gave."""
        return Saved(path)

    def close(self) -> None:
        """End the thread, by this rank alone: also after an error, when others may be gone. A
        pending save that `finish` has not committed is left for the next life to clean up."""
        self._pending, self._closed = None, True
        self._thread.shutdown()

    def _go_on(self) -> None:
        """Called by the thread between tensors: after `close` nobody commits what it writes."""
        if self._closed:
            raise OSError("given up")

    def _wanted(self) -> bool:
        """Whether somebody asks for a checkpoint; nobody does where the disk does not tell."""
        try:
            return (self._run / TOUCH).exists()
        except OSError:
            return False

    def _begin(self, step: int, score: float | None, prepare: Callable[[], Any]) -> Job | None:
        """Agree on a temporary folder; rank 0 prepares its files' contents and makes the folder."""
        name = f"{commit.WRITING}{commit.step_name(step)}-{secrets.token_hex(4)}"
        name = self._comm.gather_json(name)[0]
        self._saved_at = time.monotonic()
        self._answers = not self._comm.rank and self._wanted()
        error = self._on_first(lambda: (prepare(), (self._folder / name).mkdir(parents=True)))
        if error:
            return self._failed(step, [f"rank 0: {error}"])
        known = score is not None and math.isfinite(score)
        return Job(step, score if known else None, self._folder / name)

    def _commit(self, job: Job, share: Share) -> Path | None:
        shares = [read_share(raw) for raw in self._comm.gather_json(share.to_json())]
        errors = [f"rank {r}: {s.error}" for r, s in enumerate(shares) if s.error]
        target = self._folder / commit.step_name(job.step)
        if not errors:
            manifest = commit.CheckpointManifest(
                job.step, self._comm.world, job.score,
                {name: facts for s in shares for name, facts in s.files.items()},
                {name: file for s in shares for name, file in s.index.items()},
                {name: told for s in shares for name, told in s.digests.items()},
            )  # fmt: skip
            self.last_bytes = sum(file.bytes for file in manifest.files.values())
            publish = partial(commit.publish, job.folder, target, manifest, drop=self._drop)
            error = self._on_first(publish)
            errors = [f"rank 0: {error}"] if error else []
        if errors:
            self._on_first(lambda: shutil.rmtree(job.folder, ignore_errors=True))
            return self._failed(job.step, errors)
        self._known.add(job.step)
        error = self._on_first(self._retain)
        if error and self._comm.rank == 0:
            log.warning("%s: old checkpoints could not be removed: %s", self._folder, error)
        return target

    def _failed(self, step: int, errors: list[str]) -> None:
        message = f"{self._folder}: no checkpoint of step {step}: {'; '.join(errors)}"
        if any(BUG in error for error in errors):
            raise RuntimeError(message)
        if any(STOP in error for error in errors):
            raise UserError(message)
        if self._config.on_full == "stop":
            raise UserError(f"{message}; {MEND}")
        if self._comm.rank == 0:
            log.warning("%s; training goes on without it", message)

    def _retain(self) -> None:
        """Drop what the settings do not keep; the newest commit is durable by now."""
        if self._answers:  # else it was asked for after this one had begun
            (self._run / TOUCH).unlink(missing_ok=True)
        for step in spare(self._folder, self._config):
            self._drop(self._folder / commit.step_name(step))
            self._known.discard(step)

    def _drop(self, folder: Path) -> None:
        """A checkpoint goes; its files in the thread, since removing gigabytes takes seconds."""
        self._thread.submit(remove, commit.retire(folder))

    def _newest(self, *, set_aside: bool) -> Path | None:
        steps = self._comm.gather_json(commit.committed(self._folder))[0]
        damaged = []
        for step in reversed(steps):
            name = commit.step_name(step)
            reason = agreed_damage(self._folder / name, comm=self._comm, whole=set_aside)
            if reason is None:
                # Later ones will be made again, and what rank 0 dropped is known to it alone.
                self._known = {known for known in self._known if known < step} | {step}
                return self._folder / name
            gone = not set_aside and not (self._folder / name).is_dir()
            if self._comm.gather_json(gone)[0]:  # a training has replaced it by a newer one
                return self._newest(set_aside=False)
            damaged.append(name)
            self._known.discard(step)
            if self._comm.rank == 0:
                log.warning("%s: damaged, not used: %s", self._folder / name, reason)
            if set_aside:
                self._on_first(partial(commit.set_aside, self._folder / name))
        spoiled = sorted(p.name for p in self._folder.glob(f"step-*{commit.DAMAGED}*"))
        spoiled = self._comm.gather_json(damaged or spoiled)[0]
        if spoiled:
            raise UserError(
                f"{self._folder}: no loadable checkpoint, damaged: {', '.join(spoiled)}; put good "
                "copies back, or move the run folder away to start again"
            )
        return None

    def _clean(self) -> None:
        self._thread.submit(lambda: None).result()  # wait: what was dropped is removed there
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in commit.clean(self._folder):
            log.info("%s: removed, left by a run that ended while saving", name)

    def _on_first(self, action: Callable[[], Any]) -> str | None:
        """Let rank 0 do something; all ranks learn what went wrong."""
        error = None
        if self._comm.rank == 0:
            try:
                action()
            except Exception as failure:
                error = explain(failure, self._folder)
        return self._comm.gather_json(error)[0]
