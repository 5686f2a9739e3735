"""Fixtures for all tests, and what they see of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Looking for a GPU must neither begin to use it nor miss that a test hides it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hide the GPUs from what a test starts, fixtures included, but for tests of the group gpu: two
    processes of a training take two of them, and there may be one."""
    if item.get_closest_marker("gpu") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif VISIBLE is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE


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
