"""The benchmark of stages: what is sent in each, and where its table goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.stages import main


@pytest.mark.ranks
def test_a_frozen_generator_costs_no_bytes_and_the_page_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks, little networks: the gradients of both stages add up to those of all, and what was
    counted is on the page."""
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("stages")))
    words = ["networks.channels=4", "networks.group_channels=4", "networks.hidden=8"]
    assert main([*words, "--steps", "2", "--size", "32", "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (told["benchmark"], told["ranks"], told["size"]) == ("stages", 2, 32)
    sent = {name: found["bytes"]["gradients"] for name, found in told["stages"].items()}
    assert 0 < sent["latents"] < sent["together"]
    assert sent["generator"] + sent["latents"] == pytest.approx(sent["together"], rel=1e-3)
    assert f"{sent['latents'] / 1024:,.1f} |" in page.read_text()
    assert main(["--write", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"
