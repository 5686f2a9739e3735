"""Preparing: the same bytes always, whatever is killed whenever, and what it does a second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.inspect import read_clip, verify
from data_shards.manifest import CLIPS, content_of, read_manifest
from data_shards.options import Options
from data_shards.prepare import main, prepare
from data_shards.prepare_cli import parse
from data_shards.sources import synthetic
from tests.support import raw_footage as raw
from tests.support.footage import tiny_set


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def strip_options(root: Path, **options) -> Options:
    small = {"frames": 4, "windows": "all", "height": 16, "width": 16, "shard_clips": 4}
    return Options(source="strips", root=str(root), **{**small, **options})


def test_synthetic_set_is_what_was_rendered(tmp_path: Path) -> None:
    """Every clip comes back as its cell's pixels, and the held-out set shares the tables."""
    folder = tiny_set(tmp_path, identities=3, actions=2, frames=4, size=16, hold_out=None)
    for part in (folder, folder / "held-out"):
        manifest = read_manifest(part)
        records = np.load(part / CLIPS, allow_pickle=False)
        assert len(records) == len(manifest.videos) == manifest.clips
        for record in records:
            video = manifest.videos[record["video"]]
            identity, action = manifest.identities[video.identity], manifest.actions[video.action]
            assert video.name == f"{identity}/{action}"
            truth = np.stack(list(synthetic.render(identity, action, frames=4, size=16)))
            assert np.array_equal(read_clip(part, manifest, record), truth)
            assert record["content"] == content_of(truth)
        assert verify(part, decode=True) == []
    whole, held = read_manifest(folder), read_manifest(folder / "held-out")
    assert (whole.identities, whole.actions) == (held.identities, held.actions)
    assert {v.name for v in held.videos} == {"red-disc/turn"}
    assert len(whole.videos) == 5


def test_same_bytes_for_any_workers(tmp_path: Path) -> None:
    """Another run, and one with three processes, make the same files."""
    root = raw.strips(tmp_path / "in", frames=9)
    raw.write_image(root / "action0" / "short.png", raw.side_by_side(raw.moving(3)))
    want = None
    for name, workers in (("a", 0), ("b", 0), ("c", 3)):
        prepare(strip_options(root), out=tmp_path / name, workers=workers)
        want = want or tree(tmp_path / name)
        assert tree(tmp_path / name) == want
    assert want is not None and want["rejects.csv"].decode().splitlines() == [
        "video,reason",
        'action0/short,"too short: 3 frames, a clip takes 4"',
    ]


@pytest.mark.parametrize("windows", ["first", "all", "whole"])
@pytest.mark.parametrize("codec", ["png", "raw"])
def test_windows(tmp_path: Path, windows: str, codec: str) -> None:
    """The stored frames are those of the window, at the stride, whatever the codec."""
    root = raw.strips(tmp_path / "in", frames=11, people=1, actions=1)
    options = strip_options(root, frames=2, stride=2, windows=windows, codec=codec)
    manifest = prepare(options, out=tmp_path / "out")
    records = np.load(tmp_path / "out" / CLIPS, allow_pickle=False)
    want = {"first": [(0, 2)], "all": [(0, 2), (4, 2), (8, 2)], "whole": [(0, 6)]}[windows]
    assert [(r["start"], r["frames"]) for r in records] == want
    assert manifest.videos[0].frames == 11
    clip = read_clip(tmp_path / "out", manifest, records[0])
    assert clip.shape == (want[0][1], 16, 16, 3)


_KILLER = """
    import os, signal, sys
    from pathlib import Path
    from data_shards.footage import SourceOptions
    from data_shards.options import Options
    from data_shards.prepare import prepare

    os.fsync = lambda handle: None  # kill -9 does not lose what the kernel has; this is faster
    root, base = Path(sys.argv[1]), Path(sys.argv[2])
    cells = (("person0", "action0"),)
    options = Options(source="strips", root=str(root), frames=4, windows="all", height=16, width=16,
                      shard_clips=3, hold_out=cells)

    def attempt(out, deadly):
        '''Prepare in a child that is killed before its deadly-th step on the disk.'''
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        steps = 0

        def hook(event, args):
            nonlocal steps
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
            if changes or (event == "open" and str(out) in str(args[0])):
                steps += 1
                if steps == deadly:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        prepare(options, out=out)
        os._exit(0)

    deadly = 1
    while True:
        out = base / f"{deadly:04d}"
        code = attempt(out, deadly)
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        whole = (out / "manifest.json").exists()
        if whole:
            assert (out / "held-out" / "manifest.json").exists()
            assert not list((out / ".partial").glob("shard*.tar"))
        assert attempt(out, 0) == 0
        deadly += 1
    print(deadly)
"""


