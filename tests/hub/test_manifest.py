"""The list of published checkpoints and the page that shows it agree."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from vle_lightning.errors import UserError
from vle_lightning.experiment import task_names
from vle_lightning.hub.manifest import MANIFEST, PAGE, TASKS, Entry, read_manifest, table, with_table
from vle_lightning.inference.pipelines import PIPELINES

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_manifest() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert with_table(page, read_manifest(ROOT / MANIFEST)) == page


def test_every_published_checkpoint_has_a_row_that_says_how_to_load_it() -> None:
    entry = Entry("vle-base-for-vqa", "hfl/vle-base-for-vqa", "vqa", "378M", "Apache-2.0", None)
    row = table([entry]).splitlines()[2]
    assert '`VQATask.from_pretrained("hfl/vle-base-for-vqa")`' in row
    assert "| 378M |" in row


def test_files_are_loaded_by_the_name_that_they_are_fetched_under() -> None:
    entry = Entry("vlmo", "https://host/release/vlmo.pt", "dual_retrieval", "175M", "not stated", None)
    row = table([entry]).splitlines()[2]
    assert row.startswith(
        '| [vlmo.pt](https://host/release/vlmo.pt) | 175M | `DualRetrievalTask.from_pretrained("vlmo.pt")` |'
    )


def test_all_families_are_listed_and_what_experiments_start_from_is_among_them() -> None:
    entries = read_manifest(ROOT / MANIFEST)
    assert [sum(entry.name.startswith(family) for entry in entries) for family in ("vle", "meter", "vlmo")] == [
        8,
        8,
        18,
    ]
    assert len({entry.source for entry in entries}) == len(entries)
    files = {entry.source.rsplit("/", 1)[-1] for entry in entries}
    text = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "experiments").rglob("*.yaml"))
    started = set(re.findall(r"published/((?:meter|vlmo)\S+)", text))
    assert started
    assert started <= files
    page = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    names = [
        re.sub(r"^vlmo_(base_plus|base|large)_", "vlmo_SIZE_", entry.source.rsplit("/", 1)[-1]) for entry in entries
    ]
    assert all(f"{name}`" in page for name in names)


@pytest.mark.parametrize("task", TASKS)
def test_what_loads_a_checkpoint_is_there(task: str) -> None:
    loader, pipelines = TASKS[task]
    modules = [importlib.import_module(f"vle_lightning.tasks.{name}") for name in task_names()]
    assert loader in {module.Task.__name__ for module in modules}
    assert set(pipelines) <= set(PIPELINES)


def test_an_incomplete_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("- {name: vle-base, source: hfl/vle-base}\n")
    with pytest.raises(UserError, match="must hold licence, name, parameters"):
        read_manifest(tmp_path / "manifest.yaml")
