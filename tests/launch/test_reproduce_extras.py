"""LPIPS and FVD in a reproduction: only where their files are given, with cards of their own."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from data_shards.errors import UserError
from launch.reproduce import extras, trainings
from launch.reproduce.__main__ import main as reproduce
from launch.reproduce.context import Context, Table
from launch.reproduce.footage import SYNTHETIC
from launch.reproduce.planner import Plan
from launch.reproduce.stages import unseen
from launch.reproduce.state import inputs_of
from tests.support.training import SMALL
from trainer import distances, lpips
from trainer.cards import footage_card
from trainer.main import main as train
from trainer.run import open_run

pytestmark = pytest.mark.xdist_group("reproduce_extras")

TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
PLAN = Plan(None, 1, frames=6, size=32, videos=8, fit_steps=4, words=(*SMALL, "train.steps=3"))


class Program(torch.nn.Module):
    """Stands for I3D: the mean colours of the first and the last frame."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True,
        return_features: bool = True,
    ) -> torch.Tensor:  # fmt: skip
        return torch.cat([x[:, :, 0].mean((2, 3)), x[:, :, -1].mean((2, 3))], dim=1)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name random weights of LPIPS's shapes, and a program, by their SHA-256."""
    folder = tmp_path_factory.mktemp("files")
    layers = torch.nn.Sequential(*list(torchvision.models.vgg16().features.children())[:30])
    weights = {f"features.{k}": v for k, v in layers.state_dict().items()}
    weights |= {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1)
                for i, w in enumerate(lpips.WIDTHS)}  # fmt: skip
    save_file(weights, folder / "lpips.safetensors")
    torch.jit.script(Program()).save(str(folder / "i3d.pt"))
    return ["--lpips", str(folder / "lpips.safetensors"), "--fvd", str(folder / "i3d.pt"),
            "--fvd-sha256", digest(folder / "i3d.pt"), "--allow-code"]  # fmt: skip


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def opened(words: list[str]) -> distances.Wanted:
    parser = argparse.ArgumentParser()
    extras.add_options(parser)
    return distances.open_wanted(parser.parse_args(words))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    def start(module: str, given: list[str], log: Path) -> int:
        return train(given)

    return Context(tmp_path_factory.mktemp("extras"), (TINY,), PLAN, None, "", start)


def test_files_give_tables_of_their_own(context: Context, words: list[str]) -> None:
    """LPIPS and FVD of the training videos and of the fitted ones, whose footage their cards name;
    figures are those of `trainer.evaluate` on the same run."""
    wanted = opened(words)
    found = unseen.run(replace(context, wanted=wanted)).tables
    tables = {table.title: table for table in found}
    parts = ("training videos", "unseen videos")
    titles = [f"{name}, {what}: synthetic" for what in parts for name in ("LPIPS", "FVD")]
    assert list(tables)[2:] == titles
    (series,) = unseen.series_of(context, TINY)
    run = open_run(trainings.trained(context, *series.trainings[4][0]))
    scores = distances.extra_scores(run, range(4), wanted, vgg=None, chosen="all")
    value = {score.name: f"{score.value:.4f}" for score in scores}
    assert cell(tables[titles[0]]) == value["LPIPS"] and cell(tables[titles[1]]) == value["FVD"]
    assert cell(tables[titles[2]]) != value["LPIPS"]
    held = unseen.manifest_of(series.held)
    assert footage_card(held, str(series.held)).items() <= tables[titles[2]].card.items()
    assert tables[titles[0]].card["weights SHA-256"] == digest(words[1])
    assert tables[titles[3]].card["program SHA-256"] == digest(words[3])
    assert tables[titles[3]].card["videos"].startswith("footage: 2 unseen videos")


def cell(table: Table) -> object:
    ((_, value),) = table.rows
    return value


def test_without_files_there_are_none(context: Context, words: list[str]) -> None:
    """No table, and a result that does not count for one with files."""
    assert opened([]) == distances.NOTHING
    assert len(unseen.run(context).tables) == 2
    other = replace(context, wanted=opened(words))
    assert inputs_of(context, "unseen") != inputs_of(other, "unseen")


def test_files_are_refused_in_one_line(words: list[str]) -> None:
    """A program without permission, and a file that is another one."""
    with pytest.raises(UserError, match=r"^--fvd .*: is a program; give --allow-code"):
        opened(words[:-1])
    with pytest.raises(UserError, match=r"^--lpips .*SHA-256"):
        opened([*words, "--lpips-sha256", "0" * 64])


def test_files_are_asked_for_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file that is not there, and a program that is not allowed: one line each, nothing made."""
    program = tmp_path / "program.pt"
    program.write_bytes(b"code")
    for words, text in (
        (
            ["--lpips", str(tmp_path / "none")],
            f"--lpips {tmp_path}/none: No such file or directory",
        ),
        (["--fvd", str(program)], "--fvd"),
    ):
        assert reproduce([*words, "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.startswith(f"error: {text}")
    assert not (tmp_path / "out" / "data").exists()
