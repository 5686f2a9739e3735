"""The lives of a reproduction: what each spent on which stage, what it began, what was given.

A life is one process at work on an output folder. It writes down every `BEAT` seconds that it is
still there, so one that was killed is counted up to its last sign. The lives of one plan are a run,
which spends one budget. `lives.json` is whole at any moment.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from data_shards.disk import disk_errors
from data_shards.errors import UserError
from launch.reproduce.digests import training_digest
from trainer.commit import read_json, replace_durable

FILE = "lives.json"
FORMAT = 1
BEAT = 10.0
"""Seconds from one sign of life to the next."""
Start = Callable[[str, list[str], Path], int]
"""Runs a module with arguments, its output into a file (`context.Context.start`)."""


@dataclass
class Life:
    """One process at work on an output folder."""

    code: str
    """Digest of the code that it trains with."""
    run: str = ""
    """The run that it belongs to (`planner.run_of`); empty: not known yet."""
    seconds: float = 0.0
    """From the start of its process to its end or its last sign."""
    counted: bool = True
    """False: it found everything done."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that it worked on."""
    done: list[str] = field(default_factory=list)
    """Those of them that it brought to an end."""
    trainings: list[str] = field(default_factory=list)
    """Names of the trainings that it began, or went on with."""


class Origins(NamedTuple):
    """Which lives trainings are of."""

    here: int
    """Made by this life alone."""
    earlier: int
    """Begun by an earlier life of this run."""
    elsewhere: int
    """Begun by a life of another run, or by none on record."""
    other_code: int
    """Out of all: not made by the code of this life alone, or by none on record."""


class Lives:
    """All lives of an output folder; `with` it this process is one of them, until it ends."""

    def __init__(self, folder: Path, *, already: float = 0.0, beat: float = BEAT) -> None:
        """Read what earlier lives wrote.

        Args:
            folder: output folder of the reproduction.
            already: seconds that this life has lasted.
            beat: seconds from one sign of life to the next.

        Raises:
            UserError: the file is damaged, or of another version.
        """
        self.path, self.beat = folder / FILE, beat
        self.life = Life(training_digest())
        self.earlier: list[Life] = []
        self.planned: dict[str, float] = {}
        """Minutes of a training of share 1, by run."""
        self.given: dict[str, dict[str, float]] = {}
        """The same as given to a stage when it began, by run and stage."""
        self._began = time.monotonic() - already
        self._open: tuple[str, float] | None = None
        self._lock, self._over = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lives", daemon=True)
        self._read()

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.life.counted = kind is not None or bool(self.life.stages)
        self._write()

    def seconds(self) -> float:
        """How long this life has lasted."""
        return round(time.monotonic() - self._began, 3)

    def follow(self, run: str) -> None:
        """Belong to a run; lives that ended before theirs was known do so, too."""
        with self._lock:
            for life in self.earlier:
                life.run = life.run or run
            self.life.run = run
            self._write()

    def minutes(self) -> float | None:
        """Minutes of a training of share 1 in this run, as its first life planned them."""
        return self.planned.get(self.life.run)

    def plan(self, minutes: float) -> None:
        """Write down what every life of this run plans with."""
        with self._lock:
            self.planned[self.life.run] = minutes
            self._write()

    def minutes_of(self, stage: str) -> float | None:
        """What a stage's trainings were given, if it has begun in this run."""
        return self.given.get(self.life.run, {}).get(stage)

    def give(self, stage: str, minutes: float) -> None:
        """Write down how long a stage's trainings are, so that it goes on with the same ones."""
        with self._lock:
            self.given.setdefault(self.life.run, {})[stage] = minutes
            self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a stage, which is done when it ends without an error."""
        with self._lock:
            self._open = (name, self.seconds())
            self._write()
        try:
            yield
            with self._lock:
                self.life.done.append(name)
        finally:
            with self._lock:
                self._tick()
                self._open = None
                self._write()

    def watched(self, start: Start) -> Start:
        """`start`, but what a life trains is written down before it begins."""

        def begin(module: str, words: list[str], log: Path) -> int:
            with self._lock:
                if log.stem not in self.life.trainings:
                    self.life.trainings.append(log.stem)
                self._write()
            return start(module, words, log)

        return begin

    def spent(self) -> float:
        """Seconds of this run's budget that are gone."""
        return sum(life.seconds for life in self._former()) + self.seconds()

    def counted(self) -> list[Life]:
        """Lives of this run that had anything to do, in their order."""
        with self._lock:
            self._tick()
        return [*self._former(), *([self.life] if self.life.stages else [])]

    def took(self, stage: str) -> float | None:
        """Seconds that led to a stage's result: of the life that ended it and of those before it
        that did not; None: no life of this run."""
        led, _ = self._split(stage)
        return sum(led) if led else None

    def before(self, stage: str) -> float:
        """Seconds of a stage's results that another one has replaced."""
        return sum(self._split(stage)[1])

    def again(self) -> bool:
        """Whether a stage of this run was done more than once."""
        done = [stage for life in self.counted() for stage in life.done]
        return len(done) > len(set(done))

    def origins(self, names: Iterable[str]) -> Origins:
        """Where trainings come from."""
        found = []
        for name in names:
            lives = [life for life in (*self.earlier, self.life) if name in life.trainings]
            elsewhere = not lives or any(life.run != self.life.run for life in lives)
            here = not elsewhere and lives[0] is self.life
            other_code = {life.code for life in lives} != {self.life.code}
            found.append((here, not here and not elsewhere, elsewhere, other_code))
        return Origins(*(sum(flags[n] for flags in found) for n in range(4)))

    def _former(self) -> list[Life]:
        return [life for life in self.earlier if life.run == self.life.run and life.counted]

    def _split(self, stage: str) -> tuple[list[float], list[float]]:
        led: list[float] = []
        before: list[float] = []
        replaced = False
        for life in reversed([*self.earlier, self.life]):
            if stage in life.stages:
                other = life.run != self.life.run or (bool(led) and stage in life.done)
                replaced = replaced or other
                (before if replaced else led).append(life.stages[stage])
        return led, before

    def _tick(self) -> None:
        self.life.seconds = self.seconds()
        if self._open:
            name, begin = self._open
            self.life.stages[name] = round(self.life.seconds - begin, 3)

    def _beat(self) -> None:
        while not self._over.wait(self.beat):
            self._write()

    def _read(self) -> None:
        folder = self.path.parent
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: not a folder; choose another --out")
        try:
            found = read_json(self.path) or {
                "format": FORMAT, "planned": {}, "given": {}, "lives": []
            }  # fmt: skip
            version = found["format"]
            self.planned, self.given = dict(found["planned"]), dict(found["given"])
            self.earlier = [Life(**life) for life in found["lives"]]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path}: damaged; choose another --out, or remove it: earlier lives are not "
                "counted then, and trainings of a budget are others"
            ) from None
        if version != FORMAT:
            raise UserError(f"{self.path}: of another version; choose another --out")

    def _write(self) -> None:
        with self._lock:
            self._tick()
            whole = {
                "format": FORMAT,
                "planned": self.planned,
                "given": self.given,
                "lives": [asdict(life) for life in (*self.earlier, self.life)],
            }
            with disk_errors(self.path.parent):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                replace_durable(self.path, f"{json.dumps(whole, indent=1)}\n".encode())


def process_seconds() -> float:
    """How long this process has lasted (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, now - ticks / os.sysconf("SC_CLK_TCK"))
