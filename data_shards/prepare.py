"""Turn footage into shards and a manifest.

    python -m data_shards.prepare SOURCE --root DIR --out DIR

The same command again goes on where an interrupted one was, and does nothing after a finished one.
Equal options on equal footage make equal bytes, with any number of `--workers`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_shards import choice, disk, pool, summary
from data_shards.errors import UserError
from data_shards.footage import Item, Listing
from data_shards.manifest import MANIFEST, REJECTS, Manifest, Video, dumps, read_manifest
from data_shards.options import Cell, Options
from data_shards.prepare_cli import parse
from data_shards.progress import bar
from data_shards.sources.tree import natural
from data_shards.writer import JOURNAL, PARTIAL, SetWriter, refuse_foreign

FACTS = "prepare.json"
HELD_OUT = "held-out"
DRAWN = "drawn.json"


def prepare(options: Options, *, out: str | Path, workers: int = 0) -> Manifest:
    """Prepare footage into `out`; progress goes to stderr.

    Cells that are held out go to `out/held-out`, a set of its own with the same label tables.
    `workers` are the processes that decode; 0 and 1 work in this process.

    Returns:
        The manifest of `out`.

    Raises:
        UserError: bad options or footage, nothing usable, a full disk, or an `out` that holds
            something else.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        return _finished(options, out)
    refuse_foreign(out)
    listing = choice.listing_of(options)
    cells = choice.cells_of(options, listing)
    with _locked(out):
        try:
            return _prepare(options, out, listing, cells, workers)
        except UserError as error:
            if isinstance(error, _NothingLeftError) or not _worth_keeping(out):
                _clear(out)
            raise


def _prepare(
    options: Options, out: Path, listing: Listing, cells: tuple[Cell, ...], workers: int
) -> Manifest:
    asked = {**options.facts(), "footage": listing.digest}
    _refuse_others(out, asked)  # before all names of an archive are read
    wanted, chosen = choice.wanted(options, listing, cache=out / PARTIAL / DRAWN)
    items = choice.chosen(options, listing, wanted)
    if cells:
        items = list(items)
        choice.check_cells(cells, items)
    asked["chosen"] = chosen
    _refuse_others(out, asked)
    facts = disk.dump(asked)
    with disk.disk_errors(out):
        disk.write_whole(out / PARTIAL / FACTS, facts)
    return _finish(options, _fill_sets(options, out, listing, items, cells, workers), facts)


class _NothingLeftError(UserError):
    """No usable video."""


def _finished(options: Options, out: Path) -> Manifest:
    try:
        before = json.loads((out / FACTS).read_text())
    except (OSError, ValueError):
        raise UserError(f"{out}: prepared by other means; choose another --out") from None
    now = json.loads(disk.dump(options.facts()))
    if options.list_file and Path(options.list_file).exists():  # it may be another one by now
        now["chosen"] = choice.digest_of_list(options)
    _compare(before, now, f"{out}: already holds footage prepared")
    print(f"{out}: already prepared with these options", file=sys.stderr)
    for folder in (out / HELD_OUT, out):
        if (folder / PARTIAL).exists():
            shutil.rmtree(folder / PARTIAL)
    return read_manifest(out)


def _compare(before: dict, now: dict, what: str) -> None:
    other = [key for key in sorted(now) if before.get(key) != now[key]]
    other = ["choice of videos" if key == "chosen" else key for key in other]
    if other:
        raise UserError(
            f"{what} with another {', '.join(other)}; choose another --out or remove it"
        )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    with disk.disk_errors(out):
        (out / PARTIAL).mkdir(parents=True, exist_ok=True)
        lock = (out / PARTIAL / "lock").open("wb")
    with lock:
        try:
            # Not flock, which a child would go on holding that was being started as this died.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{out}: another preparation is at work there; wait for it") from None
        yield


def _refuse_others(out: Path, asked: dict) -> None:
    path = out / PARTIAL / FACTS
    if path.exists():
        what = f"{out}: holds an unfinished preparation"
        _compare(json.loads(path.read_bytes()), json.loads(disk.dump(asked)), what)


def _fill_sets(
    options: Options,
    out: Path,
    listing: Listing,
    items: Iterable[Item],
    cells: tuple[Cell, ...],
    workers: int,
) -> list[SetWriter]:
    parts = [(out, items)]
    if cells:
        items = list(items)
        held = [item for item in items if (item.identity, item.action) in cells]
        rest = [item for item in items if (item.identity, item.action) not in cells]
        parts = [(out / HELD_OUT, held), (out, rest)]
    elif not listing.position:
        items = list(items)
        parts = [(out, items)]
    total = listing.total if listing.position else sum(len(list(part)) for _, part in parts)
    unit = "bytes" if listing.position else "videos"
    sets = [_writer(options, folder) for folder, _ in parts]
    with bar(f"prepare {options.title}", total, unit=unit) as shown:
        before = 0
        for writer, (_, part) in zip(sets, parts, strict=True):
            for done in _fill(writer, options, part, workers):
                shown.at(listing.position() if listing.position else before + done, _note(sets))
            before += writer.items
    for writer in sets:
        _need_videos(writer, options)
    if options.list_file and not (options.videos or options.limit or cells):
        _tell_unmatched(options, sets[0])
    return sets


