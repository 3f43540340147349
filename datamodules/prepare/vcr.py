"""VCR (arXiv 1811.10830): questions about tagged objects, four answers and four rationales each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datamodules.prepare.images import Folder
from datamodules.prepare.raw import Item, Objects, Order, RawDataset, clean_text, tar_key, usable_objects
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    LIST,
    LONGEST_LINE,
    WHOLE,
    Field,
    Fields,
    Row,
    SkipDefect,
    check_rows,
    distinct,
    existing_file,
    group,
    is_whole,
    optional,
    read_json,
    read_lines,
)
from datamodules.records import Record, TaggedText, VCRItem
from datamodules.shards import SampleError

CHOICES = 4
CORNERS, SCORED = 4, 5  # numbers of a box; the fifth is the detector's score


def is_tagged(value: object) -> bool:
    """Return whether a value is a list of words and of non-empty lists of object numbers."""
    return isinstance(value, list) and all(
        isinstance(part, str) or (isinstance(part, list) and part and all(map(is_whole, part))) for part in value
    )


TAGGED = Field("a list of words and tags", is_tagged)
TAGGED_LIST = Field("a list of lists of words and tags", lambda x: isinstance(x, list) and all(map(is_tagged, x)))
FIELDS: Fields = {
    "img_fn": FILE_NAME,
    "metadata_fn": FILE_NAME,
    "objects": LIST,
    "question": TAGGED,
    "answer_choices": TAGGED_LIST,
    "rationale_choices": TAGGED_LIST,
    "annot_id": ID,
    "answer_label": optional(WHOLE),
    "rationale_label": optional(WHOLE),
}
METADATA: Fields = {"boxes": LIST, "names": LIST, "width": ANY, "height": ANY}


class TagError(Exception):
    """A tag names no usable object."""


class Dataset(RawDataset):
    """``{train,val,test}.jsonl``, and ``vcr1images/`` with the images and their metadata."""

    kind = "vcr"
    stored_boxes = True  # its sizes are those of the files, whose EXIF it does not follow

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the one folder of the official layout."""
        return ("vcr1images",)

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file; the images' metadata are too many files to hash, like the images."""
        return (existing_file(self.src / f"{split}.jsonl"),)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a usable question."""
        path = self.src / f"{split}.jsonl"
        rows = group(distinct(read_lines(path, FIELDS, skip), "annot_id", path.name, skip), "img_fn")
        for image_name in order(sorted(rows)):
            objects = self.objects(rows[image_name][0], skip)
            if objects is None:
                continue
            items = tuple(item for row in rows[image_name] if (item := usable_item(row, objects, skip)) is not None)
            if items:
                stem = str(PurePosixPath(image_name).with_suffix(""))
                yield Item(
                    tar_key(image_name), image_name, Record(f"vcr/{stem}", objects.boxes, objects.names, vcr=items)
                )

    def objects(self, row: Row, skip: SkipDefect) -> Objects | None:
        """Read the objects of a row's image; None, counted, if its metadata are missing or broken."""
        name = row["metadata_fn"]
        try:
            path = Folder(self.src / "vcr1images", self.src, self.follow_links).find(name)
            found = check_rows([read_json(path, LONGEST_LINE)], METADATA, str(path), skip)
        except SampleError as error:
            skip(error.kind, error.where)
            return None
        except FileNotFoundError:
            skip("missing metadata", f"{self.src / 'vcr1images' / name}: no such file")
            return None
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            skip("unreadable metadata", f"{name}: {error}")
            return None
        except ValueError as error:
            skip("bad json", str(error))
            return None
        if not found:
            return None
        metadata = found[0]
        boxes = [box[:CORNERS] if isinstance(box, list) and len(box) == SCORED else box for box in metadata["boxes"]]
        return usable_objects(boxes, metadata["names"], (metadata["width"], metadata["height"]), str(path), skip)


def usable_item(row: Row, objects: Objects, skip: SkipDefect) -> VCRItem | None:
    """Return a question with its choices; None, counted, if a tag, a label or a choice is wrong."""
    where = f"{row['img_fn']}, {row['annot_id']}"
    answer_label, rationale_label = row.get("answer_label"), row.get("rationale_label")
    if len(row["objects"]) != len(objects.numbers):
        skip(
            "objects differ from the metadata",
            f"{where}: {len(row['objects'])}, not {len(objects.numbers)} objects",
        )
    elif len(row["answer_choices"]) != CHOICES or len(row["rationale_choices"]) != CHOICES:
        skip("not four choices", where)
    elif not all(label is None or label in range(CHOICES) for label in (answer_label, rationale_label)):
        skip("label out of range", f"{where}: answer {answer_label}, rationale {rationale_label}")
    elif is_empty(row["question"]):
        skip("empty question", where)
    elif any(map(is_empty, (*row["answer_choices"], *row["rationale_choices"]))):
        skip("empty choice", where)
    else:
        try:
            return VCRItem(
                id=str(row["annot_id"]),
                question=renumbered(row["question"], objects),
                answer_choices=tuple(renumbered(choice, objects) for choice in row["answer_choices"]),
                answer_label=answer_label,
                rationale_choices=tuple(renumbered(choice, objects) for choice in row["rationale_choices"]),
                rationale_label=rationale_label,
                family=clean_text(row.get("family")),
            )
        except TagError as error:
            skip("tag without a box", f"{where}: {error}")
    return None


def is_empty(text: list[str | list[int]]) -> bool:
    """Return whether a text has no word and no tag."""
    return not any(clean_text(part) if isinstance(part, str) else part for part in text)


def renumbered(text: list[str | list[int]], objects: Objects) -> TaggedText:
    """Return a text with its tags in the numbers of the usable objects.

    Raises:
        TagError: A tag names an object that is not there or has no usable box.
    """
    parts: list[str | tuple[int, ...]] = []
    for part in text:
        if isinstance(part, str):
            parts.append(clean_text(part))
            continue
        tags = []
        for tag in part:
            number = objects.numbers[tag] if tag in range(len(objects.numbers)) else None
            if number is None:
                raise TagError(f"tag {tag} of {len(objects.numbers)} objects")
            tags.append(number)
        parts.append(tuple(tags))
    return tuple(parts)
