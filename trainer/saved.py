"""Reading a committed checkpoint of any number of ranks, and telling whether it is whole."""

from __future__ import annotations

import errno
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tenacity
import torch
from safetensors import SafetensorError, safe_open

from data_shards.errors import UserError
from trainer import commit, ownership
from trainer.comm import Comm
from trainer.share import DIRECTIONS
from trainer.streamed import block_rows, check_header, digest_of

DIGEST = 64
"""Characters of a SHA-256."""
LARGE = 2.0
"""GiB of a checkpoint whose verification takes so long that it is told."""
PATIENCE = 60.0
"""Seconds for which a disk that refuses to read a checkpoint is asked again."""


class AbsentPageError(UserError):
    """A checkpoint has no such page."""


class Saved:
    """One checkpoint; tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Read the manifest and the state.

        Raises:
            UserError: damaged or gone.
        """
        self.path = path
        try:
            self.manifest = commit.read_manifest(path)
            if commit.STATE in self.manifest.files and not (path / commit.STATE).is_file():
                raise commit.Damage(f"{commit.STATE} is missing")
            state = commit.read_json(path / commit.STATE)
        except (commit.Damage, OSError, ValueError) as error:
            told = f"{path}: damaged checkpoint ({error}); use another one"
            raise UserError(self._gone() or told) from None
        self.state: dict[str, Any] = state
        self._open: dict[str, Any] = {}

    def common(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors that all ranks share, by name.

        Raises:
            UserError: the checkpoint has no such set.
        """
        file = self._file(f"common-{name}.safetensors")
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def read(self, name: str) -> torch.Tensor:
        """A latent page, whichever rank wrote it.

        Raises:
            AbsentPageError: the checkpoint has no such page.
        """
        # A file of its own for each page: the mapping of what was read goes with the tensor.
        return self._map(self._file_of(name)).get_tensor(name)

    def held(self) -> Held:
        """The pages, from files that are all opened now and stay so: a training that goes on may
        replace the checkpoint meanwhile.

        Raises:
            UserError: it is gone already, or damaged.
        """
        files: dict[str, Any] = {}
        for name, file in self.manifest.index.items():
            if file not in files:
                files[file] = self._map(file)
                files[file].get_tensor(name)  # so that it is mapped for certain; nothing is copied
        return Held(
            self.path, self.manifest, lambda name: files[self._file_of(name)].get_tensor(name)
        )

    @property
    def names(self) -> list[str]:
        """Names of all latent pages."""
        return list(self.manifest.index)

    def _file_of(self, name: str) -> str:
        if name not in self.manifest.index:
            raise AbsentPageError(f"{self.path}: holds no tensor {name!r}; it is of another layout")
        return self.manifest.index[name]

    def _file(self, name: str) -> Any:
        if name not in self._open:
            if name not in self.manifest.files:
                raise UserError(f"{self.path}: holds no {name}; it is of another kind of run")
            self._open[name] = self._map(name)
        return self._open[name]

    def _map(self, name: str) -> Any:
        try:
            return safe_open(self.path / name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(self._gone() or f"{self.path / name}: damaged ({error})") from None

    def _gone(self) -> str:
        """What to say of a checkpoint whose folder is there no more; nothing where it is."""
        if self.path.is_dir():
            return ""
        return (
            f"{self.path}: is gone; a training that goes on has replaced it by a newer checkpoint: "
            "run the same command again"
        )


class Held:
    """Latent pages of a checkpoint, whatever becomes of its folder. Called with a name it gives the
    page, as `Saved.read`; rows of it are to be trusted after `check`."""

    def __init__(
        self,
        path: Path,
        manifest: commit.CheckpointManifest,
        read: Callable[[str], torch.Tensor],
    ) -> None:
        """`read` gives a page by its name.

        Raises:
            UserError: the directions that transient rows are read in are not what was saved.
        """
        self._path, self._manifest, self._read = path, manifest, read
        self._sound: set[tuple[str, int]] = set()
        if DIRECTIONS in manifest.digests:
            self._check(DIRECTIONS, torch.arange(len(self(DIRECTIONS))))

    def __call__(self, name: str) -> torch.Tensor:
        """A page, as it lies there."""
        return self._read(name)

    def check(self, kind: str, rows: torch.Tensor) -> None:
        """See that the values of rows (n,) of a table, and of those beside them, are what was
        saved; each block of rows is read once. Older checkpoints have no digests of rows, and were
        verified whole when they were opened.

        Raises:
            UserError: they are not; names the file and the page.
        """
        if not self._manifest.digests:
            return
        rows = rows.to("cpu", torch.int64)
        page = ownership.page_of(rows)
        for number in page.unique().tolist():
            at = torch.div(rows[page == number], ownership.PAGES, rounding_mode="floor")
            self._check(f"{kind}.value.{number:02d}", at)

    def _check(self, name: str, at: torch.Tensor) -> None:
        """Verify the blocks that rows at (n,) of a page lie in."""
        page, told = self(name), self._manifest.digests[name]
        size = block_rows(len(page), len(told) // DIGEST)
        for block in sorted({row // size for row in at.tolist()}):
            if (name, block) in self._sound:
                continue
            digest = told[block * DIGEST : (block + 1) * DIGEST]
            if digest_of(page[block * size : (block + 1) * size]) != digest:
                raise UserError(
                    f"{self._path / self._manifest.index[name]}: damaged (rows of {name} do not "
                    "match their SHA-256); choose an older checkpoint by --checkpoint, or start "
                    "the training again, which goes on from one that is whole"
                )
            self._sound.add((name, block))


def agreed_damage(folder: Path, *, comm: Comm, whole: bool = True) -> str | None:
    """Why a checkpoint must not be loaded, the same on all ranks; each verifies its part of it as
    `damage_of` does.

    Raises:
        UserError: a rank does not see it, or its disk refuses to read it.
    """
    there, mine, refusal = False, None, ""
    try:
        there = folder.is_dir()
        mine = damage_of(folder, part=comm.rank, parts=comm.world, whole=whole)
    except OSError as error:
        refusal = error.strerror or str(error)
    told = comm.gather_json([there, mine, refusal])
    for rank, (seen, _, refused) in enumerate(told):
        if refused:
            raise UserError(
                f"{folder}: rank {rank} cannot read it ({refused}); check that disk or mount it "
                "again, and run the same command again"
            )
        if told[0][0] and not seen:
            raise UserError(f"{folder}: rank {rank} does not see it; runs need a shared disk")
    return next((reason for _, reason, _ in told if reason), None)


def damage_of(path: Path, *, part: int = 0, parts: int = 1, whole: bool = True) -> str | None:
    """Why a checkpoint must not be loaded, None if it is whole. Each of `parts` callers verifies
    every `parts`-th file. A disk that refuses to read is asked again for `PATIENCE` seconds; one
    that then still cannot read a file (EIO) has lost it.

    Args:
        whole: every byte. Else, of files of rows that `Held.check` can verify, size and header.

    Raises:
        OSError: the disk is out of reach.
    """
    again = tenacity.Retrying(
        stop=tenacity.stop_after_delay(PATIENCE),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )
    try:
        return again(_damage_of, path, part=part, parts=parts, whole=whole)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"{error.filename or path.name}: {error.strerror}"


def _damage_of(path: Path, *, part: int, parts: int, whole: bool) -> str | None:
    try:
        manifest = commit.read_manifest(path)
        mine = sorted(manifest.files.items())[part::parts]
        later = set() if whole or not manifest.digests else set(manifest.index.values())
        now = sum(facts.bytes for name, facts in manifest.files.items() if name not in later)
        if now > LARGE * 2**30 and not part:
            print(f"{path}: verifying {now / 2**30:.1f} GiB", file=sys.stderr, flush=True)
        commit.check_files(path, mine, later=later)
        pages = defaultdict(list)
        for tensor, file in manifest.index.items():
            pages[file].append(tensor)
        for name, _ in mine:
            if name.endswith(".safetensors"):
                check_header(path / name, pages[name])
            elif not isinstance(json.loads((path / name).read_bytes()), dict):
                return f"{name} is not a JSON object"
    except (commit.Damage, FileNotFoundError, ValueError) as error:
        return str(error)
    return None
