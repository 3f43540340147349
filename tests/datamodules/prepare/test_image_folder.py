"""A folder of images with a JSONL of captions."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.prepare import Options, convert
from datamodules.prepare.image_folder import Dataset, line_offsets
from datamodules.prepare.raw import Order, T
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import records_of, skipped, write_images, write_lines

TRAIN = Options(splits=("train",))


class Backwards(Order):
    """The reverse order."""

    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        return list(ids)[::-1]


def converted(tmp_path: Path, rows: Iterable[dict[str, Any]], *images: str) -> Path:
    """Convert lines as training split; returns the shard folder."""
    write_lines(tmp_path / "train.jsonl", rows)
    write_images(tmp_path, *images)
    convert("image_folder", tmp_path, tmp_path / "out", TRAIN)
    return tmp_path / "out" / "image_folder" / "train"


def test_captions_with_and_without_boxes(tmp_path: Path) -> None:
    boxes = [[4, 5, 14, 10], [0, 0, 0, 0], [0, 0, 40, 20]]
    rows: list[dict[str, Any]] = [
        {"image": "a/b c.jpg", "captions": ["A dog.", " A\ncat."]},
        {"image": "b.png", "caption": "A cup.", "boxes": boxes, "names": ["cup", "", "table"], "mentions": [2]},
        {
            "image": "b.png",
            "captions": ["One.", "Two.", "None.", "Who knows."],
            "boxes": boxes[::2],
            "mentions": [[1], [1, 0, 1], [], None],
            "width": 80,
            "height": 40,
        },
    ]
    folder = converted(tmp_path, rows, "a/b c.jpg", "b.png")
    shards = ShardFolder(folder)
    samples = [shards.read(0, number) for number in range(len(shards))]
    found = {sample.record.texts[sample.item].id: sample.record for sample in samples}
    assert set(found) == {"1-0", "1-1", "2-0", "3-0", "3-1", "3-2", "3-3"}
    assert found["1-0"].image_id == "image_folder/a/b c.jpg"
    assert [text.text for text in found["1-0"].texts] == ["A dog.", "A cat."]
    # the size of 40 x 20 is read from the image; the first and the third box are left, so that 2 becomes 1
    assert found["2-0"].boxes == ((0.1, 0.25, 0.35, 0.5), (0.0, 0.0, 1.0, 1.0))
    assert found["2-0"].names == ("cup", "table")
    assert found["2-0"].texts[0].boxes == (1,)
    # a stated size counts
    assert found["3-0"].boxes == ((0.05, 0.125, 0.175, 0.25), (0.0, 0.0, 0.5, 0.5))
    assert found["3-0"].names == ("", "")
    assert [text.boxes for text in found["3-0"].texts] == [(1,), (1, 0), None, None]
    assert skipped(folder) == {"box of zero area": 1}


def test_defects_are_counted_with_the_line(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": "a.jpg", "captions": ["ok", "", 3]},
        {"image": "a.jpg"},
        {"image": "a.jpg", "caption": " "},
        {"image": ["a.jpg"], "caption": "a"},
        {"image": "a.jpg", "captions": "a dog"},
        {"image": "a.jpg", "caption": "a", "boxes": [[0, 0, 9, 9]], "names": [], "mentions": [0]},
        {"image": "a.jpg", "caption": "a", "boxes": [[0, 0, 9], None, [0, 0, 9, 9, 9]], "mentions": [0]},
        {"image": "a.jpg", "caption": "a", "boxes": [[0, 0, 9, 9]], "mentions": [1]},
        {"image": "a.jpg", "captions": ["a", "b"], "boxes": [[0, 0, 9, 9]], "mentions": [[0]]},
        {"image": "a.jpg", "caption": "a", "boxes": [[0, 0, 9, 9]], "width": 40},
        {"image": "nowhere.jpg", "caption": "a", "boxes": [[0, 0, 9, 9]]},
    ]
    folder = converted(tmp_path, rows, "a.jpg")
    assert skipped(folder) == {
        "empty caption": 3,
        "no caption": 2,
        "field of a wrong type": 2,
        "boxes without names": 1,
        "box without numbers": 3,
        "mention of no box": 1,
        "mentions without captions": 1,
        "image without a size": 1,
        "missing image": 1,
    }
    wheres = {skip["kind"]: skip["where"] for skip in ShardFolder(folder).manifest.skips}
    assert wheres["boxes without names"] == "train.jsonl, line 6: 1 boxes, 0 names"
    assert all(text.boxes is None for record in records_of(folder).values() for text in record.texts)


def test_lines_come_in_the_order_asked_for_and_empty_ones_do_not_count(tmp_path: Path) -> None:
    line = '{"image": "a.jpg", "caption": "%s"}\n'
    (tmp_path / "train.jsonl").write_text(line % "é" + "\n" + line % "b" + "{cut\n" + (line % "c").strip())
    defects: list[str] = []
    items = list(Dataset(tmp_path).items("train", Backwards(), lambda kind, where: defects.append(f"{kind}: {where}")))
    assert [(item.key, item.record.texts[0].text) for item in items] == [
        ("000000005", "c"),
        ("000000003", "b"),
        ("000000001", "é"),
    ]
    assert len(defects) == 1
    assert defects[0].startswith("bad json: train.jsonl, line 4: ")


def test_a_line_in_memory_is_eight_bytes() -> None:
    lines, line = 50_000, b'{"image": "a.jpg", "caption": "' + 100 * b"a" + b'"}\n'
    file = io.BytesIO(lines * line)
    tracemalloc.start()
    offsets = line_offsets(file)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(offsets[:3]) == [0, len(line), 2 * len(line)]
    assert len(offsets) == lines
    assert size < 10 * lines  # the array may have room to grow
