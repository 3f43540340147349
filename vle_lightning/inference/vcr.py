"""The pipelines on VCR questions: from an annotation in the official layout to the best of four choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.dataset import BatchHead
from datamodules.prepare.raw import clean_text, usable_box
from datamodules.records import TaggedText, VCRItem
from datamodules.shards import SampleError
from datamodules.vcr import VCRBuilder, VCRSample
from vle_lightning.errors import UserError
from vle_lightning.inference.base import Pipeline, Settings, load_task
from vle_lightning.inference.items import Item
from vle_lightning.inference.runs import run_settings
from vle_lightning.inference.vcr_compatible import FIRST_OBJECT_TYPE, PersonNames, VCRInputs, convert, score
from vle_lightning.inference.vcr_layout import Mode, read_annotation, read_boxes, read_extent
from vle_lightning.inference.vcr_texts import MAX_LENGTH
from vle_lightning.tasks.vcr import VCRTask

FIELDS = {"image": "image", "annotation": "annotation", "metadata": "metadata"}
Size = tuple[int, int]
Built = TypeVar("Built")


class VCRPipeline(Pipeline):
    """Chooses the answer to a question about tagged objects, or the rationale of its right answer."""

    def __init__(self, settings: Settings, mode: Mode) -> None:
        """Load a VCR model.

        Args:
            settings: how to run.
            mode: q2a chooses the answer, qa2r the rationale.
        """
        self.task, self.mode = load_task(VCRTask, settings.source, f"vcr_{mode}_logit", mode=mode), mode
        super().__init__(settings, self.task, self.task.model)
        run = None if settings.tokenizer else run_settings(settings.source)
        data = run.data if run else {}
        self.builder = VCRBuilder(
            self.processor.tokenizer,
            int(data.get("max_text_length", MAX_LENGTH)),
            mode,
            int(data.get("first_object_type", FIRST_OBJECT_TYPE)),
            int(data.get("max_objects", self.encoder.token_types.num_embeddings - FIRST_OBJECT_TYPE)),
            object_types=bool(data.get("object_types", True)),
        )
        self.names = PersonNames()  # of the compatible conversion: counts on from call to call, as published

    def __call__(
        self,
        items: object = None,
        *,
        image: object = None,
        annotation: object = None,
        metadata: object = None,
        compatible: bool = False,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each question, {"prediction": number of the best choice, "score": four that sum to 1}.

        Args:
            items: dictionaries with the keywords image, annotation and metadata, in their place.
            image: the picture.
            annotation: ``objects``, ``question``, ``answer_choices``; for qa2r also ``answer_label`` and
                ``rationale_choices``.
            metadata: ``boxes`` in pixels, and the ``width`` and ``height`` that these refer to, by default the
                picture's; without it, the annotation holds them, under ``metadata`` or beside the question.
            compatible: convert as the published pipelines do, defects included (docs/vcr_processing.md): a tagged box
                beyond the edge makes all scores NaN.
            batch_size: questions of a batch.
        """
        if not isinstance(compatible, bool):
            raise UserError(f"compatible is {compatible!r}; give True or False")
        respond = self._answer_compatibly if compatible else self._answer
        return self._run(items, respond, batch_size, FIELDS, image=image, annotation=annotation, metadata=metadata)

    def _answer(self, items: Sequence[Item]) -> list[dict[str, object]]:
        seen = self.look(items)
        sizes = [seen.pictures[row].size for row in seen.rows.tolist()]
        samples = build_each(items, sizes, self._sample)
        head = BatchHead(
            sample_ids=("",) * len(items),
            valid=torch.ones(len(items), dtype=torch.bool),
            step=0,
            number=0,
            skipped=(),
            pixel_values=seen.pixel_values[seen.rows],
        )
        batch = self.builder.collate(head, samples, np.random.default_rng())  # which draws nothing
        return choices(self.finite(self.task(batch.to(self.settings.device))))

    def _sample(self, annotation: Mapping[str, Any], metadata: Mapping[str, Any], size: Size) -> VCRSample:
        found, boxes = read_annotation(annotation, self.mode), read_boxes(metadata)
        if len(found.objects) != len(boxes):
            raise UserError(f"there are {len(found.objects)} objects, but {len(boxes)} boxes; give one box per object")
        extent = read_extent(metadata, size)
        usable = [usable_box(box, extent, "", lambda *_: None) for box in boxes]
        nowhere = (0.0, 0.0, 0.0, 0.0)
        placed, kept = self.processor.view(size).move(np.array([box or nowhere for box in usable]).reshape(-1, 4))
        question = VCRItem(
            id="",
            question=cleaned(found.question, "question"),
            answer_choices=cleaned_each(found.answer_choices, "answer_choices"),
            answer_label=found.answer_label,
            rationale_choices=cleaned_each(found.rationale_choices, "rationale_choices"),
            rationale_label=found.rationale_label,
            family="",
        )
        seen = kept & np.array([box is not None for box in usable], dtype=np.bool_)
        return self.builder.read(question, found.objects, placed, seen, "the annotation")

    def _answer_compatibly(self, items: Sequence[Item]) -> list[dict[str, object]]:
        seen = self.look(items)
        grid = self.encoder.layout.grid(seen.pixel_values)

        def build(annotation: Mapping[str, Any], metadata: Mapping[str, Any], size: Size) -> VCRInputs:
            tokenizer = self.processor.tokenizer
            return convert(annotation, metadata, size, self.mode, tokenizer, grid=grid, names=self.names)

        inputs = build_each(items, [seen.pictures[row].size for row in seen.rows.tolist()], build)
        return choices(score(self.task, inputs, seen.pixel_values[seen.rows]))


def build_each(
    items: Sequence[Item],
    sizes: Sequence[Size],
    build: Callable[[Mapping[str, Any], Mapping[str, Any], Size], Built],
) -> list[Built]:
    """Build something of each item's annotation, metadata and picture size; what is wrong names its item."""
    built = []
    for item, size in zip(items, sizes, strict=True):
        try:
            built.append(build(*parts_of(item), size))
        except (SampleError, UserError) as error:
            raise UserError(f"{item.place}{error}") from error
    return built


def parts_of(item: Item) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return annotation and metadata.

    Raises:
        UserError: one of them is missing or no dictionary.
    """
    annotation = item.annotation
    if not isinstance(annotation, Mapping):
        raise UserError("the annotation is missing or no dictionary; give one in VCR's layout")
    metadata = annotation.get("metadata", annotation) if item.metadata is None else item.metadata
    if not isinstance(metadata, Mapping) or "boxes" not in metadata:
        raise UserError("the metadata are missing; give a dictionary with 'boxes', in VCR's layout")
    return annotation, metadata


def cleaned(text: TaggedText, field: str) -> TaggedText:
    """Write the words of a text as preparation does.

    Raises:
        UserError: there are none, and no tags.
    """
    if not text:
        raise UserError(f"{field}: an empty text; give words")
    return tuple(clean_text(part) if isinstance(part, str) else part for part in text)


def cleaned_each(texts: Sequence[TaggedText], field: str) -> tuple[TaggedText, ...]:
    """Do so with each of several texts."""
    return tuple(cleaned(text, f"{field}[{number}]") for number, text in enumerate(texts))


def choices(logits: Tensor) -> list[dict[str, object]]:
    """Turn logits (B, 4) into results."""
    scores = logits.float().softmax(-1)
    return [
        {"prediction": best, "score": row}
        for best, row in zip(logits.argmax(-1).tolist(), scores.tolist(), strict=True)
    ]
