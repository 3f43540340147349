"""What one shard record says: an image with all its boxes, texts, questions, VCR items and statements.

A record lies in a shard as ``KEY.json`` beside ``KEY.jpg`` (or ``.png``): UTF-8, sorted keys, compact
separators. Where the statements are about two images (NLVR2), the right one lies beside them as
``KEY.right.jpg``; where the image has a mask, a class number a pixel, it lies beside it as ``KEY.mask.png``. Boxes are
xyxy, normalised to [0, 1] of the whole image. A *sample* is one text, one question, one VCR item, one statement, one
label or one mask; of images alone it is the image. A record of a text alone (a passage) has one text and lies without
an image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

# which list of a record a data set's samples come from; images are samples themselves, passages are texts alone
Kind = Literal["texts", "questions", "vcr", "statements", "labels", "masks", "images", "passages"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LISTS: tuple[Kind, ...] = ("texts", "questions", "vcr", "statements", "labels", "masks")  # of a record
Box = tuple[float, float, float, float]
TaggedText = tuple[str | tuple[int, ...], ...]  # words, and tags: the numbers of the objects that are meant

MOST = 1 << 53  # a side of a box; more is no float
BOX_DECIMALS = 5  # 1e-5 of an image's side is far below a pixel


@dataclass(frozen=True)
class Text:
    """A caption or a phrase."""

    id: str
    text: str
    boxes: tuple[int, ...] | None  # numbers of the boxes that the text mentions; None = not known (no PBC target)

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        boxes = raw["boxes"]
        return cls(string(raw, "id"), string(raw, "text"), None if boxes is None else numbers(boxes, "boxes"))


@dataclass(frozen=True)
class Question:
    """A question with the answers of its annotators (ten in VQAv2; none where they are hidden)."""

    id: str
    question: str
    answers: tuple[str, ...]
    answer_type: str
    question_type: str

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        return cls(
            string(raw, "id"),
            string(raw, "question"),
            strings(raw, "answers"),
            string(raw, "answer_type"),
            string(raw, "question_type"),
        )


@dataclass(frozen=True)
class VCRItem:
    """A question about tagged objects with four answers and four rationales."""

    id: str
    question: TaggedText
    answer_choices: tuple[TaggedText, ...]
    answer_label: int | None  # None where hidden (test)
    rationale_choices: tuple[TaggedText, ...]
    rationale_label: int | None
    family: str  # the kind of question; "" where not known

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        return cls(
            string(raw, "id"),
            tagged_text(raw["question"]),
            tuple(map(tagged_text, listed(raw["answer_choices"], "answer_choices"))),
            label(raw, "answer_label"),
            tuple(map(tagged_text, listed(raw["rationale_choices"], "rationale_choices"))),
            label(raw, "rationale_label"),
            string(raw, "family"),
        )


@dataclass(frozen=True)
class Statement:
    """A sentence that an image (or a pair of them) makes true or false, or that it entails or contradicts."""

    id: str
    text: str
    label: str | None  # "true", "false"; "entailment", "neutral", "contradiction"; None where hidden
    group: str  # statements of one group are the same sentence on other images; "" where there are no groups

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        told = None if raw["label"] is None else string(raw, "label")
        return cls(string(raw, "id"), string(raw, "text"), told, string(raw, "group"))


@dataclass(frozen=True)
class Label:
    """The class of an image."""

    id: str
    label: str | None  # the name of the class; None where hidden

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        return cls(string(raw, "id"), None if raw["label"] is None else string(raw, "label"))


@dataclass(frozen=True)
class Mask:
    """The mask of an image, ``KEY.mask.png`` beside it: a pixel is 0 for no class, or the number of a class from 1."""

    id: str

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON."""
        return cls(string(raw, "id"))


@dataclass(frozen=True)
class WholeImage:
    """The image itself, where that is the sample."""

    id: str = "0"


RecordItem = Text | Question | VCRItem | Statement | Label | Mask | WholeImage
LATER = ("labels", "masks")  # lists that records without any leave out: those made before the kind stay as they are


