"""docs/footage.md: its first commands run, all others are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_shards import inspect, prepare
from data_shards.manifest import read_manifest
from data_shards.prepare_cli import parse
from data_shards.sources import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "footage.md"
MAINS = {"data_shards.prepare": prepare.main, "data_shards.inspect": inspect.main}


def blocks() -> list[list[list[str]]]:
    """Words of each command of each bash block, from the module's name on."""
    found = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [[shlex.split(line)[2:] for line in block.splitlines()] for block in found]


def test_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What "Try it" says works as it stands and makes what it says."""
    monkeypatch.chdir(tmp_path)
    for module, *words in blocks()[0]:
        assert MAINS[module](words) == 0
    assert len(read_manifest("footage/demo").videos) == 20
    assert len(read_manifest("footage/demo/held-out").videos) == 4
    assert read_manifest("footage/long").clips == 4 * 20
    assert Path("held-out.png").exists()


def test_other_commands_are_understood() -> None:
    """Every other command on the page has options that exist and are in range."""
    commands = blocks()[1]
    assert len(commands) >= 8
    for module, *words in commands:
        assert module == "data_shards.prepare"
        options, out, _ = parse(words)
        assert options.source in SOURCES and str(out).startswith("footage/")


def test_every_source_is_described() -> None:
    """The page's table has a row for each source."""
    text = PAGE.read_text()
    assert all(f"\n| `{name}` |" in text for name in SOURCES)
