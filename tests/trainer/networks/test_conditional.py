"""The conditional generator is told labels of rows, follows them, and can do without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.options import Options
from data_shards.prepare import prepare
from tests.support.training import SMALL
from trainer import render, setup
from trainer.config import resolve
from trainer.main import main as train
from trainer.networks import NavSynth, NetworksConfig, RowLabels, parameter_counts
from trainer.networks.conditional import columns_of
from trainer.run import open_run

LABELS = RowLabels(torch.tensor([1, 0, -1]), torch.tensor([0, 2]), (2, 3))


def small(labels: RowLabels | None = LABELS, **settings) -> NavSynth:
    torch.manual_seed(0)
    config = NetworksConfig(hidden=9, channels=8, generator="conditional", **settings)
    return NavSynth(config, static=4, transient=5, size=32, labels=labels).eval()


def test_columns_are_one_hot_and_no_label_is_a_little_of_each() -> None:
    """Against a table written by hand."""
    found = columns_of(torch.tensor([2, -1, 0]), 3)
    third = [1 / 3] * 3
    assert torch.allclose(found, torch.tensor([[0.0, 0, 1], third, [1, 0, 0]]))


def test_a_pair_of_rows_has_the_labels_of_both() -> None:
    """Identity from the static row, action from the transient one; rows beyond have none."""
    codes = torch.arange(16.0).view(4, 4)
    told = small().told(codes, torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 9, 1]))
    half, third = 0.5, 1 / 3
    labels = torch.tensor([
        [0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [half, half, third, third, third], [half, half, 0, 0, 1],
    ])  # fmt: skip
    assert torch.equal(told[:, :4], codes) and torch.allclose(told[:, 4:], labels)
    plain = NavSynth(NetworksConfig(hidden=9, channels=8), static=4, transient=5, size=32)
    assert plain.told(codes, torch.zeros(4), torch.zeros(4)) is codes


def test_labels_change_the_frames_and_none_is_every_label_at_once() -> None:
    """Equal codes with other labels give other frames; codes alone those of unlabelled rows."""
    networks, codes = small(), torch.randn(3, 4)
    moving = torch.randn(3, 6, 5)
    pairs = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 9])
    told, _ = networks(networks.told(codes, *pairs), moving)
    bare, _ = networks(codes, moving)
    assert torch.equal(told[2], bare[2])
    assert not torch.allclose(told[0], bare[0], atol=1e-4)
    swapped, _ = networks(networks.told(codes, pairs[0][[1, 0, 2]], pairs[1]), moving)
    assert not torch.allclose(told[0], swapped[0], atol=1e-4)


@pytest.mark.parametrize("init", ["kaiming", "dcgan", "torch"])
def test_labels_get_gradients_and_are_no_weights(init: str) -> None:
    """The embedding learns; the rows' labels are not part of a checkpoint."""
    networks = small(init=init).train()
    told = networks.told(torch.randn(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1]))
    networks(told, torch.randn(2, 6, 5))[0].square().sum().backward()
    embed = networks.get_submodule("generator.embed").get_parameter("weight")
    assert embed.grad is not None and embed.grad.abs().sum() > 0
    assert not [name for name in networks.state_dict() if name.endswith(("_N", "_L"))]
    config = NetworksConfig(hidden=9, channels=8, generator="conditional")
    counts = parameter_counts(config, static=4, transient=5, size=32, labels=LABELS)
    assert counts["gamma"] == sum(p.numel() for p in networks.gamma())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three appearances, two motions."""
    folder = tmp_path_factory.mktemp("conditional") / "data"
    about = SourceOptions(identities=3, actions=2, length=6, size=32)
    prepare(
        Options(source="synthetic", root="", name="six", frames=6, height=32, width=32,
                about=about),
        out=folder,
    )  # fmt: skip
    return folder


def test_a_run_is_trained_read_back_and_recombined(data: Path, tmp_path: Path) -> None:
    """Training clips and new pairs are rendered with the labels of their rows."""
    words = ["networks.generator=conditional", "latents.static_key=identity",
             "latents.transient_key=action", "train.pictures=false"]  # fmt: skip
    code = train(["--runs", str(tmp_path), "name=told", f"data.manifest={data}", *SMALL, *words,
                  "train.steps=3"])  # fmt: skip
    assert code == 0 and not (tmp_path / "told" / "report.html").exists()
    run = open_run(tmp_path / "told")
    codes = run.latents(torch.tensor([2]), torch.tensor([1]))
    assert codes[0].shape[1] == run.config.latents.static + 5
    assert codes[0][0, -5:].tolist() == [0, 0, 1, 0, 1]
    video = render.render(run, [2], [1])[0]
    clip = next(c for c in range(run.manifest.clips)
                if [int(r) for r in run.clip_rows(torch.tensor([c]))] == [2, 1])  # fmt: skip
    assert np.array_equal(render.render_clips(run, [clip])[0], video)


def test_a_layout_without_labels_is_refused(data: Path) -> None:
    """One line that names the setting and both ways out."""
    from data_shards.manifest import read_manifest

    words = [f"data.manifest={data}", "networks.generator=conditional",
             "latents.static_key=dataset", "latents.transient_key=clip"]  # fmt: skip
    with pytest.raises(UserError, match=r"networks\.generator: conditional needs labels"):
        setup.build_networks(resolve(words), read_manifest(data))
    by_video = resolve([*words[:2], "latents.static_key=video", "latents.transient_key=video"])
    labels = setup.labels_of(by_video, read_manifest(data))
    assert labels is not None and sorted(labels.identity_N.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="none of dcgan, conditional"):
        NetworksConfig(generator="other")
