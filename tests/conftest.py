"""A tiny embedded world for all tests that train through the command line."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from filelock import FileLock

DOT = base64.b64decode(  # a PNG file of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# torch and what imports it are imported in here only: the process that hands out the tests needs none of them


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small only wait for each other's threads."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else fake tensors look for a driver at each operation
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pictures of one pixel: laying out those of a tiny run takes longer than its training."""
    monkeypatch.setattr("vle_lightning.callbacks.pictures.render", lambda picture: DOT)


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world with 48 training and 16 validation scenes."""
    from datamodules.toy.build import WorldOptions, build_world

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # of all processes of this run
    with FileLock(shared / "world.lock"):
        build_world(shared / "world" / "toy", WorldOptions(48, 16, 0), processes=1)  # a finished one is left alone
    return shared / "world" / "toy"


@pytest.fixture(scope="session")
def workplace(toy_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where data/toy is the tiny world, for experiments as they ship."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    (folder / "data" / "toy").symlink_to(toy_world)
    return folder
