"""Bad input: one line that names the file or option and what to do, exit code 2, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_shards.prepare import main
from tests.support import raw_footage as raw


def refuse(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must fail with one line and leave nothing; returns the line."""
    size = ["--frames", "4", "--size", "16", "--workers", "0"]
    assert main([*size, *words, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert not out.exists()
    return said.err.removeprefix("error: ").rstrip("\n")


def nothing(root: Path) -> None:
    root.mkdir()


def not_there(root: Path) -> None:
    pass


def a_file(root: Path) -> None:
    root.write_text("x")


def text_video(root: Path) -> None:
    root.mkdir()
    (root / "notes.mp4").write_text("these are notes\n")


def odd_strip(root: Path) -> None:
    raw.write_image(root / "a.png", raw.side_by_side(raw.moving(5))[:, :-1])


def truncated_png(root: Path) -> None:
    path = raw.write_image(root / "a.png", raw.side_by_side(raw.moving(5)))
    path.write_bytes(path.read_bytes()[:-20])


def other_sizes(root: Path) -> None:
    for number, width in enumerate((24, 30, 24, 24)):
        raw.write_image(root / "v" / f"{number}.png", raw.moving(1, width=width)[0])


def short_strip(root: Path) -> None:
    raw.write_image(root / "a.png", raw.side_by_side(raw.moving(3)))


def two_short_strips(root: Path) -> None:
    raw.write_image(root / "a.png", raw.side_by_side(raw.moving(3)))
    raw.write_image(root / "b.png", raw.side_by_side(raw.moving(2)))


def short_video(root: Path) -> None:
    raw.write_video(root / "a.mp4", raw.moving(3, height=32, width=32))


FOOTAGE = [
    ("strips", not_there, "no such folder; --root names the footage"),
    ("strips", nothing, "no images in this folder; is --root right?"),
    ("frames", nothing, "no images in this folder; is --root right?"),
    ("folder", nothing, "no video files (.mp4, .avi, .mov, ...) in this folder; is --root right?"),
    ("golf", nothing, "no stacked images (.jpg) in this folder; is --root right?"),
    (
        "chair_cad",
        nothing,
        "no MODEL/renders/*_pNNN_tNNN_*.png in this folder; is --root right?",
    ),
    ("strips", a_file, "not a folder; --root names the folder with the footage"),
    ("golf", a_file, "not a folder nor a .tar, .tar.bz2 or .tar.gz archive"),
    (
        "folder",
        text_video,
        "no usable video; rejected notes: notes.mp4 is not a video "
        "(Invalid data found when processing input)",
    ),
    (
        "strips",
        odd_strip,
        "no usable video; rejected a: its width 119 is no multiple of its height 24",
    ),
    (
        "strips",
        truncated_png,
        "no usable video; rejected a: a.png is damaged (Truncated File Read)",
    ),
    ("frames", other_sizes, "no usable video; rejected v: frame 1 is 30x24, frame 0 24x24"),
    (
        "strips",
        short_strip,
        "no usable video; rejected a: too short: 3 frames, a clip takes 4",
    ),
    (
        "strips",
        two_short_strips,
        "no usable video; rejected a: too short: 3 frames, a clip takes 4 and 1 more",
    ),
    (
        "folder",
        short_video,
        "no usable video; rejected a: too short: 3 frames, a clip takes 4",
    ),
]


@pytest.mark.parametrize(("source", "make", "message"), FOOTAGE)
def test_bad_footage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    make: Callable[[Path], None],
    message: str,
) -> None:
    """Footage that gives no clip is refused by its exact reason."""
    root = tmp_path / "in"
    make(root)
    said = refuse([source, "--root", str(root)], tmp_path / "out", capsys)
    assert said == f"{root}: {message}"


WORDS = [
    (
        "movies",
        "SOURCE: 'movies' is none of strips, frames, chair_cad, weizmann, golf, folder, synthetic",
    ),
    ("strips", "--root: strips needs the folder with the footage"),
    ("synthetic --stride 0", "--stride: at least 1, not 0"),
    (
        "synthetic --stride x",
        "argument --stride: invalid int value: 'x'; see python -m data_shards.prepare --help",
    ),
    ("synthetic --crop -3", "--crop: at least 0, not -3"),
    ("synthetic --workers -1", "--workers: at least 0, not -1"),
    ("synthetic --codec gif", "--codec: 'gif' is none of png, jpg, raw, mp4"),
    ("synthetic --windows some", "--windows: 'some' is none of first, each, all, whole"),
    (
        "synthetic --labels (",
        "--labels: '(' is no regular expression (missing ), unterminated subpattern at position 0)",
    ),
    (
        "synthetic --labels (?P<who>.*)",
        "--labels: '(?P<who>.*)' needs a group (?P<identity>...) or (?P<action>...), no other",
    ),
    ("synthetic --hold-out red-disc", "--hold-out: 'red-disc' is not IDENTITY:ACTION"),
    (
        "synthetic --hold-out red-disk:turn",
        "--hold-out: no identity 'red-disk'; did you mean 'red-disc'?",
    ),
    (
        "synthetic --identities 2 --actions 1 --hold-out red-disc:turn",
        "--hold-out: leaves identity 'red-disc' without a video to learn from",
    ),
    ("synthetic --elevation x", "--elevation: 'x' is not degrees such as 20 or 20,30"),
    ("synthetic --size big", "--size: 'big' is neither a number such as 64 nor HxW such as 96x128"),
    (
        "synthetic --list /nowhere",
        "/nowhere: the list cannot be read (No such file or directory); see --list",
    ),
    (f"synthetic --seed {1 << 63}", f"--seed: {1 << 63} does not fit into 64 bits"),
    ("synthetic --identities 3000", "identities: synthetic footage has at most 2,142, not 3000"),
    (
        "synthetic --length 2 --identities 1",
        "synthetic: no usable video; rejected red-disc/turn: too short: 2 frames, a clip takes 4 "
        "and 3 more",
    ),
]


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_bad_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    """Options that make no sense are named, with what would."""
    assert refuse(words.split(), tmp_path / "out", capsys) == message


def test_held_out_cells_of_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused before the archive, here no archive at all, is read."""
    archive = tmp_path / "golf.tar"
    archive.write_bytes(b"not read")
    words = ["golf", "--root", str(archive), "--hold-out", "ann:walk"]
    said = refuse(words, tmp_path / "out", capsys)
    assert said == f"--hold-out: needs the unpacked folder; {archive} is an archive"


def test_list_that_leads_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list must not name files outside of the root."""
    root = raw.strips(tmp_path / "in")
    wanted = tmp_path / "list.txt"
    wanted.write_text("action0/person0\n../../etc/passwd\n")
    words = ["strips", "--root", str(root), "--list", str(wanted)]
    said = refuse(words, tmp_path / "out", capsys)
    assert said == f"{wanted}:2: ../../etc/passwd leads out of the root"
    wanted.write_text("action9/person9\n")
    said = refuse(words, tmp_path / "out", capsys)
    assert said == f"{root}: no video is left; check --list, --limit and --hold-out"


def test_names_of_a_list_that_are_no_videos_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are prepared; a list that fits says nothing."""
    root, wanted = raw.strips(tmp_path / "in"), tmp_path / "list.txt"
    words = ["strips", "--root", str(root), "--list", str(wanted), "--frames", "4", "--size", "16",
             "--workers", "0"]  # fmt: skip
    for name, more in (("a", ""), ("b", "action0/persno1\naction9/person0.png\n")):
        wanted.write_text(f"action0/person0\nstrips/action1/person2.png\n{more}")
        capsys.readouterr()
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        said = "2 of its names are no videos here, such as action0/persno1"
        assert told == ([f"warning: {wanted}: {said}"] if more else [])


def test_rejects_beside_good_videos(tmp_path: Path) -> None:
    """Videos that cannot be used are listed with their reasons, the others are prepared."""
    root = raw.strips(tmp_path / "in", people=1, actions=1)
    raw.write_image(root / "b.png", np.zeros((24, 100, 3), np.uint8))
    (root / "c.png").write_text("no image")
    Image.new("1", (12000, 12000)).save(root / "d.png")
    out = tmp_path / "out"
    words = ["strips", "--root", str(root), "--frames", "4", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert (out / "rejects.csv").read_text().splitlines() == [
        "video,reason",
        "b,its width 100 is no multiple of its height 24",
        "c,c.png is not an image",
        "d,d.png has more than 89 million pixels",
    ]


def test_out_that_holds_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other files is not written into, and a file is no folder."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    assert main(["synthetic", "--out", str(out)]) == 2
    want = f"error: {out}: not empty and not prepared footage; choose another --out\n"
    assert capsys.readouterr().err == want
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    assert main(["synthetic", "--out", str(out / "thesis.txt")]) == 2
    want = f"error: {out / 'thesis.txt'}: not a folder; choose another --out\n"
    assert capsys.readouterr().err == want


def test_unfinished_with_other_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was begun with other options, or on other footage, is not gone on with."""
    out, root = tmp_path / "out", raw.strips(tmp_path / "in")
    words = ["strips", "--root", str(root), "--frames", "4", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    (out / ".partial").mkdir()
    (out / "prepare.json").rename(out / ".partial" / "prepare.json")
    (out / ".partial" / "journal.jsonl").write_text("a line\n")
    (out / "manifest.json").unlink()
    capsys.readouterr()
    assert main([*words, "--size", "32"]) == 2
    assert capsys.readouterr().err == (
        f"error: {out}: holds an unfinished preparation with another about, height, width; choose "
        "another --out or remove it\n"
    )
    raw.write_image(root / "new.png", raw.side_by_side(raw.moving(4)))
    assert main(words) == 2
    assert "unfinished preparation with another footage; choose" in capsys.readouterr().err
