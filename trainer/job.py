"""One run from its folder: join the ranks, take the lock, resume, train, tell how it ended."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from data_shards.dataset import ClipReader, Request, problem_of
from data_shards.errors import UserError
from data_shards.rows import rows_of
from data_shards.stream import OpenManifest
from trainer import beginning, lives, other_footage, room, setup
from trainer.checkpoint import Checkpointer
from trainer.claim import claim, open_telemetry
from trainer.config import Config
from trainer.engine import Engine
from trainer.fidelity import fidelity
from trainer.last_words import LastWords, said, told_of
from trainer.latents import KINDS
from trainer.leaving import (
    DONE,
    FAILED,
    HANG,
    LOST_RANK,
    PREEMPTED,
    Asked,
    Ending,
    ending_of,
    leave,
    one_line,
    signals,
)
from trainer.loop import Parts, Progress, finished, length, save
from trainer.observe import Observer
from trainer.parallel import Ranks, start
from trainer.rollback import train_with_rollbacks
from trainer.run import open_run
from trainer.runlock import InUse, take_lock
from trainer.saves import Saves
from trainer.sheet import write_sheet
from trainer.summary import next_steps, write_samples
from trainer.watchdog import Watchdog

log = logging.getLogger("navsynth")


def run_job(
    config: Config, opened: OpenManifest, *, folder: Path, change_footage: bool = False
) -> Ending:
    """Run or resume a run, on other footage where `change_footage`; returns how it ended. Errors
    end every rank with the same code."""
    ranks = _join(config, folder)
    torch.use_deterministic_algorithms(config.train.deterministic)
    # A help against reading what was never written, at the price of writing everything twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore
    watchdog = Watchdog(folder, hang_seconds=config.train.hang_seconds, rank=ranks.comm.rank,
                        world=ranks.comm.world)  # fmt: skip
    words = LastWords(folder, rank=ranks.comm.rank, world=ranks.comm.world)
    try:
        with signals() as asked:  # until the way out is gone: launchers ask all to end at once
            open_parts = partial(
                _open, config, opened, folder, ranks, watchdog, asked, change=change_footage
            )
            try:
                return _with_lock(folder, ranks, watchdog, words, open_parts)
            except Exception as error:
                ending, reason = _why(error, watchdog, words, folder, ranks.comm.rank)
                _end(ending, reason, folder, ranks.comm.rank, in_use=isinstance(error, InUse))
    finally:
        watchdog.stop()  # what is no error of the run's goes on to a caller that may live on


def _why(
    error: Exception, watchdog: Watchdog, words: LastWords, folder: Path, rank: int
) -> tuple[Ending, str]:
    """How this rank ends, and the line that says why, which goes to stderr: once, where ranks end
    for the same reason."""
    ending, reason = told_of(error)
    if ending is FAILED:
        log.exception("rank %d", rank)
        return ending, reason
    if ending is LOST_RANK and (hung := watchdog.culprit()):
        ending, reason = HANG, hung
    elif ending is LOST_RANK:
        ending, reason = words.of_others() or (ending, reason)
    if rank == 0 or ending in (LOST_RANK, HANG):
        print(f"error: {reason}", file=sys.stderr)
    elif not isinstance(error, InUse) and not said(folder, reason):
        print(f"error: rank {rank}: {reason}", file=sys.stderr)
    return ending, reason


def _end(ending: Ending, reason: str, folder: Path, rank: int, *, in_use: bool) -> NoReturn:
    """Leave with what is to be known; of a folder that another job has, beside `run.json`."""
    if rank == 0 and in_use:
        lives.refuse(folder, reason, in_use=True)
    fields = lives.failure(folder, reason) if rank == 0 and not in_use else {}
    leave(ending, folder=None if in_use else folder, rank=rank, **fields)


def _join(config: Config, folder: Path) -> Ranks:
    """Meet the other ranks. One that is lost here ends this one, too; the run's folder is nobody's
    yet, so run.json is left alone."""
    try:
        return start(
            threads=config.train.threads,
            precision=config.train.precision,
            # Longer than the watchdog's patience: a hang is told by stacks, not by a lost peer.
            timeout_seconds=max(3600.0, 2 * config.train.hang_seconds),
        )
    except UserError as error:
        lives.refuse(folder, one_line(error), in_use=False)
        raise
    except RuntimeError as error:
        if ending_of(error) is not LOST_RANK:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        leave(LOST_RANK)


def _with_lock(
    folder: Path,
    ranks: Ranks,
    watchdog: Watchdog,
    words: LastWords,
    open_parts: Callable[[], tuple[Parts, Progress]],
) -> Ending:
    lock = take_lock(folder, comm=ranks.comm)
    try:
        words.begin()
        if lock is not None:
            lives.accept(folder)
        watchdog.start()
        with watchdog.patience(3600):  # a large checkpoint is verified, then read
            parts, begin = open_parts()
        ending = None
        try:
            ending = _train(parts, begin)
            return ending
        finally:
            watchdog.beat()
            parts.checkpoints.close()
            parts.telemetry.close(done=ending is not None)
            parts.engine.dictionary.close()
    except Exception as error:
        words.write(error)
        raise
    finally:
        if lock is not None:
            lock.release()


def _open(
    config: Config,
    opened: OpenManifest,
    folder: Path,
    ranks: Ranks,
    watchdog: Watchdog,
    asked: Asked,
    *,
    change: bool,
) -> tuple[Parts, Progress]:
    """Build every part, fresh or from the newest checkpoint."""
    comm = ranks.comm
    other, rows = other_footage.is_other(opened, folder, comm, allowed=change), ""
    checkpoints = Checkpointer(folder, config.checkpoint, comm=comm, beat=watchdog.beat)
    networks = setup.build_networks(config, opened.manifest)
    dictionary = setup.build_dictionary(config, opened.manifest, opened.table, comm=comm)
    engine = Engine(config, ranks=ranks, networks=networks, dictionary=dictionary)
    newest = checkpoints.recover()
    begin = Progress(0, 0.0)
    if newest is not None:
        saved = checkpoints.open(newest)
        footage = saved.state.get("fingerprint")
        other = other_footage.is_other(opened, folder, comm, allowed=change, saved=footage)
        restored, begin = engine.restore(saved), Progress.of(saved.state)
        if other:
            other_footage.require_steps(config, opened, begin)
            rows = other_footage.as_text(restored)
    elif config.begin.latents == "footage":
        with watchdog.patience(3600):
            _begin_at_footage(config, opened, engine)
    if not finished(config, length(config, opened.manifest.clips), begin.step, begin.seconds):
        weights = sum(weight.numel() for weight in networks.parameters())
        fresh = newest is None and config.begin.latents == "random"
        room.require(config, opened.manifest, folder, parameters=weights, comm=comm, fresh=fresh)
    # Only now, when nothing can be wrong with the settings any more, is the run this config's.
    changed = claim(config, opened, folder, engine) + rows
    telemetry = open_telemetry(config, opened, folder, ranks, begin)
    observer = Observer(engine, telemetry, folder=folder)
    saves = Saves(checkpoints, telemetry, saved=begin.step if newest else -1)
    parts = Parts(
        config, opened, engine, checkpoints, telemetry, watchdog, asked, folder, observer, saves
    )
    telemetry.note(
        "resumed" if newest else "started", step=begin.step, world=comm.world,
        text=f"{folder}: {'resumed at' if newest else 'starts at'} step {begin.step} on "
        f"{comm.world} process{'es' if comm.world > 1 else ''}, {ranks.device}{changed}",
    )  # fmt: skip
    if comm.rank == 0 and (idle := setup.without_clips(config, comm.world)):
        log.warning(idle)
    return parts, begin


def _begin_at_footage(config: Config, opened: OpenManifest, engine: Engine) -> None:
    """Begin at the footage's principal components and mean colour (rank 0 finds them)."""
    layout, manifest, comm = config.latents, opened.manifest, engine.ranks.comm
    setup.require_memory(config, opened)
    codes, colour_C, problem = None, torch.zeros(3), ""
    if comm.rank == 0:
        clips = np.arange(manifest.clips)
        part = ClipReader(opened, whole=True)[Request(0, clips, np.zeros_like(clips))]
        problem = problem_of(part, on_damage=config.data.on_damage)
        clips, frames_NTCHW = clips[part.valid_B.numpy()], part.frames_BTCHW[part.valid_B]
        problem = problem or ("" if len(clips) else "data.manifest: every clip is damaged")
    problem = comm.gather_json(problem)[0]
    if problem:
        raise UserError(problem)
    if comm.rank == 0:
        codes = beginning.codes_from_footage(
            frames_NTCHW,
            rows_of(opened, clips, layout.static_key),
            rows_of(opened, clips, layout.transient_key),
            rows=(manifest.rows(layout.static_key), manifest.rows(layout.transient_key)),
            widths=(layout.static, layout.transient),
            seed=config.seed,
        )
        if config.begin.noise:
            codes = beginning.with_noise(
                codes, config.begin.noise, seed=config.seed, scale=layout.init_scale
            )
        colour_C = beginning.mean_colour(frames_NTCHW)
    engine.begin_at_colour_(comm.broadcast_(colour_C))
    for kind, values in zip(KINDS, codes or (None, None), strict=True):
        engine.dictionary.assign(kind, values)


