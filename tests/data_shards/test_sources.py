"""Every source on footage in its own layout: names, labels, order, pixels, refusals."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_shards.choice import labelled, listing_of
from data_shards.errors import UserError
from data_shards.footage import Item, SourceOptions
from data_shards.options import Options
from data_shards.sources import SOURCES
from data_shards.sources.tree import natural
from tests.support import raw_footage as raw


def items(source: str, root: Path, **options) -> list[Item]:
    asked = Options(source=source, root=str(root), **options)
    return list(labelled(listing_of(asked).items, asked))


def names(source: str, root: Path, **options) -> list[tuple[str, str, str]]:
    return [(i.name, i.identity, i.action) for i in items(source, root, **options)]


def pixels(source: str, root: Path, item: Item, about: SourceOptions | None = None) -> np.ndarray:
    footage = SOURCES[source].read(item.loaded(), root, about or SourceOptions())
    frames = np.stack(list(footage.frames))
    assert footage.count in (0, len(frames))
    return frames


def test_natural_order() -> None:
    """Numbers count as numbers, and different names never tie."""
    assert sorted(["p10", "p2", "p02", "a"], key=natural) == ["a", "p02", "p2", "p10"]


def test_strips(tmp_path: Path) -> None:
    """One video an image; the folder is the action, the file the identity."""
    raw.strips(tmp_path, frames=5, people=2)
    raw.write_image(tmp_path / "tall.png", raw.stacked(raw.moving(5)))
    found = items("strips", tmp_path)
    assert [(i.name, i.identity, i.action) for i in found] == [
        ("action0/person0", "person0", "action0"),
        ("action0/person1", "person1", "action0"),
        ("action1/person0", "person0", "action1"),
        ("action1/person1", "person1", "action1"),
        ("tall", "", ""),
    ]
    assert np.array_equal(pixels("strips", tmp_path, found[3]), raw.moving(5, shade=50))
    assert np.array_equal(pixels("strips", tmp_path, found[4]), raw.moving(5))


def test_frames(tmp_path: Path) -> None:
    """One video a folder, its images in natural order."""
    clip = raw.moving(12)
    for number, frame in enumerate(clip):
        raw.write_image(tmp_path / "walk" / "ann" / f"f{number}.png", frame)
    found = items("frames", tmp_path)
    assert [(i.name, i.identity, i.action) for i in found] == [("walk/ann", "ann", "walk")]
    assert np.array_equal(pixels("frames", tmp_path, found[0]), clip)


def test_chair_cad(tmp_path: Path) -> None:
    """One video a model at the elevation asked for, by azimuth; more elevations, more videos."""
    raw.chairs(tmp_path, models=2, views=6)
    found = items("chair_cad", tmp_path)
    assert [(i.name, i.identity, i.action) for i in found] == [
        ("chair0", "chair0", ""),
        ("chair1", "chair1", ""),
    ]
    assert np.array_equal(pixels("chair_cad", tmp_path, found[1]), raw.moving(6, shade=21))
    both = names("chair_cad", tmp_path, about=SourceOptions(elevations=(20, 30)))
    assert both[:2] == [("chair0/p020", "chair0", "p020"), ("chair0/p030", "chair0", "p030")]
    none = items("chair_cad", tmp_path, about=SourceOptions(elevations=(25,)))
    assert none[0].refusal == "no views at elevation 25: there are 20, 30"


def test_weizmann(tmp_path: Path) -> None:
    """Person and action come from the name; takes of one action share it, and waving one hand or
    both are two actions."""
    for name in ("daria_walk", "daria_wave1", "daria_wave2", "lena_run1", "lena_run2"):
        raw.write_video(tmp_path / f"{name}.avi", raw.moving(4, height=32, width=40))
    assert names("weizmann", tmp_path) == [
        ("daria_walk", "daria", "walk"),
        ("daria_wave1", "daria", "wave1"),
        ("daria_wave2", "daria", "wave2"),
        ("lena_run1", "lena", "run"),
        ("lena_run2", "lena", "run"),
    ]
    assert pixels("weizmann", tmp_path, items("weizmann", tmp_path)[0]).shape == (4, 32, 40, 3)


def test_folder(tmp_path: Path) -> None:
    """Any tree of video files; two files that differ in their suffix alone keep it."""
    for name in ("a/x.mp4", "a/x.avi", "b/y.mkv"):
        raw.write_video(tmp_path / name, raw.moving(3, height=32, width=32))
    (tmp_path / "b" / "readme.txt").write_text("not footage")
    assert names("folder", tmp_path) == [
        ("a/x.avi", "", "a"),
        ("a/x.mp4", "", "a"),
        ("b/y", "", "b"),
    ]


@pytest.mark.parametrize("archive", ["", "golf.tar", "golf.tar.gz", "golf.tar.bz2"])
def test_golf(tmp_path: Path, archive: str) -> None:
    """The folder and the archive list the same videos, one a folder, and give the same frames."""
    root = raw.golf(tmp_path / "in", videos=4, segments=(5, 3))
    unpacked = items("golf", root)
    where = raw.pack(root, tmp_path / archive) if archive else root
    count = 0
    listing = listing_of(Options(source="golf", root=str(where)))
    for item, plain in zip(listing.items, unpacked, strict=True):
        assert item.name == plain.name == f"golf/{count:06d}"
        frames = pixels("golf", where, item)
        assert frames.shape == (8, 24, 24, 3)
        assert np.array_equal(frames, pixels("golf", root, plain))
        count += 1
    assert count == 4
    if archive:
        assert listing.position is not None and 0 < listing.position() <= listing.total
    labels = [identity for _, identity, _ in names("golf", where, labels="folders")]
    assert labels == ["000000", "000001", "000002", "000003"]


def test_golf_archive_with_bad_names(tmp_path: Path) -> None:
    """Members that lead out of the archive and links are refused, other files ignored."""
    path = tmp_path / "golf.tar"
    with tarfile.open(path, "w") as tar:
        raw.add_member(tar, "../up.jpg", b"x")
        raw.add_member(tar, "/etc/top.jpg", b"x")
        raw.add_member(tar, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        raw.add_member(tar, "list.txt", b"x")
    assert [(i.name, i.refusal) for i in items("golf", path)] == [
        ("../up", "its name leads out of the archive"),
        ("/etc/top", "its name leads out of the archive"),
        ("link", "not a plain file"),
    ]


@pytest.mark.parametrize("keep", [0, 511, 512, 2000, 0.5, 0.9, -1024])
@pytest.mark.parametrize("suffix", [".tar", ".tar.bz2"])
def test_golf_archive_cut_off(tmp_path: Path, keep: float, suffix: str) -> None:
    """An archive that ends early is an error that names it, never a shorter set."""
    whole = raw.pack(raw.golf(tmp_path / "in"), tmp_path / f"golf{suffix}").read_bytes()
    if suffix == ".tar":
        whole = whole.rstrip(b"\0") + bytes(1024)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else int(keep)])
    with pytest.raises(UserError, match=rf"{path.name}: damaged or cut off (after|at its start)"):
        for item in listing_of(Options(source="golf", root=str(path))).items:
            item.loaded()


def test_links_out_of_the_root(tmp_path: Path) -> None:
    """A link inside of the root is followed, one that leads out, nowhere or to itself is refused by
    name."""
    inside, outside = tmp_path / "in", tmp_path / "secret.png"
    raw.write_image(outside, raw.side_by_side(raw.moving(3)))
    real = raw.write_image(inside / "a.png", raw.side_by_side(raw.moving(3)))
    (inside / "b.png").symlink_to(real)
    (inside / "c.png").symlink_to(outside)
    (inside / "d").symlink_to(tmp_path)
    (inside / "e.png").symlink_to(inside / "gone.png")
    (inside / "f.png").symlink_to(inside / "f.png")
    assert [(i.name, i.refusal) for i in items("strips", inside)] == [
        ("a", ""),
        ("b", ""),
        ("c.png", "a link that leads out of the root"),
        ("d", "a link to a folder; give that folder as --root"),
        ("e.png", "a link that leads nowhere"),
        ("f.png", "a link that leads nowhere"),
    ]


def test_listing_digest_sees_changes(tmp_path: Path) -> None:
    """More files, or a file of another size, change the digest; a second look does not."""
    options = Options(source="strips", root=str(raw.strips(tmp_path)))
    first = listing_of(options).digest
    assert listing_of(options).digest == first
    Image.new("RGB", (48, 24)).save(tmp_path / "action0" / "person0.png")
    second = listing_of(options).digest
    raw.write_image(tmp_path / "new.png", raw.moving(1)[0])
    assert len({first, second, listing_of(options).digest}) == 3


def test_labels_by_pattern(tmp_path: Path) -> None:
    """A pattern may find one label only; names that it does not fit have none."""
    raw.strips(tmp_path, people=1)
    raw.write_image(tmp_path / "odd.png", raw.moving(1)[0])
    got = names("strips", tmp_path, labels=r"action(?P<action>\d)/.*")
    assert got == [("action0/person0", "", "0"), ("action1/person0", "", "1"), ("odd", "", "")]
    assert names("strips", tmp_path, labels="none")[0] == ("action0/person0", "", "")
