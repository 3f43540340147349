"""The run of one process that all others are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.strategies.runs import SMALL, fit


@pytest.fixture(scope="session")
def in_the_workplace(workplace: Path) -> Iterator[None]:
    """Work where data/toy is the tiny world."""
    (workplace / "strategies.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        yield


@pytest.fixture(scope="session")
def alone(in_the_workplace: None) -> Path:
    """The run folder of one process."""
    return fit("alone", "auto", 1)
