"""Command lines end in one line and a code, whatever the disk or the user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_shards import inspect
from data_shards.ending import ended
from tests.support.footage import tiny_set
from tests.support.training import environment
from trainer import generate


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "/runs/a/b"), 2, "/runs/a/b: No space left on"),
        (PermissionError(13, "Permission denied", "/runs/a"), 2, "/runs/a: Permission denied"),
        (FileExistsError(17, "File exists", "out"), 2, "out: File exists"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file and what is wrong with it; arguments arrive as they were."""

    @ended
    def main(argv: Sequence[str] | None = None) -> int:
        assert argv == ["a"]
        raise error

    assert main(["a"]) == code
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    """An error without a file, or that no disk makes, comes out as it is; a code is handed on."""

    @ended
    def main(argv: Sequence[str] | None = None) -> int:
        if argv:
            raise OSError(9, "Bad file descriptor")
        return 7

    assert main([]) == 7
    with pytest.raises(OSError, match="Bad file descriptor"):
        main(["x"])


def test_who_reads_no_further_ends_it_quietly(tmp_path: Path) -> None:
    """`inspect --names | head -1` of more names than a pipe holds."""
    script = (
        "from data_shards.ending import ended\n"
        "@ended\n"
        "def main(argv=None):\n"
        "    print('x' * 10**7, flush=True)\n"
        "    return 0\n"
        "raise SystemExit(main())\n"
    )
    command = f'{sys.executable} -c "$0" | head -c 1'
    done = subprocess.run(
        ["sh", "-c", command, script], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("x", "")


def test_commands_say_what_is_in_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sheet in a folder that is not there is refused before the set is read, and a file where the
    pictures' folder should be is named."""
    folder = tiny_set(tmp_path / "set", identities=1, actions=1)
    capsys.readouterr()
    for wrong in (tmp_path / "none" / "x.png", folder):
        assert inspect.main([str(folder), "--sheet", str(wrong)]) == 2
        assert capsys.readouterr().err == (
            f"error: --sheet: {wrong}: no file in a folder that is there\n"
        )
    assert generate.main([str(tmp_path / "no-run"), "sample"]) == 2
    assert "not a run folder" in capsys.readouterr().err
