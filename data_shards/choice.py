"""Which videos of a source are prepared, what their labels are, and which are held out."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from data_shards import disk
from data_shards.errors import UserError
from data_shards.footage import Item, Listing
from data_shards.options import Cell, Options
from data_shards.progress import Bar, bar
from data_shards.sources import SOURCES
from data_shards.sources.synthetic import held_out


def listing_of(options: Options) -> Listing:
    """What the source lists below the root."""
    source = SOURCES[options.source]
    root = Path(options.root)
    if source.rooted and not root.exists():
        raise UserError(f"{root}: no such folder; --root names the footage")
    return source.listing(root, options.about)


def labelled(items: Iterable[Item], options: Options) -> Iterator[Item]:
    """The items with their labels, which are empty where the name does not tell."""
    pattern = options.pattern()
    for item in items:
        match = pattern.fullmatch(item.name) if pattern else None
        found = {key: value or "" for key, value in match.groupdict().items()} if match else {}
        yield item._replace(**found)


def chosen(options: Options, listing: Listing, wanted: Callable[[Item], bool]) -> Iterator[Item]:
    """The wanted items in their order, with labels; a name that comes twice is refused."""
    items = _unique(item for item in labelled(listing.items, options) if wanted(item))
    return islice(items, options.limit or None)


def _unique(items: Iterable[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.name in seen and not item.refusal:
            item = item._replace(refusal="a video of this name came before", load=None)
        seen.add(item.name)
        yield item


def wanted(
    options: Options, listing: Listing, *, cache: Path
) -> tuple[Callable[[Item], bool], str]:
    """A test of whether an item is wanted, and a digest of what it depends on.

    `--videos` draws by the rank of a keyed hash of the names, so the draw does not depend on the
    order of the listing. An archive's names are read for that in a pass of its own, unless a list
    names them; that draw is kept in the file `cache`.

    Raises:
        UserError: an unreadable list, or one that names files outside of the root.
    """
    if not options.list_file and not options.videos:
        return (lambda item: True), ""
    if not options.list_file:
        drawn = _drawn(options, listing, cache)
        return (lambda item: item.name in drawn), _digest(drawn)
    names = _listed(options)
    tails = {tail for name in names for tail in _tails(name)}
    return (lambda item: item.name in tails or any(t in names for t in _tails(item.name))), _digest(
        names
    )


def digest_of_list(options: Options) -> str:
    """The digest that `wanted` gives where a list names the videos (UserError)."""
    return _digest(_listed(options))


def _listed(options: Options) -> set[str]:
    names = read_list(Path(options.list_file), SOURCES[options.source].listed)
    if options.videos:
        drawn = draw(map(_bare, names), options.videos, options.seed)
        names = {name for name in names if _bare(name) in drawn}
    return names | {_bare(name) for name in names}


def _drawn(options: Options, listing: Listing, cache: Path) -> set[str]:
    if listing.position is None:
        return draw((item.name for item in listing.items), options.videos, options.seed)
    root = str(Path(options.root).resolve())
    key = [options.videos, options.seed, root, listing.digest]
    if cache.exists():
        kept = json.loads(cache.read_bytes())
        if kept["key"] == key:
            return set(kept["names"])
    print(f"{options.root}: reading all names first, to draw from them", file=sys.stderr)
    with bar(f"names of {options.title}", listing.total, unit="bytes") as shown:
        names = draw(_names(listing, shown), options.videos, options.seed)
    with disk.disk_errors(cache.parent):
        disk.write_whole(cache, disk.dump({"key": key, "names": sorted(names)}))
    return names


def _names(listing: Listing, shown: Bar) -> Iterator[str]:
    """Names of an archive's videos, and on the way how far it has been read."""
    assert listing.position is not None
    for item in listing.items:
        shown.at(listing.position())
        yield item.name


