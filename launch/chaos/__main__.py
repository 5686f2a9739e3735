"""Kill a training at random points, resume it, and compare it with one never killed.

Run: python -m launch.chaos [setting=value ...] --kills 200 --seed 7 --ranks 1 2

Victims are ranks, launchers and loader processes (kill -9) and whole runs (SIGTERM); the moments
are those that can be seen in the run's files: while it resumes, takes a step, writes, renames or
deletes a checkpoint. Without `data.manifest` it makes a tiny set of its own. Needs Linux.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.ending import ended
from data_shards.errors import UserError
from data_shards.prepare import main as prepare
from launch.chaos.processes import PATIENCE, Training, kill
from launch.chaos.tally import Tally, bits_different, last_step, newest_whole
from trainer.commit import DROPPING, WRITING, committed, read_json, step_name
from trainer.leaving import DONE, RUN_FILE
from trainer.telemetry import METRICS_FILE

TINY = (
    "networks.channels=8", "networks.hidden=12", "latents.static=6", "latents.transient=10",
    "schedule.clips=3", "schedule.frames=2", "optim.curve=constant", "train.average=0.9",
    "train.steps=24",
)  # fmt: skip
"""For the set of its own: seconds a life."""
ALWAYS = (
    "train.log_steps=1", "train.sample_minutes=0", "checkpoint.minutes=0", "telemetry.log=none",
    "telemetry.endpoint=false", "data.cache_mib=0", "begin.latents=random",
)  # fmt: skip
SAVE_STEPS = 3


class Plan(NamedTuple):
    """How one life is to end."""

    target: str
    moment: str
    steps: int
    """For the moment `step`: how many it may take."""
    delay: float
    """Seconds after the moment, so that kills fall everywhere in what follows."""
    words: tuple[str, ...]
    """Settings that must not matter for the result."""


def draw(dice: random.Random, *, ranks: int) -> Plan:
    """A way to end a life."""
    target = dice.choice(("rank", "rank", "worker", "SIGTERM", *(["launcher"] * (ranks > 1))))
    workers = 1 if target == "worker" else dice.choice((0, 0, 1))
    background = dice.choice(("true", "false"))
    return Plan(
        target, dice.choice(list(MOMENTS)), dice.randint(1, 2 * SAVE_STEPS),
        dice.choice((0.0, 0.0, 0.02 * dice.random())),
        (f"data.workers={workers}", f"checkpoint.background={background}"),
    )  # fmt: skip


class Seen(NamedTuple):
    """A run's files before a life."""

    lives: int
    log: tuple[int, ...]
    """What changes when a life opens or writes the metric log."""
    saved: list[int]


def look(run: Path) -> Seen:
    """What can be seen of a run now."""
    record = read_json(run / RUN_FILE) if run.is_dir() else {}
    return Seen(len(record.get("starts", [])), stamp(run), committed(run / "checkpoints"))


def stamp(run: Path) -> tuple[int, ...]:
    """File number, size and time of a run's metric log; empty without one."""
    path = run / METRICS_FILE
    if not path.exists():
        return ()
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _has(run: Path, prefix: str) -> bool:
    folder = run / "checkpoints"
    return folder.is_dir() and any(p.name.startswith(prefix) for p in folder.iterdir())


MOMENTS: dict[str, Callable[[Path, Seen, Plan], bool]] = {
    "resuming": lambda run, before, plan: look(run).lives > before.lives,
    "stepping": lambda run, before, plan: (
        look(run).lives > before.lives and last_step(run) >= (before.saved or [0])[-1] + plan.steps
    ),
    "writing": lambda run, before, plan: _has(run, WRITING),
    "renaming": lambda run, before, plan: committed(run / "checkpoints")[-1:] > before.saved[-1:],
    "deleting": lambda run, before, plan: (
        _has(run, DROPPING) or committed(run / "checkpoints")[:1] > before.saved[:1] > []
    ),
}


def strike(training: Training, plan: Plan, dice: random.Random) -> bool:
    """Kill what the plan says; whether it was there."""
    time.sleep(plan.delay)
    ranks, workers = training.ranks(), training.workers()
    if plan.target == "SIGTERM":
        return sum(kill(pid, signal.SIGTERM) for pid in ranks) > 0
    victims = {"launcher": [training.root], "worker": workers}.get(plan.target) or ranks
    return bool(victims) and kill(dice.choice(victims))


