"""What one shard record says: an image with all its boxes, texts, questions, VCR items and statements.

A record lies in a shard as ``KEY.json`` beside ``KEY.jpg`` (or ``.png``): UTF-8, sorted keys, compact
separators. Where the statements are about two images (NLVR2), the right one lies beside them as
``KEY.right.jpg``. Boxes are xyxy, normalised to [0, 1] of the whole image. A *sample* is one text, one question,
one VCR item or one statement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

Kind = Literal["texts", "questions", "vcr", "statements"]  # which list of a record a data set's samples come from
KINDS: tuple[Kind, ...] = get_args(Kind)
Box = tuple[float, float, float, float]
TaggedText = tuple[str | tuple[int, ...], ...]  # words, and tags: the numbers of the objects that are meant

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
        return cls(raw["id"], raw["text"], None if raw["boxes"] is None else tuple(raw["boxes"]))


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
        return cls(raw["id"], raw["question"], tuple(raw["answers"]), raw["answer_type"], raw["question_type"])


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
            raw["id"],
            tagged_text(raw["question"]),
            tuple(map(tagged_text, raw["answer_choices"])),
            raw["answer_label"],
            tuple(map(tagged_text, raw["rationale_choices"])),
            raw["rationale_label"],
            raw["family"],
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
        return cls(raw["id"], raw["text"], raw["label"], raw["group"])


@dataclass(frozen=True)
class Record:
    """An image's annotations; ``names`` lie beside ``boxes`` ("" where the class is not known)."""

    image_id: str  # unique per image, equal for the same image in other data sets
    boxes: tuple[Box, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    questions: tuple[Question, ...] = ()
    vcr: tuple[VCRItem, ...] = ()
    statements: tuple[Statement, ...] = ()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse ``KEY.json``.

        Raises:
            ValueError: No JSON, a key is missing, or a value has another shape; the message says which.
        """
        try:
            raw = json.loads(data)
            return cls(
                image_id=raw["image_id"],
                boxes=tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in raw["boxes"]),
                names=tuple(raw["names"]),
                texts=tuple(map(Text.from_raw, raw["texts"])),
                questions=tuple(map(Question.from_raw, raw["questions"])),
                vcr=tuple(map(VCRItem.from_raw, raw["vcr"])),
                statements=tuple(map(Statement.from_raw, raw["statements"])),
            )
        except KeyError as error:
            raise ValueError(f"key {error} is missing") from error
        except (TypeError, UnicodeDecodeError) as error:
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
        }
        return json.dumps(raw, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    def items(self, kind: Kind) -> tuple[Text | Question | VCRItem | Statement, ...]:
        """Return this record's samples of one kind, in order."""
        match kind:
            case "texts":
                return self.texts
            case "questions":
                return self.questions
            case "vcr":
                return self.vcr
            case "statements":
                return self.statements


def tagged_text(raw: list[str | list[int]]) -> TaggedText:
    """Return VCR's mixed list of words and tags as a tuple."""
    return tuple(part if isinstance(part, str) else tuple(part) for part in raw)