def unmatched(options: Options, found: Iterable[str]) -> list[str]:
    """Entries of the list of videos that none of the videos `found` goes by, in order."""
    names = read_list(Path(options.list_file), SOURCES[options.source].listed)
    whole = set(found)
    tails = {tail for name in whole for tail in _tails(name)}

    def met(form: str) -> bool:
        return form in tails or any(tail in whole for tail in _tails(form))

    return sorted(name for name in names if not met(name) and not met(_bare(name)))


def draw(names: Iterable[str], count: int, seed: int) -> set[str]:
    """`count` of the names, by a hash keyed with the seed; all if there are fewer."""
    key = seed.to_bytes(8, "little", signed=True)

    def rank(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()

    return set(sorted(set(names), key=rank)[:count])


def read_list(path: Path, listed: Callable[[PurePosixPath], PurePosixPath]) -> set[str]:
    """Names out of a list file, one a line; a number after the name is a label.

    `listed` is `footage.Source.listed`.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"{path}: the list cannot be read ({reason}); see --list") from None
    names = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        entry = PurePosixPath(re.sub(r"\s+-?\d+$", "", line.strip()))
        if entry.is_absolute() or ".." in entry.parts:
            raise UserError(f"{path}:{number}: {entry} leads out of the root")
        names.add(str(listed(entry)))
    if not names:
        raise UserError(f"{path}: the list names no video; see --list")
    return names


def _bare(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _tails(name: str) -> Iterator[str]:
    parts = PurePosixPath(name).parts
    yield name
    yield from ("/".join(parts[start:]) for start in range(1, len(parts)))


def _digest(names: set[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def unfinished(
    items: Iterable[Item], *, done: int, videos: Iterable[str], rejects: Iterable[str], out: Path
) -> Iterator[Item]:
    """The items after the first `done`, which must be those that an earlier run was done with.

    `videos` and `rejects` are the names that it wrote into `out`, each in their order; a video that
    is partly done is the last of `videos` and comes again.

    Raises:
        UserError: other names, or fewer items.
    """
    past = deque(videos), deque(rejects)
    for number, item in enumerate(items):
        if number < done or any(past):
            same = next((names for names in past if names and names[0] == item.name), None)
            if same is None:
                was = " or ".join(names[0] for names in past if names)
                raise _other_footage(out, f"video {number + 1} was {was} and is {item.name}")
            same.popleft()
        if number >= done:
            yield item
    if any(past):
        was = next(names[0] for names in past if names)
        raise _other_footage(out, f"it had {was}, which is missing")


def _other_footage(out: Path, what: str) -> UserError:
    return UserError(
        f"{out}: holds an unfinished preparation of other footage ({what}); choose another --out "
        "or remove it"
    )


def cells_of(options: Options, listing: Listing) -> tuple[Cell, ...]:
    """The cells held out, the source's own where none were named.

    Raises:
        UserError: cells of an archive, whose videos show only one after another.
    """
    if options.hold_out is None:
        return held_out(options.about) if options.source == "synthetic" else ()
    if options.hold_out and listing.position:
        raise UserError(f"--hold-out: needs the unpacked folder; {options.root} is an archive")
    return options.hold_out


def check_cells(cells: tuple[Cell, ...], items: list[Item]) -> None:
    """Refuse cells that hold no video, or that leave a label without one (UserError)."""
    there = {(item.identity, item.action) for item in items if not item.refusal}
    for axis, what in enumerate(("identity", "action")):
        labels = sorted({cell[axis] for cell in there} - {""})
        left = {cell[axis] for cell in there - set(cells)}
        for cell in cells:
            if cell[axis] not in labels:
                close = difflib.get_close_matches(cell[axis], labels, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {_some(labels)}"
                raise UserError(f"--hold-out: no {what} {cell[axis]!r}; {hint}")
            if cell[axis] not in left:
                raise UserError(
                    f"--hold-out: leaves {what} {cell[axis]!r} without a video to learn from"
                )
    for cell in cells:
        if cell not in there:
            raise UserError(f"--hold-out: there is no video of {cell[0]}:{cell[1]}")


def _some(labels: list[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "") if labels else "no labels"
