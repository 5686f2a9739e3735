"""What a search shows is shown by this process alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuning import live
from tuning.records import Settings

SETTINGS = Settings(
    manifest="", words=(), steps=9, rungs=(), objectives=("psnr",), workers=1, cpus=1, gpus=0,
    interval=1, seed=0, vgg="", space={},
)  # fmt: skip


def test_a_terminal_does_not_keep_ray_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray pickles its searcher, and with it whoever listens to it; a terminal's locks cannot be
    pickled, so they stay behind and all else goes along."""
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(live, "sys", terminal)
    shown = live.Live(tmp_path, SETTINGS)
    assert shown._screen is not None
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(shown._screen)
    assert shown.__getstate__() == {**vars(shown), "_screen": None}
    assert str(tmp_path.name).encode() in pickle.dumps(shown.change)