def _tell_unmatched(options: Options, writer: SetWriter) -> None:
    """Say which entries of a list of videos are none."""
    found = [row[0] for rows in (writer.videos, writer.rejects) for row in rows]
    missing = choice.unmatched(options, found)
    if missing:
        print(
            f"warning: {options.list_file}: {len(missing)} of its names are no videos here, such "
            f"as {missing[0]}",
            file=sys.stderr,
        )


def _writer(options: Options, out: Path) -> SetWriter:
    size = options.shard_mib << 20
    return SetWriter(out, codec=options.codec, shard_clips=options.shard_clips, shard_bytes=size)


def _note(sets: list[SetWriter]) -> str:
    shards = sum(len(writer.entries) for writer in sets)
    rejects = sum(writer.rejected for writer in sets)
    return f"{shards} shards full" + (f", {rejects} rejected" if rejects else "")


def _fill(
    writer: SetWriter, options: Options, items: Iterable[Item], workers: int
) -> Iterator[int]:
    with disk.disk_errors(writer.out):
        done = writer.resume()
    skip = writer.skip_clips
    yield done
    todo = choice.unfinished(
        items,
        done=done,
        videos=[video[0] for video in writer.videos],
        rejects=[reject[0] for reject in writer.rejects],
        out=writer.out,
    )
    loaded = (item.loaded() for item in todo)
    try:
        for result in pool.results(loaded, options, workers=workers):
            writer.add(result, skip=skip)
            skip = 0
            yield writer.items
        writer.close()
    finally:
        writer.abandon()


def _need_videos(writer: SetWriter, options: Options) -> None:
    if writer.videos:
        return
    where = options.root or options.source
    if not writer.rejects:
        raise _NothingLeftError(f"{where}: no video is left; check --list, --limit and --hold-out")
    name, reason = writer.rejects[0]
    more = "" if len(writer.rejects) == 1 else f" and {len(writer.rejects) - 1} more"
    raise _NothingLeftError(f"{where}: no usable video; rejected {name}: {reason}{more}")


def _finish(options: Options, sets: list[SetWriter], facts: bytes) -> Manifest:
    videos = [video for writer in sets for video in writer.videos]
    tables = [
        tuple(sorted({video[column] for video in videos} - {""}, key=natural)) for column in (1, 2)
    ]
    manifest = None
    for writer in sets:
        manifest = _publish(options, writer, tables, facts)
    for writer in sets:
        writer.clean()
    assert manifest is not None
    return manifest


def _publish(
    options: Options, writer: SetWriter, tables: list[tuple[str, ...]], facts: bytes
) -> Manifest:
    rows = [{"": -1, **{label: row for row, label in enumerate(table)}} for table in tables]
    with disk.disk_errors(writer.out):
        clips_sha256 = writer.join_records()
    manifest = Manifest(
        name=options.title + ("-held-out" if writer.out.name == HELD_OUT else ""),
        source=options.source,
        height=options.height,
        width=options.width,
        frames=options.frames,
        stride=options.stride,
        windows=options.windows,
        codec=options.codec,
        clips_sha256=clips_sha256,
        shards=tuple(entry.shard for entry in writer.entries),
        videos=tuple(Video(n, rows[0][i], rows[1][a], f) for n, i, a, f in writer.videos),
        identities=tables[0],
        actions=tables[1],
    )
    files = {
        REJECTS: summary.rejects_csv(writer.rejects),
        FACTS: facts,
        MANIFEST: dumps(manifest).encode(),
    }
    writer.publish(files, manifest=MANIFEST)
    return manifest


def _worth_keeping(out: Path) -> bool:
    parts = [out / HELD_OUT / PARTIAL / JOURNAL, out / PARTIAL / JOURNAL, out / PARTIAL / DRAWN]
    return any(path.exists() and path.stat().st_size for path in parts)


def _clear(out: Path) -> None:
    for folder in (out / HELD_OUT, out):
        if (folder / PARTIAL).exists():
            shutil.rmtree(folder / PARTIAL)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns 0, 2 after bad input, or 130 when interrupted."""
    options, out, workers = None, None, 0
    try:
        options, out, workers = parse(argv)
        prepare(options, out=out, workers=workers)
        for folder in (out, out / HELD_OUT):
            if (folder / MANIFEST).exists():
                summary.show(folder, stream=sys.stdout)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
