"""One SLURM and one data set for all tests of this folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cluster
from tests.support.footage import tiny_set
from tests.support.training import ROOT


@pytest.fixture(scope="session")
def slurm() -> Iterator[cluster.Cluster]:
    """A running cluster; skipped where there is none to be had."""
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,  # a short path: it holds a socket
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        with cluster.cluster(Path(folder)) as made:
            yield made


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of videos."""
    folder = tmp_path_factory.mktemp("slurm-data")
    return tiny_set(folder, identities=3, actions=2, frames=6, size=32)
