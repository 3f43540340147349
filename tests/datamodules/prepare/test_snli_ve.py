"""SNLI-VE: hypotheses about a photo with the annotators' gold label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from tests.datamodules.prepare.raw_files import records_of, skipped, write_images, write_lines

DEV = Options(splits=("dev",))


def row(photo: str, number: int, label: str = "neutral", **changes: object) -> dict[str, Any]:
    """Return a hypothesis."""
    return {
        "Flickr30K_ID": photo,
        "captionID": f"{photo}.jpg#2",
        "pairID": f"{photo}.jpg#2r{number}n",
        "gold_label": label,
        "annotator_labels": [label] * 5,
        "sentence1": "Two dogs play.",
        "sentence2": f"Hypothesis {number}.",
        **changes,
    }


def test_a_photo_has_one_record_with_all_its_hypotheses(tmp_path: Path) -> None:
    rows = [row("47055", 1, "entailment"), row("32", 1), row("47055", 2, "contradiction"), row("47055", 3, "-")]
    write_lines(tmp_path / "snli_ve_dev.jsonl", rows)
    write_images(tmp_path / "flickr30k_images", "47055.jpg", "32.jpg")
    convert("snli_ve", tmp_path, tmp_path / "out", DEV)
    records = records_of(tmp_path / "out" / "snli_ve" / "dev")
    assert set(records) == {"flickr30k/47055", "flickr30k/32"}
    assert [vars(statement) for statement in records["flickr30k/47055"].statements] == [
        {"id": "47055.jpg#2r1n", "text": "Hypothesis 1.", "label": "entailment", "group": ""},
        {"id": "47055.jpg#2r2n", "text": "Hypothesis 2.", "label": "contradiction", "group": ""},
    ]
    assert skipped(tmp_path / "out" / "snli_ve" / "dev") == {"no gold label": 1}


def test_defects_are_counted(tmp_path: Path) -> None:
    rows = [
        row("1", 1),
        row("1", 1),
        row("1", 2, "maybe"),
        row("1", 3, sentence2=["a"]),
        row("1", 4, Flickr30K_ID=5),
        row("1", 5, gold_label=None),
        row("2", 1),
    ]
    write_lines(tmp_path / "snli_ve_dev.jsonl", rows)
    write_images(tmp_path / "flickr30k_images", "1.jpg")
    convert("snli_ve", tmp_path, tmp_path / "out", DEV)
    assert skipped(tmp_path / "out" / "snli_ve" / "dev") == {
        "id given twice": 1,
        "unknown label": 1,
        "empty statement": 1,
        "field of a wrong type": 2,
        "missing image": 1,
    }


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "snli_ve_dev.jsonl", [{"Flickr30K_ID": "1", "pairID": "1"}])
    write_images(tmp_path / "flickr30k_images", "1.jpg")
    with pytest.raises(ValueError, match=r"snli_ve_dev\.jsonl, line 1: keys \['gold_label', 'sentence2'\] are missing"):
        convert("snli_ve", tmp_path, tmp_path / "out", DEV)


def test_the_authors_own_spelling_of_the_photo_is_known(tmp_path: Path) -> None:
    rows = [row("1", 1), row("2", 2)]
    rows[1]["Flikr30kID"] = rows[1].pop("Flickr30K_ID")
    write_lines(tmp_path / "snli_ve_dev.jsonl", rows)
    write_images(tmp_path / "flickr30k_images", "1.jpg", "2.jpg")
    convert("snli_ve", tmp_path, tmp_path / "out", Options(splits=("dev",)))
    assert set(records_of(tmp_path / "out" / "snli_ve" / "dev")) == {"flickr30k/1", "flickr30k/2"}