def test_killed_before_any_step_on_the_disk(tmp_path: Path) -> None:
    """A kill -9 before each single change of the disk, from the first to the last, leaves nothing
    that looks complete, and the same command ends with the same bytes."""
    root = raw.strips(tmp_path / "in", frames=9, people=2)
    raw.write_image(root / "action1" / "z.png", raw.side_by_side(raw.moving(2)))
    script = textwrap.dedent(_KILLER)
    done = subprocess.run(
        [sys.executable, "-c", script, str(root), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == int(done.stdout) > 40
    want = tree(runs[-1])
    assert not [name for name in want if ".partial" in name or name.endswith(".tmp")]
    for run in runs:
        assert tree(run) == want, run.name


def test_killed_command_goes_on(tmp_path: Path) -> None:
    """The command line with two processes is killed -9 with shards done: its workers end too, and
    the same words go on with what is there."""
    root = raw.strips(tmp_path / "in", frames=160, people=8)
    words = ["strips", "--root", str(root), "--frames", "4", "--windows", "all", "--size", "48"]
    words += ["--shard-clips", "12", "--workers", "2", "--out"]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_shards.prepare", *words, str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    third = out / ".partial" / "shard-00003.tar"
    deadline = time.monotonic() + 120
    while not third.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert third.exists() and not (out / "manifest.json").exists()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    kept = {
        path.name: path.stat().st_mtime_ns
        for path in (out / ".partial").glob("shard-0000[012].tar")
    }
    assert main([*words, str(out)]) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept and len(kept) == 3
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    """A terminal sends it to every process of the command: the first one tells, in a line, how to
    go on; those that decode say nothing, and end."""
    root = raw.strips(tmp_path / "in", frames=160, people=8)
    words = ["strips", "--root", str(root), "--frames", "4", "--windows", "all", "--size", "48"]
    out = tmp_path / "out"
    words += ["--shard-clips", "12", "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "data_shards.prepare", *words], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / ".partial" / "shard-00001.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told and "KeyboardInterrupt" not in told
    assert len(workers) >= 2 and psutil.wait_procs(workers, timeout=60)[1] == []


def test_archive_resumes_without_decoding_what_is_done(tmp_path: Path) -> None:
    """After a kill, a golf archive is read on: the same bytes as its folder's, and the images of
    finished shards are not decoded again."""
    root = raw.golf(tmp_path / "in", videos=7, segments=(4, 5))
    archive = raw.pack(root, tmp_path / "golf.tar.bz2")
    size = {"frames": 4, "windows": "all", "height": 16, "width": 16, "shard_clips": 4}
    options = Options(source="golf", root=str(archive), name="golf", **size)
    prepare(options, out=tmp_path / "whole", workers=2)
    prepare(Options(source="golf", root=str(root), name="golf", **size), out=tmp_path / "folder")
    same = [name for name in tree(tmp_path / "whole") if name != "prepare.json"]
    whole, folder = tree(tmp_path / "whole"), tree(tmp_path / "folder")
    assert [whole[name] for name in same] == [folder[name] for name in same]
    script = f"""
        import os, signal, sys
        from data_shards import disk, pool
        from data_shards.options import Options
        from data_shards.prepare import prepare
        read, seen = pool.read_video, []
        def reading(item, options):
            seen.append(item.name)
            if sys.argv[1] == "kill" and len(seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(item, options)
        pool.read_video = reading
        prepare(Options(source="golf", root={str(archive)!r}, name="golf", **{size!r}),
                out={str(tmp_path / "out")!r})
        print(len(seen))
    """
    for word, code, said in (("kill", -signal.SIGKILL, ""), ("go on", 0, "3\n")):
        command = [sys.executable, "-c", textwrap.dedent(script), word]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (code, said), done.stderr
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_second_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished set is left alone; other options, or other footage half-way, are refused."""
    root = raw.strips(tmp_path / "in", frames=8)
    out = tmp_path / "out"
    first = prepare(strip_options(root), out=out)
    before = tree(out)
    assert prepare(strip_options(root), out=out) == first
    assert f"{out}: already prepared with these options" in capsys.readouterr().err
    with pytest.raises(UserError) as caught:
        prepare(strip_options(root, frames=2, stride=2), out=out)
    assert str(caught.value) == (
        f"{out}: already holds footage prepared with another frames, stride; choose another --out "
        "or remove it"
    )
    assert tree(out) == before


def test_subset(tmp_path: Path) -> None:
    """A draw depends on the seed and the names alone; a list takes what it names."""
    root = raw.strips(tmp_path / "in", frames=4, people=5)

    def drawn(name: str, **options) -> list[str]:
        return [v.name for v in prepare(strip_options(root, **options), out=tmp_path / name).videos]

    assert len(drawn("a", videos=4)) == 4
    assert drawn("b", videos=4, seed=1) != drawn("c", videos=4, seed=2)
    wanted = tmp_path / "list.txt"
    wanted.write_text("# comment\nin/action1/person3.png 0\n\nperson1.png\n")
    names = ["action0/person1", "action1/person1", "action1/person3"]
    assert drawn("d", list_file=str(wanted)) == names
    assert drawn("e", list_file=str(wanted), limit=2) == names[:2]
    assert drawn("e", list_file=str(wanted), limit=2) == names[:2]
    wanted.write_text("action1/person1.png\n")
    with pytest.raises(UserError, match=r"already holds footage .* another choice of videos; ch"):
        drawn("e", list_file=str(wanted), limit=2)
    assert drawn("f", limit=1) == ["action0/person0"]
    archive = raw.pack(raw.golf(tmp_path / "golf"), tmp_path / "golf.tar.bz2")
    options = strip_options(archive, videos=3)
    golf = Options(**{**vars(options), "source": "golf"})
    assert len(prepare(golf, out=tmp_path / "g").videos) == 3


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The words of the command reach the manifest, and the summary tells what there is."""
    root = raw.chairs(tmp_path / "in")
    words = ["chair_cad", "--root", str(root), "--out", str(tmp_path / "out"), "--frames", "3"]
    words += ["--size", "8x12", "--crop", "20", "--elevation", "20,30", "--name", "seats"]
    words += ["--hold-out", "chair1:p030", "--workers", "1", "--codec", "raw", "--stride", "2"]
    assert main(words) == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.height, manifest.width, manifest.frames, manifest.stride) == (8, 12, 3, 2)
    assert (manifest.name, manifest.codec, manifest.clips) == ("seats", "raw", 3)
    assert read_manifest(tmp_path / "out" / "held-out").name == "seats-held-out"
    said = capsys.readouterr().out
    assert "2: chair0, chair1" in said and "2: p020, p030" in said


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["golf", "--root", "/far/golf.tar.bz2"], "footage/golf"),
        (["strips", "--root", "/far/weizmann_strips"], "footage/weizmann_strips"),
        (["synthetic", "--name", "mine"], "footage/mine"),
        (["synthetic", "--name", "mine", "--out", "here"], "here"),
    ],
)
def test_a_set_lies_under_its_own_name_unless_told_otherwise(words: list[str], folder: str) -> None:
    """`--root golf.tar.bz2` alone is a command."""
    assert parse(words)[1] == Path(folder)


def test_help_names_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the formats with their layouts."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for name in ("strips", "frames", "chair_cad", "weizmann", "golf", "folder", "synthetic"):
        assert f"  {name} " in said


def test_synthetic_longer_than_a_clip(tmp_path: Path) -> None:
    """Longer synthetic videos make more clips, which repeat with the motion's period."""
    about = SourceOptions(identities=1, actions=1, length=32, size=16)
    options = Options(source="synthetic", windows="all", height=16, width=16, about=about)
    prepare(options, out=tmp_path / "out")
    records = np.load(tmp_path / "out" / CLIPS, allow_pickle=False)
    assert records["start"].tolist() == [0, 16] and len(set(records["content"].tolist())) == 1
