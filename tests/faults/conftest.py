"""One small set of videos for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.footage import tiny_set


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of six frames."""
    folder = tmp_path_factory.mktemp("faults-data")
    return tiny_set(folder, identities=3, actions=2, frames=6, size=32)
