"""One Prometheus and one training on a small disk, for all tests of this folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.footage import tiny_set
from tests.support.prometheus import PATIENCE, Prometheus, prometheus, until
from tests.support.training import ROOT, command, environment

WORDS = (
    "train.steps=1000000",
    "train.log_steps=1",
    "train.sample_minutes=0.1",
    "begin.latents=random",
    "data.cache_mib=0",
    "data.on_damage=quarantine",
    "checkpoint.minutes=0.03",
    "checkpoint.on_full=continue",
    "latents.low_rank.rank=4",
    "latents.low_rank.scope=dictionary",
    "latents.low_rank.every=20",
    "telemetry.endpoint=true",
    "telemetry.linger=30",
)


class Training:
    """A training of two processes that is started, troubled, and started again."""

    def __init__(self, base: Path, runs: Path, targets: Path) -> None:
        """`base`: footage, faults and logs; `runs`: where run folders go, on the small disk."""
        self.folder, self.targets = runs / "run", targets
        self.data = tiny_set(base / "set", identities=3, actions=2, frames=6, size=32)
        self.faults, self._log = base / "faults", base / "log"
        self.faults.mkdir()
        self._launcher: subprocess.Popen | None = None

    def start(self, *words: str) -> None:
        """Start it, or start it again, and wait until it is a target."""
        line = command(
            self.folder.parent, self.data, *WORDS, *words, f"telemetry.targets={self.targets}",
            ranks=2,
        )  # fmt: skip
        place = next(i for i, word in enumerate(line) if word.endswith("trainer/main.py"))
        line[place] = str(ROOT / "tests" / "support" / "faulty.py")
        before = len(self.record().get("starts", []))
        with self._log.open("a") as log:
            self._launcher = subprocess.Popen(
                line, env={**environment(), "FAULTS": str(self.faults)}, stdout=log, stderr=log
            )
        begun = lambda: self.targets.exists() and len(self.record().get("starts", [])) > before  # noqa: E731
        until(lambda: begun() or not self.alive, "the run has begun")
        assert self.alive, self._log.read_text()

    @property
    def alive(self) -> bool:
        """Whether the launcher has not left."""
        return self._launcher is not None and self._launcher.poll() is None

    def record(self) -> dict[str, Any]:
        """run.json."""
        path = self.folder / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, by rank."""
        found = {}
        children = []
        if self._launcher is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._launcher.pid).children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "faulty.py" in " ".join(child.cmdline()) and "RANK" in child.environ():
                    found[int(child.environ()["RANK"])] = child
        return [found[rank] for rank in sorted(found)]

    def wait(self) -> None:
        """Wait until it has ended."""
        assert self._launcher is not None
        self._launcher.wait(PATIENCE)

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """One of the faults of `tests/support/faulty.py` while the body lasts."""
        (self.faults / name).touch()
        try:
            yield
        finally:
            (self.faults / name).unlink()

    def end(self) -> None:
        """Kill what is left of it."""
        left = self.ranks()
        if self._launcher is not None:
            self._launcher.kill()
            self._launcher.wait()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 64 MiB where one can be mounted (root), else a plain folder."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = not os.geteuid() and not subprocess.run(mount, capture_output=True).returncode
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def run(
    server: Prometheus, disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Training]:
    targets = server.folder / "targets" / "run.json"
    training = Training(tmp_path_factory.mktemp("run"), disk, targets)
    try:
        training.start("telemetry.budget_seconds=1000000")
        yield training
    finally:
        training.end()
