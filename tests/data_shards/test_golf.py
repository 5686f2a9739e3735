"""Golf: folders of stacked JPEGs as videos, out of a folder or an archive, and how they resume."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_shards.choice import chosen, listing_of
from data_shards.errors import UserError
from data_shards.footage import Footage, Item, SourceOptions, UnusableError
from data_shards.images import decode_image, split_strip
from data_shards.inspect import read_clip
from data_shards.manifest import CLIPS
from data_shards.options import Options
from data_shards.prepare import prepare
from data_shards.sources import SOURCES, bzip2
from data_shards.sources.golf_archive import MOST_BYTES, MOST_IMAGES
from data_shards.summary import read_rejects
from tests.data_shards.test_prepare import tree
from tests.support import raw_footage as raw

SMALL = {"frames": 4, "height": 16, "width": 16}


def golf(root: Path, **options) -> Options:
    return Options(source="golf", root=str(root), name="golf", **{**SMALL, **options})


def listed(root: Path) -> list[Item]:
    return list(listing_of(golf(root)).items)


def read(root: Path, item: Item) -> Footage:
    return SOURCES["golf"].read(item, root, SourceOptions())


def archive_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            raw.add_member(tar, name, data)
    return path


def clips_of(out: Path) -> list[tuple[int, int, int]]:
    """(video, start, frames) of each clip of a set."""
    records = np.load(out / CLIPS, allow_pickle=False)
    return [(int(r["video"]), int(r["start"]), int(r["frames"])) for r in records]


@pytest.mark.parametrize(
    ("windows", "want"),
    [
        ("first", [(0, 3, 4)]),
        ("each", [(0, 3, 4), (0, 12, 4)]),
        ("all", [(0, 3, 4), (0, 7, 4), (0, 12, 4)]),
        ("whole", [(0, 3, 9), (0, 12, 5)]),
    ],
)
def test_a_folder_is_a_video(
    tmp_path: Path, windows: str, want: list[tuple[int, int, int]]
) -> None:
    """Its clips stay in one JPEG each and start at a frame of the whole; JPEGs too short for a clip
    give none, and a folder of only such ones is rejected."""
    root = raw.golf(tmp_path / "in", videos=1, segments=(3, 9, 5))
    for number, frames in enumerate((2, 3)):
        strip = raw.stacked(raw.moving(frames))
        raw.write_image(root / "golf" / "short" / f"{number}.jpg", strip)
    options = golf(root, windows=windows, height=24, width=24)
    manifest = prepare(options, out=tmp_path / "out")
    assert clips_of(tmp_path / "out") == want
    assert [(video.name, video.frames) for video in manifest.videos] == [("golf/000000", 17)]
    assert read_rejects(tmp_path / "out") == [
        ["golf/short", "too short: 3 frames in the longest of 2 segments, a clip takes 4"]
    ]
    strip = decode_image((root / "golf/000000/0001.jpg").read_bytes(), what="0001.jpg")
    record = np.load(tmp_path / "out" / CLIPS, allow_pickle=False)[0]
    clip = read_clip(tmp_path / "out", manifest, record)
    assert np.array_equal(clip, np.stack(split_strip(strip, stacked=True))[: len(clip)])


@pytest.mark.parametrize("suffix", [".tar", ".tar.bz2"])
@pytest.mark.parametrize(
    "options", [{"windows": "all"}, {"windows": "each"}, {"videos": 3, "seed": 1}]
)
def test_archive_and_folder_make_the_same_set(tmp_path: Path, suffix: str, options: dict) -> None:
    """Videos of several JPEGs, one at the root, one that is too short, drawn or all of them."""
    root = raw.golf(tmp_path / "in", videos=5, segments=(6, 3, 9))
    raw.write_image(root / "golf" / "short" / "0000.jpg", raw.stacked(raw.moving(2)))
    raw.write_image(root / "top.jpg", raw.stacked(raw.moving(5)))
    archive = raw.pack(root, tmp_path / f"golf{suffix}")
    sets = []
    for name, where, workers in (("a", root, 0), ("b", archive, 0), ("c", archive, 2)):
        prepare(golf(where, **options), out=tmp_path / name, workers=workers)
        files = tree(tmp_path / name)
        files.pop("prepare.json")
        sets.append(files)
    assert sets[0] == sets[1] == sets[2]


def test_images_in_no_folder(tmp_path: Path) -> None:
    """At the root, in an archive also in its top folder, each is a video of its own."""
    strip = raw.stacked(raw.moving(5))
    root = tmp_path / "in"
    data = raw.write_image(root / "one.jpg", strip).read_bytes()
    raw.write_image(root / "two.jpg", strip)
    raw.write_image(root / "video" / "0000.jpg", strip)
    assert [item.name for item in listed(root)] == ["one", "two", "video"]
    manifest = prepare(golf(root), out=tmp_path / "out")
    assert [(v.name, v.frames) for v in manifest.videos] == [("one", 5), ("two", 5), ("video", 5)]
    names = ("golf/one.jpg", "golf/two.jpg", "golf/video/0000.jpg", "golf/video/0001.jpg")
    archive = archive_of(tmp_path / "golf.tar", *((name, data) for name in names))
    manifest = prepare(golf(archive), out=tmp_path / "archive")
    assert [(v.name, v.frames) for v in manifest.videos] == [
        ("golf/one", 5),
        ("golf/two", 5),
        ("golf/video", 10),
    ]


def test_archive_without_a_top_folder(tmp_path: Path) -> None:
    """Where it cannot be told whether a folder is a video or the top one, nothing is guessed."""
    archive = archive_of(tmp_path / "golf.tar", ("a/0.jpg", b"a"), ("b/0.jpg", b"b"))
    with pytest.raises(
        UserError, match=r"golf\.tar: a/0\.jpg and b/0\.jpg lie in no common folder"
    ):
        listed(archive)


@pytest.mark.parametrize("suffix", [".tar", ".tar.bz2"])
def test_archive_videos_that_are_wanted(tmp_path: Path, suffix: str) -> None:
    """Only these are fetched, whole, with their images in natural order, whatever lies between."""
    names = ["v0/9.jpg", "v0/10.jpg", "v0/list.txt", "v0/2.png", "v1/1.jpg", "v1/0.jpg", "v2/0.jpg"]
    names += ["v2/.thumb.jpg", "v3/0.jpg", ".trash/0.jpg", "v4/0.jpg", "v4/1.jpg"]
    for name in names:
        path = tmp_path / "in" / "golf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    archive = tmp_path / f"golf{suffix}"
    with tarfile.open(archive, "w:bz2" if suffix == ".tar.bz2" else "w") as tar:
        for name in names:
            tar.add(tmp_path / "in" / "golf" / name, f"./golf/{name}")
    found = {}
    for number, item in enumerate(listing_of(golf(archive)).items):
        loaded = item.loaded() if number % 2 == 0 else item
        found[item.name] = (loaded.files, loaded.payload)
    assert found == {
        "golf/v0": (("2.png", "9.jpg", "10.jpg"), (b"v0/2.png", b"v0/9.jpg", b"v0/10.jpg")),
        "golf/v1": ((), ()),
        "golf/v2": (("0.jpg",), (b"v2/0.jpg",)),
        "golf/v3": ((), ()),
        "golf/v4": (("0.jpg", "1.jpg"), (b"v4/0.jpg", b"v4/1.jpg")),
    }
    assert [item.name for item in listed(tmp_path / "in")] == list(found)


def test_archive_with_a_folder_in_pieces(tmp_path: Path) -> None:
    """The piece that comes later is rejected with its reason, and is no video of its own."""
    names = ("golf/a/0.jpg", "golf/b/0.jpg", "golf/a/1.jpg", "golf/a/2.jpg", "golf/c/0.jpg")
    archive = archive_of(tmp_path / "golf.tar", *((name, b"x") for name in names))
    options = golf(archive)
    found = [(i.name, i.refusal) for i in chosen(options, listing_of(options), lambda item: True)]
    apart = "images apart from the others of their folder, which must follow one another in an "
    assert found == [
        ("golf/a", ""),
        ("golf/b", ""),
        ("golf/a", f"{apart}archive"),
        ("golf/c", ""),
    ]


def test_images_that_cannot_be_used_take_their_video_with_them(tmp_path: Path) -> None:
    """Damaged, no image, of an odd shape, a link that leads out: the video is rejected by name."""
    root = raw.golf(tmp_path / "in", videos=6, segments=(5, 5))
    folders = [root / "golf" / f"{number:06d}" for number in range(6)]
    whole = (folders[0] / "0001.jpg").read_bytes()
    (folders[0] / "0001.jpg").write_bytes(whole[:-30])
    (folders[1] / "0001.jpg").write_bytes(b"no image")
    (folders[2] / "0001.jpg").write_bytes(b"")
    raw.write_image(folders[3] / "0001.jpg", raw.stacked(raw.moving(5))[:-1])
    (folders[4] / "0001.jpg").unlink()
    (folders[4] / "0001.jpg").symlink_to(__file__)
    archive = raw.pack(root, tmp_path / "golf.tar")
    for where, link in (
        (root, ["golf/000004", "0001.jpg is a link that leads out of the root"]),
        (archive, ["golf/000004", "0001.jpg: not a plain file"]),
    ):
        out = tmp_path / f"out-{where.name}"
        manifest = prepare(golf(where, windows="all"), out=out)
        assert [video.name for video in manifest.videos] == ["golf/000005"]
        damaged, *others = [row for row in read_rejects(out) if row[0] != "golf/000004/0001.jpg"]
        assert damaged[0] == "golf/000000" and damaged[1].startswith("0001.jpg is damaged (")
        assert others == [
            ["golf/000001", "0001.jpg is not an image"],
            ["golf/000002", "0001.jpg is not an image"],
            ["golf/000003", "0001.jpg: its height 119 is no multiple of its width 24"],
            link,
        ]


def test_archive_with_a_member_twice(tmp_path: Path) -> None:
    """It is not known which one is meant, so the video is rejected; the next one is as it is."""
    names = ("golf/a/0.jpg", "golf/a/0.jpg", "golf/a/1.jpg", "golf/b/0.jpg")
    archive = archive_of(tmp_path / "golf.tar", *((name, b"x") for name in names))
    found = [item.loaded() for item in listing_of(golf(archive)).items]
    assert [(item.name, item.refusal) for item in found] == [
        ("golf/a", "0.jpg: comes twice"),
        ("golf/b", ""),
    ]
    assert found[1].payload == (b"x",)


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    """More images or bytes than any video of the set has are refused before they are in memory."""
    many, large = tmp_path / "many", tmp_path / "large"
    data = raw.write_image(many / "golf" / "v" / "0.jpg", raw.moving(1)[0]).read_bytes()
    for number in range(1, MOST_IMAGES + 1):
        (many / "golf" / "v" / f"{number}.jpg").write_bytes(data)
    image = large / "golf" / "v" / "0.jpg"
    image.parent.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(MOST_BYTES + 1024)
    sparse = tmp_path / "large.tar"
    header = tarfile.TarInfo("golf/v/0.jpg")
    header.size = MOST_BYTES + 1024
    with sparse.open("wb") as file:
        file.write(header.tobuf())
        file.truncate(512 + header.size + 1024)
    packed = raw.pack(many, tmp_path / "many.tar")
    for root, archive, reason in (
        (many, packed, "more than 1000 images in one folder"),
        (large, sparse, "larger than 256 MiB"),
    ):
        with pytest.raises(UnusableError, match=f"^{reason}$"):
            read(root, listed(root)[0])
        assert [item.loaded().refusal for item in listing_of(golf(archive)).items] == [reason]


@pytest.mark.parametrize(
    "lines",
    [
        ("v1.mp4/0000.jpg 0", "v1.mp4/0001.jpg 0", "v3/0001.jpg 0"),
        ("frames/golf/v1.mp4/0000.jpg", "golf/v3/0000.jpg"),
        ("golf/v1.mp4", "v3"),
        ("golf/v1.mp4.x", "golf/v3.x"),
    ],
)
def test_lists(tmp_path: Path, lines: Sequence[str]) -> None:
    """A list names folders, or images of them as VGAN's own list does; drawing counts folders."""
    root = tmp_path / "in"
    for name in ("v0", "v1.mp4", "v2", "v3"):
        for number in range(2):
            strip = raw.stacked(raw.moving(5))
            raw.write_image(root / "golf" / name / f"{number:04d}.jpg", strip)
    wanted = tmp_path / "golf.txt"
    wanted.write_text("\n".join(lines))
    for where in (root, raw.pack(root, tmp_path / "golf.tar")):
        options = golf(where, list_file=str(wanted))
        manifest = prepare(options, out=tmp_path / f"all-{where.name}")
        assert [video.name for video in manifest.videos] == ["golf/v1.mp4", "golf/v3"]
        options = golf(where, list_file=str(wanted), videos=1)
        assert len(prepare(options, out=tmp_path / f"one-{where.name}").videos) == 1


