"""Fixtures for all tests, and a guard: groups of tests that share a service must be seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real footage; tests that need it are skipped without one."""
    folder = os.environ.get("NAVSYNTH_FOOTAGE")
    if not folder:
        pytest.skip("real footage: set NAVSYNTH_FOOTAGE to its folder")
    return Path(folder)


@pytest.fixture(scope="session")
def vgg_file() -> Path:
    """VGG16 weights up to relu3_3; tests that need them are skipped without."""
    file = os.environ.get("NAVSYNTH_VGG16")
    if not file:
        pytest.skip("VGG16 weights: set NAVSYNTH_VGG16 to a safetensors file")
    return Path(file)
