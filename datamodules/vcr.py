"""Visual commonsense reasoning: questions about tagged objects, four choices each.

A tag becomes the class nouns of its objects; a mention and its object's region carry the same token type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.dataset import BatchBuilder, BatchHead, pad, record_boxes
from datamodules.records import Kind, TaggedText, VCRItem
from datamodules.shards import RawSample, SampleError
from datamodules.tagged import Rendered, nouns, render
from datamodules.texts import Tokens, mark_spans, tokenise
from datamodules.transforms import View
from vle_lightning.batch import IGNORED, DataFacts, Skip, VCRBatch

Mode = Literal["q2a", "qa2r"]
Conditions = Literal["right", "all"]  # the answers that rationales are judged with

CHOICES = 4
TEXT_TYPE, IMAGE_TYPE = 0, 1  # rows of the model's token types (vle_lightning/models/backbone.py)


@dataclass(frozen=True)
class VCRSample:
    """One question on one image, with K choices."""

    pairs: tuple[tuple[Rendered, Rendered], ...]  # what is given, and the choice
    boxes: NDArray[np.float32]  # (N, 4) of all objects, as seen in the view
    seen: NDArray[np.bool_]  # (N,); False on objects that the crop lost
    target: int
    family: str
    question_id: str
    where: str


class VCRBuilder(BatchBuilder[VCRSample, VCRBatch]):
    """Makes batches of four choices, or of four rationales for each of four answers; draws nothing."""

    kind: Kind = "vcr"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        mode: Mode = "q2a",
        first_object_type: int = 2,
        max_objects: int = 10,
        conditions: Conditions = "right",
        object_types: bool = True,
    ) -> None:
        """Prepare the texts' form.

        Args:
            tokenizer: with the fast backend.
            max_length: of a pair in tokens, special ones included.
            mode: q2a gives the question, qa2r question and right answer.
            first_object_type: token type of the first object that a pair mentions; others follow.
            max_objects: objects of a pair that have a token type and a region of their own.
            conditions: of qa2r: "all" gives each of the four answers in turn, and needs no label: 16 choices, number
                answer * 4 + rationale.
            object_types: False gives mentions the texts' token type and regions the image's: nothing then says which
                region a mention means.
        """
        self.tokenizer, self.max_length, self.mode, self.conditions = tokenizer, max_length, mode, conditions
        self.first_object_type, self.max_objects = first_object_type, max_objects
        self.object_types = object_types

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return all words of question, answers and rationales."""
        item = raw.record.vcr[raw.item]
        texts = (item.question, *item.answer_choices, *item.rationale_choices)
        return (word for text in texts for word in text if isinstance(word, str))

    def parse(self, raw: RawSample, view: View) -> VCRSample:
        """Take a question out of its record; an unusable one raises SampleError."""
        boxes, seen = view.move(record_boxes(raw.record, raw.where))
        told = f"{raw.where} ({raw.sample_id})"
        return self.read(raw.record.vcr[raw.item], raw.record.names, boxes, seen, told)

    def read(
        self,
        item: VCRItem,
        names: Sequence[str],
        boxes: NDArray[np.float32],
        seen: NDArray[np.bool_],
        told: str,
    ) -> VCRSample:
        """Turn a question about tagged objects into the pairs of this mode.

        Args:
            item: the question.
            names: class of each of N objects.
            boxes: (N, 4), as seen in the view.
            seen: (N,); False on objects that are not.
            told: where the question is from, for messages.

        Raises:
            SampleError: it cannot be used.
        """
        pairs, target = self._choices(item, told)
        if not all(text for pair in pairs for text in pair):
            raise SampleError("empty text", told)
        tags = {tag for pair in pairs for text in pair for part in text if not isinstance(part, str) for tag in part}
        if wrong := sorted(tag for tag in tags if not 0 <= tag < len(boxes)):
            raise SampleError("bad tag", f"{told}: objects {wrong} are tagged, but there are {len(boxes)}")
        called = nouns(names)
        rendered = tuple((render(given, called), render(choice, called)) for given, choice in pairs)
        return VCRSample(rendered, boxes, seen, IGNORED if target is None else target, item.family, item.id, told)

    def _choices(self, item: VCRItem, told: str) -> tuple[list[tuple[TaggedText, TaggedText]], int | None]:
        """Return what is given and what is chosen, K pairs, and the right one's number if it is known."""
        answers, rationales = item.answer_choices, item.rationale_choices
        answer = _checked(answers, item.answer_label, told)
        if self.mode == "q2a":
            return [(item.question, choice) for choice in answers], answer
        if self.conditions == "right" and answer is None:
            raise SampleError("hidden answer", f"{told}: qa2r needs the right answer, this split hides it")
        rationale = _checked(rationales, item.rationale_label, told)
        if self.conditions == "right" and answer is not None:
            return [(self._with(item.question, answers[answer]), choice) for choice in rationales], rationale
        right = None if answer is None or rationale is None else answer * CHOICES + rationale
        return [(self._with(item.question, given), choice) for given in answers for choice in rationales], right

    def _with(self, question: TaggedText, answer: TaggedText) -> TaggedText:
        return (*question, str(self.tokenizer.sep_token), *answer)

    def collate(self, head: BatchHead, samples: Sequence[VCRSample], rng: np.random.Generator) -> VCRBatch:
        """Make a batch of B samples; objects beyond a pair's ``max_objects`` are reported in ``skipped``."""
        del rng
        count = len(samples[0].pairs)
        pairs = [pair for sample in samples for pair in sample.pairs]
        tags = [sorted(given.tags | choice.tags) for given, choice in pairs]
        types = [{tag: self.first_object_type + i for i, tag in enumerate(found[: self.max_objects])} for found in tags]
        mentioned, joined = (types, types) if self.object_types else (_all(TEXT_TYPE, types), _all(IMAGE_TYPE, types))
        tokens, token_types = self._texts(pairs, mentioned)
        regions, valid, region_types = (_by_sample(part, count) for part in self._regions(samples, joined))
        beyond = tuple(
            Skip(
                "object beyond data.max_objects",
                f"{samples[row // count].where}, choice {row % count}: object {tag}",
                lost=False,
            )
            for row, found in enumerate(tags)
            for tag in found[self.max_objects :]
        )
        return VCRBatch(
            **{**vars(head), "skipped": head.skipped + beyond},
            input_ids=_by_sample(tokens.input_ids, count),
            attention_mask=_by_sample(tokens.attention_mask, count),
            texts=tuple(_told(sample) for sample in samples),
            token_types=_by_sample(token_types, count),
            regions=regions,
            region_valid=valid,
            region_types=region_types,
            targets=torch.tensor([sample.target for sample in samples]),
            families=tuple(sample.family for sample in samples),
            question_ids=tuple(sample.question_id for sample in samples),
        )

    def _texts(
        self, pairs: Sequence[tuple[Rendered, Rendered]], types: Sequence[dict[int, int]]
    ) -> tuple[Tokens, Tensor]:
        """Tokenise N pairs, and give each token (N, T) the type of the object that it mentions."""
        given, choices = zip(*pairs, strict=True)
        tokens = tokenise(
            self.tokenizer,
            [side.text for side in given],
            self.max_length,
            [side.text for side in choices],
        )
        first, second = (
            tokens.spread(
                mark_spans(
                    [text.typed(known) for text, known in zip(side, types, strict=True)],
                    max(len(text.text) for text in side),
                )
            )
            for side in (given, choices)
        )
        return tokens, torch.from_numpy(np.where(tokens.second, second, first))

    def _regions(self, samples: Sequence[VCRSample], types: Sequence[dict[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (KB, R, 4), validity (KB, R) and token types (KB, R) of each pair's objects."""
        owners = [sample for sample in samples for _ in sample.pairs]
        numbers = [list(known) for known in types]
        return (
            pad([owner.boxes[found] for owner, found in zip(owners, numbers, strict=True)], 0, torch.float32),
            pad([owner.seen[found] for owner, found in zip(owners, numbers, strict=True)], 0, torch.bool),
            pad([np.array(list(known.values())) for known in types], 0, torch.int64),
        )


def _checked(choices: tuple[TaggedText, ...], label: int | None, told: str) -> int | None:
    if len(choices) != CHOICES or not (label is None or 0 <= label < CHOICES):
        raise SampleError("bad choices", f"{told}: {len(choices)} choices, label {label}; {CHOICES} are needed")
    return label


def _all(token_type: int, types: Sequence[dict[int, int]]) -> list[dict[int, int]]:
    """Give the objects of each pair one and the same token type."""
    return [dict.fromkeys(known, token_type) for known in types]


def _by_sample(pairs: Tensor, count: int) -> Tensor:
    return pairs.view(-1, count, *pairs.shape[1:])


def _told(sample: VCRSample) -> str:
    return f"{sample.pairs[0][0].text} | " + " / ".join(choice.text for _, choice in sample.pairs[:CHOICES])


class VCRDataModule(VisionLanguageDataModule[VCRSample, VCRBatch]):
    """Questions with four answers, or with the right answer and four rationales."""

    task: ClassVar[str] = "vcr"
    kind: ClassVar[Kind] = "vcr"

    def __init__(
        self,
        *,
        mode: Mode = "q2a",
        first_object_type: int = 2,
        max_objects: int = 10,
        conditions: Conditions = "right",
        object_types: bool = True,
        **common: Any,  # noqa: ANN401 (the options of the base class)
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            mode: q2a chooses the answer, qa2r the rationale of the right answer.
            first_object_type: token type of the first object that a pair mentions; others follow.
            max_objects: objects of a pair that have a token type of their own; the model has that many.
            conditions: of qa2r; "all" judges, outside of training, the rationales given each of the four answers, 16
                choices a question, as the leaderboard asks for where it hides the right one. Scores are of the right
                answer's rationales all the same.
            object_types: whether a mention and its region share a token type; without, they carry the plain types of
                texts and images, as an ablation.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.conditions = conditions
        self.mode, self.first_object_type, self.max_objects = mode, first_object_type, max_objects
        self.object_types = object_types

    def check(self) -> None:
        """Check the options as the base class does, and the objects'."""
        super().check()
        if self.first_object_type < 0 or self.max_objects < 0:
            told = f"{self.first_object_type} and {self.max_objects}"
            raise ValueError(f"data.first_object_type and data.max_objects are {told}; neither may be negative")
        if self.conditions == "all" and self.mode != "qa2r":
            raise ValueError(f"data.conditions is all, but data.mode {self.mode}: only qa2r judges rationales")

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        token_types = self.first_object_type + self.max_objects if self.object_types else IMAGE_TYPE + 1
        return super().facts()._replace(mode=self.mode, token_types=token_types)

    def builder(self) -> VCRBuilder:
        """Make what turns records into training batches."""
        return self._builder("right")

    def eval_builder(self) -> VCRBuilder:
        """Make what turns records into batches that are evaluated, under the chosen conditions."""
        return self._builder(self.conditions)

    def _builder(self, conditions: Conditions) -> VCRBuilder:
        objects = self.first_object_type, self.max_objects
        return VCRBuilder(self.tokenizer, self.max_text_length, self.mode, *objects, conditions, self.object_types)


DataModule = VCRDataModule
