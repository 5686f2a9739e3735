"""VGG16 weights of a study: found, made absolute, and opened before any budget is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data_shards.errors import UserError
from trainer.vgg import ENVIRONMENT
from tuning.vgg_file import require_weights, weights_of

WIDTHS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
          14: (256, 256)}  # fmt: skip


def test_the_environments_file_is_kept_where_an_objective_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute, since workers elsewhere have neither this folder nor this variable; a file that is
    given wins, and is kept in any case."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, "weights/mine")
    assert weights_of(("unseen-mcs", "fcs"), "") == str(tmp_path.resolve() / "weights" / "mine")
    assert weights_of(("psnr",), "") == ""
    for objectives in (("mcs",), ("psnr",)):
        assert weights_of(objectives, "given") == str(tmp_path.resolve() / "given")
    monkeypatch.delenv(ENVIRONMENT)
    assert weights_of(("mcs",), "") == ""


def test_weights_are_opened(tmp_path: Path) -> None:
    """Those of the network are, others are named in one line with what is wrong."""
    weights = {}
    for layer, (before, after) in WIDTHS.items():
        weights[f"features.{layer}.weight"] = torch.zeros(after, before, 3, 3)
        weights[f"features.{layer}.bias"] = torch.zeros(after)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file(weights, good)
    assert require_weights(str(good)) is None
    save_file({**weights, "features.7.bias": torch.zeros(3)}, bad)
    with pytest.raises(UserError, match=r"^\S+bad\.safetensors: features\.7\.bias is not of VGG16"):
        require_weights(str(bad))
    with pytest.raises(UserError, match=r"^/nowhere: not a readable safetensors file") as error:
        require_weights("/nowhere")
    assert "\n" not in str(error.value)
