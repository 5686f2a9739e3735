"""What the sources share: walking a folder without leaving it, names, natural order."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from data_shards.errors import UserError
from data_shards.footage import Item, Listing


def natural(text: str) -> tuple:
    """Sorting key under which `person2` comes before `person10`."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts), text


def need_folder(root: Path) -> Path:
    """The real path of a folder that exists.

    Raises:
        UserError: it does not, or is no folder.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder; --root names the folder with the footage")
    if not root.is_dir():
        raise UserError(f"{root}: not a folder; --root names the folder with the footage")
    return root.resolve()


def printable(name: str) -> str:
    """A file name that every encoding can write."""
    return name.encode("utf-8", "backslashreplace").decode()


class Tree:
    """Files below a root by their relative names, in natural order, and what was refused."""

    def __init__(self, root: Path, suffixes: Sequence[str]) -> None:
        self.root = need_folder(root)
        self.refused: list[Item] = []
        self.files = sorted(self._walk(tuple(suffixes)), key=natural)

    def _walk(self, suffixes: tuple[str, ...]) -> Iterator[str]:
        def fail(error: OSError) -> None:
            raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

        for folder, folders, files in os.walk(self.root, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    self._refuse(
                        Path(folder) / name, "a link to a folder; give that folder as --root"
                    )
            for name in files:
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    path = Path(folder) / name
                    if path.is_symlink() and (reason := self._astray(path)):
                        self._refuse(path, reason)
                    elif not path.is_file():
                        self._refuse(path, "no file, but a pipe or a device")
                    else:
                        yield path.relative_to(self.root).as_posix()

    def _astray(self, link: Path) -> str:
        """Why a link is not followed; empty: it is."""
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError):  # of a loop, before Python 3.13
            return "a link that leads nowhere"
        return "" if real.is_relative_to(self.root) else "a link that leads out of the root"

    def _refuse(self, path: Path, reason: str) -> None:
        name = path.relative_to(self.root).as_posix()
        self.refused.append(Item(printable(name), refusal=reason))

    def listing(self, items: list[Item], *, wanted: str) -> Listing:
        """The listing of these items and of the refused ones.

        Raises:
            UserError: there are no items; `wanted` says what was looked for.
        """
        if not items and not self.refused:
            raise UserError(f"{self.root}: no {wanted} in this folder; is --root right?")
        items = sorted(items + self.refused, key=lambda item: natural(item.name))
        return Listing(items, self._digest(items), len(items))

    def _digest(self, items: list[Item]) -> str:
        state = hashlib.sha256()
        for item in items:
            sizes = [(self.root / file).stat().st_size for file in item.files]
            state.update(repr((item.name, item.files, sizes)).encode("utf-8", "backslashreplace"))
        return state.hexdigest()

    def one_file_each(self, files: Sequence[str] | None = None) -> list[Item]:
        """One item for each file, or each of `files`, named without suffix unless two names would
        be the same."""
        files = self.files if files is None else files
        stems = Counter(str(PurePosixPath(file).with_suffix("")) for file in files)
        return [Item(printable(_short(file, stems)), (file,)) for file in files]


def _short(file: str, stems: Counter[str]) -> str:
    stem = str(PurePosixPath(file).with_suffix(""))
    return stem if stems[stem] == 1 else file
