"""The cluster that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, what_is_missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, as long as the tests run."""
    if reason := what_is_missing():
        pytest.skip(reason)
    with Cluster() as cluster:
        yield cluster