def one_life(
    run: Path, words: Sequence[str], plan: Plan, *, ranks: int, dice: random.Random, tally: Tally
) -> None:
    """Start, wait for the moment, kill, and see what is left."""
    before = look(run)
    had = newest_whole(run) is not None
    training = Training([*words, *plan.words], ranks=ranks, log=run.with_suffix(".log"))
    end = time.monotonic() + PATIENCE
    while not training.over and time.monotonic() < end:
        if MOMENTS[plan.moment](run, before, plan):
            break
        time.sleep(0.0005)
    struck = strike(training, plan, dice)
    tally.stuck += len(training.wait())
    if struck:
        tally.kills += 1
        tally.targets[plan.target] += 1
        tally.moments[plan.moment] += 1
    whole = newest_whole(run)
    tally.without += had and whole is None
    # A life that was ended before it opened the log still shows the steps of the life before.
    stepped = stamp(run) != before.log
    tally.lost.append(last_step(run) - (whole or 0) if stepped else 0)


def ends(run: Path) -> bool:
    """Whether a run is done."""
    return run.is_dir() and read_json(run / RUN_FILE).get("status") == DONE.status


def chaos(
    words: Sequence[str], *, kills: int, seed: int, ranks: Sequence[int], folder: Path,
    say: Callable[[str], None] = print,
) -> Tally:  # fmt: skip
    """Kill runs until `kills` is reached; each goes on to its end and is compared.

    Raises:
        UserError: the training does not work without any kill either.
    """
    dice, tally = random.Random(seed), Tally(seed, SAVE_STEPS)
    for number in range(10 * kills):
        if tally.kills >= kills:
            break
        world = ranks[number % len(ranks)]
        common = ["--runs", str(folder), f"checkpoint.steps={SAVE_STEPS}", *ALWAYS, *words]
        reference, run = folder / f"straight-{world}", folder / f"run-{number}"
        if not ends(reference):
            _finish(reference, common, world)
        tally.runs += 1
        for _ in range(kills):
            if ends(run) or tally.kills >= kills:
                break
            named = [*common, f"name={run.name}"]
            plan = draw(dice, ranks=world)
            one_life(run, named, plan, ranks=world, dice=dice, tally=tally)
        _finish(run, common, world)
        steps = [committed(path / "checkpoints")[-1] for path in (run, reference)]
        pair = [
            p / "checkpoints" / step_name(s) for p, s in zip((run, reference), steps, strict=True)
        ]
        tally.bits += bits_different(pair[0], pair[1])
        tally.survived += ends(run)
        lives = look(run).lives
        say(f"{run.name}: {world} rank{'s' * (world > 1)}, {lives} lives, {tally.kills} kills")
    return tally


def _finish(run: Path, common: Sequence[str], ranks: int) -> None:
    """Let a run go on to its end."""
    if ends(run):
        return
    log = run.with_suffix(".log")
    Training([*common, f"name={run.name}"], ranks=ranks, log=log).wait()
    if not ends(run):
        told = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise UserError(f"{run}: does not finish when left alone ({' | '.join(told)}); see {log}")


@ended
def main(argv: list[str] | None = None) -> int:
    """Entry point: 0 where every promise was kept, 1 where not."""
    parser = argparse.ArgumentParser(
        prog="launch.chaos", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("words", nargs="*", metavar="setting=value", help="for trainer/main.py")
    parser.add_argument("--kills", type=int, default=15, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, help="of every choice; one is drawn and printed")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 1, 2], help="of the runs in turn"
    )
    parser.add_argument("--folder", type=Path, help="keep the runs here; else they are deleted")
    args = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            words = [*TINY, *args.words]
            if not any(word.startswith("data.manifest=") for word in words):
                words.append(f"data.manifest={_own_set(folder / 'set')}")
            tally = chaos(words, kills=args.kills, seed=seed, ranks=args.ranks, folder=folder)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(tally.text())
    return 0 if tally.kept else 1


def _own_set(folder: Path) -> Path:
    """A few tiny videos."""
    words = ["synthetic", "--out", str(folder), "--identities", "3", "--actions", "2",
             "--frames", "6", "--size", "32"]  # fmt: skip
    if prepare(words):
        raise UserError(f"{folder}: the set of its own could not be prepared")
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