@dataclass(frozen=True)
class Record:
    """An image's annotations; ``names`` lie beside ``boxes`` ("" where the class is not known)."""

    image_id: str  # unique per image, equal for the same image in other data sets; of a passage, of its text
    boxes: tuple[Box, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    questions: tuple[Question, ...] = ()
    vcr: tuple[VCRItem, ...] = ()
    statements: tuple[Statement, ...] = ()
    labels: tuple[Label, ...] = ()
    masks: tuple[Mask, ...] = ()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse ``KEY.json``.

        Raises:
            ValueError: No JSON, a key is missing, or a value has another shape; the message says which.
        """
        try:
            raw = json.loads(data)
            return cls(
                image_id=string(raw, "image_id"),
                boxes=tuple(map(box_of, listed(raw["boxes"], "boxes"))),
                names=strings(raw, "names"),
                texts=tuple(map(Text.from_raw, listed(raw["texts"], "texts"))),
                questions=tuple(map(Question.from_raw, listed(raw["questions"], "questions"))),
                vcr=tuple(map(VCRItem.from_raw, listed(raw["vcr"], "vcr"))),
                statements=tuple(map(Statement.from_raw, listed(raw["statements"], "statements"))),
                labels=tuple(map(Label.from_raw, listed(raw.get("labels", []), "labels"))),
                masks=tuple(map(Mask.from_raw, listed(raw.get("masks", []), "masks"))),
            )
        except KeyError as error:
            raise ValueError(f"key {error} is missing") from error
        except (TypeError, UnicodeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def to_json(self) -> bytes:
        """Return the bytes of ``KEY.json``: equal records give equal bytes."""
        raw = {
            **vars(self),
            "boxes": [[round(side, BOX_DECIMALS) for side in box] for box in self.boxes],
            "texts": [vars(text) for text in self.texts],
            "questions": [vars(question) for question in self.questions],
            "vcr": [vars(item) for item in self.vcr],
            "statements": [vars(statement) for statement in self.statements],
            "labels": [vars(label) for label in self.labels],
            "masks": [vars(mask) for mask in self.masks],
        }
        raw = {key: value for key, value in raw.items() if value or key not in LATER}
        return json.dumps(raw, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    def items(self, kind: Kind) -> tuple[RecordItem, ...]:
        """Return this record's samples of one kind, in order."""
        match kind:
            case "texts" | "passages":
                return self.texts
            case "questions":
                return self.questions
            case "vcr":
                return self.vcr
            case "statements":
                return self.statements
            case "labels":
                return self.labels
            case "masks":
                return self.masks
            case "images":
                return (WholeImage(),)


def tagged_text(raw: object) -> TaggedText:
    """Return VCR's mixed list of words and tags as a tuple; raises TypeError or ValueError for anything else."""
    return tuple(
        readable(part, "a word") if isinstance(part, str) else numbers(part, "a tag")
        for part in listed(raw, "a tagged text")
    )


def listed(raw: object, name: str) -> list[Any]:
    """Return a list as it is; raises TypeError for anything else."""
    if not isinstance(raw, list):
        raise TypeError(f"{name} is {_shown(raw)}, not iterable as a list")
    return raw


def string(raw: object, key: str) -> str:
    """Return the text under a key; raises TypeError where it is none, ValueError where it is no Unicode."""
    if not isinstance(raw, dict):
        raise TypeError(f"{_shown(raw)} stands where an object with {key} is needed")
    return readable(raw[key], key)


def strings(raw: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return the texts under a key; raises what `string` does."""
    return tuple(readable(value, key) for value in listed(raw[key], key))


def readable(value: object, name: str) -> str:
    """Return a text that tokenizers can read: JSON may hold half a surrogate pair, which they refuse."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {_shown(value)}, not a text")
    if not value.isascii():
        value.encode()
    return value


def numbers(raw: object, name: str) -> tuple[int, ...]:
    """Return the numbers of objects; raises TypeError for anything else."""
    for value in listed(raw, name):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} has {_shown(value)}, not a whole number")
    return tuple(listed(raw, name))


def label(raw: dict[str, Any], key: str) -> int | None:
    """Return the number of the right choice, or None where it is hidden; raises TypeError for anything else."""
    value = raw[key]
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{key} is {_shown(value)}, not a whole number")
    return value


def box_of(raw: object) -> Box:
    """Return the four sides of a box; where they lie is for those to judge who need them."""
    x0, y0, x1, y1 = listed(raw, "a box")
    for side in (x0, y0, x1, y1):
        if isinstance(side, bool) or not isinstance(side, int | float) or (isinstance(side, int) and abs(side) > MOST):
            raise TypeError(f"a box has the side {_shown(side)}, not a number of [0, 1]")
    return x0, y0, x1, y1


def _shown(value: object) -> str:
    """Return the beginning of a value, for messages."""
    told = repr(value)
    return told if len(told) <= 40 else f"{told[:37]}..."