def _sample(parts: Parts, at: Progress) -> None:
    """A sheet; all ranks wait for it, since rank 0 may take as long as it is given."""
    write_sheet(parts, at)
    parts.engine.ranks.comm.barrier()


def _train(parts: Parts, begin: Progress) -> Ending:
    """Train, then look at the whole: PSNR, samples, report."""
    at, stopped = train_with_rollbacks(parts, begin, on_sample=lambda at: _sample(parts, at))
    rank, folder = parts.engine.ranks.comm.rank, parts.folder
    if stopped:
        text = f"{parts.asked.signal or 'a signal'}: saved step {at.step}; the same command resumes"
        parts.telemetry.note("preempted", step=at.step, text=text)
        if rank == 0:
            lives.end(folder, PREEMPTED, step=at.step)
        return PREEMPTED
    with parts.watchdog.patience(3600):
        with parts.engine.phases("evaluation"):
            found = fidelity(parts.engine, parts.opened)
            parts.observer.evaluated({"psnr": found.psnr, "psnr_worst": found.worst})
        with parts.engine.phases("checkpoint"):
            save(parts, at, score=found.psnr, last=True)
        parts.observer.finish()
        final = {**found._asdict(), "seconds": at.seconds}
        parts.telemetry.note(
            "finished", step=at.step, **final,
            text=f"{found.psnr:.2f} dB over {found.clips} clips (worst {found.worst:.2f} dB) after "
            f"{at.step} steps, {at.seconds:.0f} s",
        )  # fmt: skip
        if rank == 0:
            lives.end(folder, DONE, step=at.step, final=final)
            if parts.config.train.pictures:
                try:
                    finish(parts)
                except Exception as error:  # the run is done, whatever becomes of its pictures
                    bug = ending_of(error) is FAILED
                    log.warning("no samples or report: %s", one_line(error), exc_info=bug)
        parts.engine.ranks.comm.barrier()
    return DONE


def finish(parts: Parts) -> None:
    """Samples and the report of a finished run, from its files; rank 0."""
    write_samples(open_run(parts.folder))
    report = [sys.executable, "-m", "launch.report", str(parts.folder)]
    told = subprocess.run(report, capture_output=True, text=True, check=False)
    if told.returncode:
        log.warning("no report: %s", told.stderr.strip() or told.stdout.strip())
    parts.telemetry.say(next_steps(parts.folder))
