"""The list of published checkpoints and the page that shows it agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from vle_lightning.errors import UserError
from vle_lightning.hub.manifest import MANIFEST, PAGE, Entry, read_manifest, table, with_table

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_manifest() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert with_table(page, read_manifest(ROOT / MANIFEST)) == page


def test_every_published_checkpoint_has_a_row_that_says_how_to_load_it() -> None:
    entry = Entry("vle-base-for-vqa", "hfl/vle-base-for-vqa", "vqa", "378M", "Apache-2.0", None)
    row = table([entry]).splitlines()[2]
    assert '`VQATask.from_pretrained("hfl/vle-base-for-vqa")`' in row
    assert "| 378M |" in row
    assert len(read_manifest(ROOT / MANIFEST)) == 8


def test_an_incomplete_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("- {name: vle-base, source: hfl/vle-base}\n")
    with pytest.raises(UserError, match="must hold licence, name, parameters"):
        read_manifest(tmp_path / "manifest.yaml")
