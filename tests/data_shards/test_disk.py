"""Disks that refuse, and two commands at one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_shards.prepare import main


def test_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ENOSPC, from the kernel's own full device, names the disk and leaves nothing complete; with
    space again, the same command ends well."""
    out = tmp_path / "out"
    facts = out / ".partial" / "prepare.json.tmp"
    words = ["synthetic", "--size", "64", "--workers", "0", "--hold-out", "none"]
    words += ["--out", str(out)]
    first = tmp_path / "first"
    assert main([*words[:-1], str(first)]) == 0
    facts.parent.mkdir(parents=True)
    facts.symlink_to("/dev/full")
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}: No space left on device on the disk at /")
    advice = "MiB free); free some space and run the same command again: it goes on where it was\n"
    assert said.endswith(advice) and said.count("\n") == 1
    assert not list(out.rglob("manifest.json"))
    facts.unlink(missing_ok=True)
    assert main(words) == 0
    assert (out / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()


_SMALL_DISK = """
import resource, sys
from data_shards.prepare import main
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
sys.exit(main(sys.argv[1:]))
"""


def test_disk_that_refuses_half_way(tmp_path: Path) -> None:
    """A disk that refuses in the middle of a shard is named, and the command goes on later."""
    out = tmp_path / "out"
    words = ["synthetic", "--size", "64", "--workers", "0", "--shard-clips", "6", "--out", str(out)]
    command = [sys.executable, "-c", _SMALL_DISK, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {out / 'held-out'}: File too large on the disk at /")
    assert not list(out.rglob("manifest.json"))
    assert main(words) == 0


_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "wb")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
"""


def test_two_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second preparation of one folder is refused while the first is at work."""
    out = tmp_path / "out"
    (out / ".partial").mkdir(parents=True)
    command = [sys.executable, "-c", _HOLDER, str(out / ".partial" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(["synthetic", "--out", str(out)]) == 2
        other.communicate(b"\n")
    want = f"error: {out}: another preparation is at work there; wait for it\n"
    assert capsys.readouterr().err == want


_ORPHAN = """
import os, sys
from pathlib import Path
from data_shards.prepare import _locked
with _locked(Path(sys.argv[1])):
    if os.fork() == 0:
        sys.stdin.readline()
    os._exit(0)
"""


def test_a_process_that_outlives_a_preparation_holds_nothing(tmp_path: Path) -> None:
    """What was being started when a preparation died does not keep the folder from the next."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", _ORPHAN, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as died:
        assert died.wait(60) == 0
        assert main(["synthetic", "--out", str(out)]) == 0
        died.communicate(b"\n")