def noisy_archive(path: Path, names: Sequence[str]) -> Path:
    """A plain tar of videos of about 220 kB of noise, each drawn for its place."""
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            draw = np.random.default_rng(number)
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (768, 96, 3), np.uint8)).save(file, "PNG")
            raw.add_member(tar, f"golf/{name}/0000.png", file.getvalue())
    return path


def test_archive_that_was_cut_off_and_fetched_again(tmp_path: Path) -> None:
    """Finished shards are kept though size and time are others; other videos are refused."""
    path, out = tmp_path / "golf.tar", tmp_path / "out"
    names = [f"{number:06d}" for number in range(10)]
    whole = noisy_archive(path, names).read_bytes()
    options = golf(path, shard_clips=2)
    path.write_bytes(whole[:1_700_000])
    with pytest.raises(UserError, match=r"golf\.tar: damaged or cut off after golf/000006/"):
        prepare(options, out=out)
    shards = sorted((out / ".partial").glob("shard-*.tar"))
    kept = {shard.name: shard.stat().st_mtime_ns for shard in shards}
    assert list(kept) == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]

    for other, said in (
        ([*names[:5], "new", *names[6:]], r"video 6 was golf/000005 and is golf/new"),
        (names[:5], r"it had golf/000005, which is missing"),
    ):
        shutil.copytree(out, tmp_path / "other")
        noisy_archive(path, other)
        with pytest.raises(UserError, match=rf"unfinished preparation of other footage \({said}\)"):
            prepare(options, out=tmp_path / "other")
        shutil.rmtree(tmp_path / "other")

    path.write_bytes(whole)
    os.utime(path, (1, 1))
    manifest = prepare(options, out=out)
    assert [video.name for video in manifest.videos] == [f"golf/{name}" for name in names]
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    prepare(options, out=tmp_path / "at once")
    assert tree(out) == tree(tmp_path / "at once")


def test_options_of_an_unfinished_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a kill, other options are refused before the archive is read for its names, and the
    draw of the first is there for the same ones, however the root is written."""
    archive = raw.pack(raw.golf(tmp_path / "in"), tmp_path / "golf.tar.bz2")
    options, out = golf(archive, videos=4, shard_clips=1), tmp_path / "out"
    script = f"""
        import os, signal
        from data_shards import pool
        from data_shards.footage import SourceOptions
        from data_shards.options import Options
        from data_shards.prepare import prepare
        read, seen = pool.read_video, []
        def reading(item, options):
            seen.append(item.name)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(item, options)
        pool.read_video = reading
        prepare({options!r}, out={str(out)!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "reading all names first" in done.stderr
    drawn = (out / ".partial" / "drawn.json").read_bytes()
    with pytest.raises(UserError, match=r"unfinished preparation with another seed; choose"):
        prepare(golf(archive, videos=4, shard_clips=1, seed=5), out=out)
    assert (out / ".partial" / "drawn.json").read_bytes() == drawn
    monkeypatch.chdir(tmp_path)
    manifest = prepare(golf(Path("golf.tar.bz2"), videos=4, shard_clips=1), out=out)
    assert len(manifest.videos) == 4
    assert "reading all names first" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="bytes read are told by /proc")
def test_plain_tars_are_skipped_through(tmp_path: Path) -> None:
    """Listing a .tar reads its headers: a resume need not read what is done."""

    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("rchar")).split()[1])

    archive = tmp_path / "golf.tar"
    members = ((f"golf/v{number}/0.jpg", bytes(4 << 20)) for number in range(4))
    archive_of(archive, *members)
    before = bytes_read()
    assert len(listed(archive)) == 4
    assert bytes_read() - before < 3 << 20


def test_one_core_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where bzip2 cannot use all cores, one line says what would; nothing else has it."""
    monkeypatch.setattr(bzip2, "parallel", lambda: False)
    root = raw.golf(tmp_path / "in", videos=1)
    for suffix, lines in ((".tar", 0), (".tar.gz", 0), (".tar.bz2", 1)):
        archive = raw.pack(root, tmp_path / f"golf{suffix}")
        listing_of(golf(archive))
        said = capsys.readouterr().err
        assert said.count("\n") == lines
    assert said == (
        f"{archive}: one core decompresses it; all do with pip install 'navsynth[golf]'\n"
    )
